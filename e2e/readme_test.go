package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// blocks returns the code blocks of a document in a language.
func blocks(t *testing.T, document, language string) []string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	return found
}

// TestReadme runs the README's programs as a newcomer would, only on another
// port: register and submit, start the receiver, see the callback verified.
func TestReadme(t *testing.T) {
	js, py := blocks(t, "../README.md", "js"), blocks(t, "../README.md", "python")
	if len(js) != 2 || len(py) != 1 {
		t.Fatalf("the README has %d programs in JavaScript and %d in Python; this test knows 2 and 1", len(js), len(py))
	}
	s := dev(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	for i := range js {
		if !strings.Contains(js[i], "3000") {
			t.Fatalf("program %d does not name port 3000", i+1)
		}
		js[i] = strings.ReplaceAll(js[i], "3000", port)
	}
	for _, release := range []string{"genai3", "genai2"} {
		t.Run(release, func(t *testing.T) {
			dir := jsFolder(t, release)
			for i, program := range js {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("readme%d.mjs", i)), []byte(program), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_ = l.Close() // The port is the receiver's from here on.
			out := runner(t, dir, env(s), node(t), "readme0.mjs")
			m := regexp.MustCompile(`(?s)WEBHOOK_SECRET=(whsec_\S+)\n(v1_\S+) in_progress`).FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("unexpected output:\n%s", out)
			}
			cmd := exec.Command(node(t), "readme1.mjs")
			cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), "WEBHOOK_SECRET="+m[1]), os.Stderr
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			// The first attempt found nobody; the retry comes after five seconds.
			lines := bufio.NewScanner(pipe)
			if !lines.Scan() || lines.Text() != "interaction.completed "+m[2] {
				t.Errorf("the receiver printed %q", lines.Text())
			}
		})
	}

	c := goClient(t, s, "any")
	r := receive(t)
	w := register(t, c, r.URI)
	ping(t, c, *w.ID)
	got := r.wait(t, "ping", *w.ID)
	program := fmt.Sprintf("secret, raw_body, headers = %q, %q, {%q: %q, %q: %q, %q: %q}\n%s\nprint(event['type'])\n", *w.NewSigningSecret, got.Body,
		"webhook-id", got.Header.Get("webhook-id"), "webhook-timestamp", got.Header.Get("webhook-timestamp"),
		"webhook-signature", got.Header.Get("webhook-signature"), py[0])
	if out := runner(t, t.TempDir(), nil, filepath.Join(cache(t, "python3"), "bin", "python"), "-c", program); strings.TrimSpace(out) != "ping" {
		t.Errorf("the Python program printed %q", out)
	}
}

// TestBatchesDocument runs the programs of docs/batches.md.
func TestBatchesDocument(t *testing.T) {
	js, py := blocks(t, "../docs/batches.md", "js"), blocks(t, "../docs/batches.md", "python")
	if len(js) != 1 || len(py) != 2 {
		t.Fatalf("the document has %d programs in JavaScript and %d in Python; this test knows 1 and 2", len(js), len(py))
	}
	s := dev(t)
	c := goClient(t, s, "any")
	r := receive(t)
	register(t, c, r.URI)
	created := regexp.MustCompile(`(batches/[a-z0-9]+) JOB_STATE_`)
	for _, release := range []string{"genai3", "genai2"} {
		dir := jsFolder(t, release)
		if err := os.WriteFile(filepath.Join(dir, "batches.mjs"), []byte(js[0]), 0o644); err != nil {
			t.Fatal(err)
		}
		out := runner(t, dir, env(s), node(t), "batches.mjs")
		if m := created.FindStringSubmatch(out); m == nil {
			t.Errorf("%s printed %q", release, out)
		} else {
			r.wait(t, "batch.succeeded", m[1])
		}
	}
	for _, release := range []string{"python3", "python2"} {
		python := filepath.Join(cache(t, release), "bin", "python")
		dir := t.TempDir()
		m := created.FindStringSubmatch(runner(t, dir, env(s), python, "-c", py[0]))
		if m == nil {
			t.Fatalf("%s: the first program printed no batch", release)
		}
		r.wait(t, "batch.succeeded", m[1])
		out := runner(t, dir, env(s), python, "-c", fmt.Sprintf("%s\non_event({'data': {'id': %q}})\n", py[1], m[1]))
		if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 100 || !strings.HasPrefix(lines[99], "chapter-100 [ringback emulator]") {
			t.Errorf("%s: the second program printed %d lines: %s", release, len(lines), out)
		}
	}
}

// TestInteractionsDocument runs the programs of docs/interactions.md.
func TestInteractionsDocument(t *testing.T) {
	js, py := blocks(t, "../docs/interactions.md", "js"), blocks(t, "../docs/interactions.md", "python")
	if len(js) != 1 || len(py) != 1 {
		t.Fatalf("the document has %d programs in JavaScript and %d in Python; this test knows 1 and 1", len(js), len(py))
	}
	s := dev(t)
	const said = "[ringback emulator] No model ran. gemini-3.6-flash was asked \"Tell me about queues.\""
	for _, release := range []string{"genai3", "genai2"} {
		dir := jsFolder(t, release)
		if err := os.WriteFile(filepath.Join(dir, "stream.mjs"), []byte(js[0]), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := runner(t, dir, env(s), node(t), "stream.mjs"); !strings.HasPrefix(out, said) || !strings.HasSuffix(out, "\ncompleted\n") {
			t.Errorf("%s printed %q", release, out)
		}
	}
	for _, release := range []string{"python3", "python2"} {
		python := filepath.Join(cache(t, release), "bin", "python")
		if out := runner(t, t.TempDir(), env(s), python, "-c", py[0]); !strings.HasPrefix(out, said) || strings.Count(out, "emulator") != 1 {
			t.Errorf("%s printed %q", release, out)
		}
	}
}

// TestVideosDocument runs the programs of docs/videos.md.
func TestVideosDocument(t *testing.T) {
	js, py := blocks(t, "../docs/videos.md", "js"), blocks(t, "../docs/videos.md", "python")
	if len(js) != 2 || len(py) != 2 {
		t.Fatalf("the document has %d programs in JavaScript and %d in Python; this test knows 2 and 2", len(js), len(py))
	}
	s := dev(t)
	printed := regexp.MustCompile(`^completed video/mp4 http://[^ ]+/v1beta/files/[a-z0-9]{26}:download\?alt=media\n$`)
	for _, release := range []string{"genai3", "genai2"} {
		dir := jsFolder(t, release)
		if err := os.WriteFile(filepath.Join(dir, "video.mjs"), []byte(js[1]), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := runner(t, dir, env(s), node(t), "video.mjs"); !printed.MatchString(out) {
			t.Errorf("%s printed %q", release, out)
		}
	}
	c := goClient(t, s, "any")
	r := receive(t)
	register(t, c, r.URI)
	created := regexp.MustCompile(`(models/veo-3.1-generate-preview/operations/[a-z0-9]+) [Ff]alse`)
	dir := jsFolder(t, "genai2")
	for name, text := range map[string]string{"videos.mjs": js[0], "street.png": "\x89PNG\r\n\x1a\n and so on"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	own := receive(t)
	out := runner(t, dir, append(env(s), "CALLBACK="+own.URI), node(t), "videos.mjs")
	if m := created.FindStringSubmatch(out); m == nil {
		t.Errorf("the program in JavaScript printed %q", out)
	} else if got := own.wait(t, "video.generated", m[1]); !strings.Contains(string(got.Body), `"user_metadata":{"reel":7}`) {
		t.Errorf("the callback: %s", got.Body)
	}
	python := filepath.Join(cache(t, "python2"), "bin", "python")
	out = runner(t, dir, env(s), python, "-c", py[0])
	m := created.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("the first program in Python printed %q", out)
	}
	r.wait(t, "video.generated", m[1])
	runner(t, dir, env(s), python, "-c", fmt.Sprintf("%s\non_event({'data': {'id': %q}})\n", py[1], m[1]))
	for i := 1; i <= 2; i++ {
		if data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("cat-%d.mp4", i))); err != nil || !strings.Contains(string(data), fmt.Sprintf("(video %d of 2", i)) {
			t.Errorf("video %d: %d bytes, %v", i, len(data), err)
		}
	}
}
