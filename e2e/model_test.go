//go:build model

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genai"
)

// modelServer runs llama.cpp's OpenAI-compatible server with a small model. It
// ends when its standard input does.
func modelServer(t *testing.T) (url string) {
	t.Helper()
	python, err := exec.Command("../scripts/setup-model.sh").Output()
	if err != nil {
		t.Fatalf("scripts/setup-model.sh: %v", err)
	}
	cmd := exec.Command(strings.TrimSpace(string(python)), "../scripts/model-server.py")
	log, err := os.Create(filepath.Join(t.TempDir(), "model.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill() // A model under way is not worth waiting for.
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if url, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			go func() { _, _ = io.Copy(io.Discard, out) }() // Ends with the process.
			return url
		}
	}
	text, _ := os.ReadFile(log.Name())
	t.Fatalf("the model server does not start:\n%s", text)
	return ""
}

// TestModel asks a real model through the server: synchronously with the Go SDK,
// streaming, and in the background with the JavaScript SDK, whose callback is
// verified with the Standard Webhooks library.
func TestModel(t *testing.T) {
	s := dev(t, "--openai-url", modelServer(t)+"/v1")
	c := goClient(t, s, "any")
	config := &genai.GenerateContentConfig{MaxOutputTokens: 24, Temperature: genai.Ptr[float32](0)}
	own := func(text string) string {
		t.Helper()
		if text = strings.TrimSpace(text); text == "" || strings.Contains(text, "emulator") {
			t.Fatalf("this is not a model's text: %q", text)
		}
		return text
	}

	answer := must[*genai.GenerateContentResponse](t)(c.Models.GenerateContent(t.Context(), "gemma-3-270m", genai.Text("The capital of France is"), config))
	fmt.Printf("model: generateContent: %q, %d tokens\n", own(answer.Text()), answer.UsageMetadata.CandidatesTokenCount)
	if answer.UsageMetadata.CandidatesTokenCount == 0 || answer.UsageMetadata.PromptTokenCount == 0 {
		t.Errorf("the usage is missing: %+v", answer.UsageMetadata)
	}

	var text strings.Builder
	chunks := 0
	for chunk, err := range c.Models.GenerateContentStream(t.Context(), "gemma-3-270m", genai.Text("One, two, three,"), config) {
		text.WriteString(must[*genai.GenerateContentResponse](t)(chunk, err).Text())
		chunks++
	}
	fmt.Printf("model: streamGenerateContent: %q in %d chunks\n", own(text.String()), chunks)
	if chunks < 3 {
		t.Errorf("the answer came in %d chunks", chunks)
	}

	dir := jsFolder(t, "genai3", "js/model.mjs")
	out := runner(t, dir, append(env(s), "MODEL=gemma-3-270m"), node(t), "model.mjs")
	said, ok := strings.CutPrefix(strings.TrimSpace(out), "verified ")
	if !ok {
		t.Fatalf("unexpected output:\n%s", out)
	}
	fmt.Printf("model: background interaction, callback verified: %s\n", own(said))
}

// TestModelBatch runs a batch of 100 rows on a real model, from the upload to the
// reading of the results, with the Python SDK; the callback is verified with the
// Standard Webhooks library.
func TestModelBatch(t *testing.T) {
	s := dev(t, "--openai-url", modelServer(t)+"/v1")
	out := runner(t, "python", append(env(s), "MODEL=gemma-3-270m"), filepath.Join(cache(t, "python3"), "bin", "python"), "model_batch.py", filepath.Join(t.TempDir(), "in.jsonl"))
	if !strings.HasPrefix(out, "verified 100 rows") || strings.Contains(out, "emulator") {
		t.Fatalf("unexpected output:\n%s", out)
	}
	fmt.Printf("model: batch, callback verified, results read: %s\n", strings.TrimSpace(out))
}

// TestModelStream streams interactions from a real model with the JavaScript SDK:
// text, and JSON that satisfies a schema. The model is a base model, which calls no
// functions.
func TestModelStream(t *testing.T) {
	s := dev(t, "--openai-url", modelServer(t)+"/v1")
	dir := jsFolder(t, "genai3", "js/model_stream.mjs")
	out := runner(t, dir, append(env(s), "MODEL=gemma-3-270m"), node(t), "model_stream.mjs")
	type heard struct {
		Text, Status   string
		Deltas, Tokens int
	}
	for line := range strings.Lines(out) {
		kind, data, _ := strings.Cut(strings.TrimSpace(line), " ")
		var h heard
		if err := json.Unmarshal([]byte(data), &h); err != nil {
			t.Fatalf("unexpected output:\n%s", out)
		}
		var object map[string]any
		switch kind {
		case "text":
			if h.Deltas < 3 || h.Tokens == 0 || strings.TrimSpace(h.Text) == "" || strings.Contains(h.Text, "emulator") || h.Status != "incomplete" && h.Status != "completed" {
				t.Errorf("text: %+v", h)
			}
			fmt.Printf("model: streamed text: %q in %d deltas, %s\n", h.Text, h.Deltas, h.Status)
		case "json":
			if err := json.Unmarshal([]byte(h.Text), &object); err != nil || object["city"] == nil || object["population"] == nil || h.Status != "completed" {
				t.Errorf("json: %+v, %v", h, err)
			}
			fmt.Printf("model: streamed JSON by a schema: %s in %d deltas\n", h.Text, h.Deltas)
		}
	}
	if n := strings.Count(out, "\n"); n != 2 {
		t.Errorf("%d lines of output", n)
	}
}
