package emulator_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
	"ringback.dev/internal/genai"
)

// answer is the text that a request in JSON gets.
func answer(t *testing.T, b *emulator.Backend, body string) (string, *genai.GenerateContentResponse) {
	t.Helper()
	q := &backend.Request{Model: "m", Body: &genai.GenerateContentRequest{}}
	if err := genai.Decode([]byte(body), q.Body); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	r, err := b.Generate(t.Context(), q)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	p := r.Candidates[0].Content.Parts[0]
	if p.Text == nil {
		t.Fatalf("%s: no text in %+v", body, p)
	}
	return *p.Text, r
}

// TestSamples holds the emulator to the keywords that docs/emulator.md names.
func TestSamples(t *testing.T) {
	for schema, want := range map[string]string{
		`{"type":"OBJECT","properties":{"a":{"type":"STRING"},"b":{"type":"INTEGER"}}}`:                    `{"a":"emulated","b":1}`,
		`{"type":"OBJECT","properties":{"a":{"type":"STRING"},"b":{"type":"INTEGER"}},"required":["b"]}`:   `{"b":1}`,
		`{"properties":{"a":{"type":"BOOLEAN"}}}`:                                                          `{"a":true}`,
		`{"type":"ARRAY","items":{"type":"NUMBER","minimum":2.5}}`:                                         `[2.5]`,
		`{"type":"ARRAY","items":{"type":"STRING","enum":["x","y"]},"minItems":3}`:                         `["x","x","x"]`,
		`{"type":"STRING","enum":["b","a"]}`:                                                               `"b"`,
		`{"anyOf":[{"type":"OBJECT","properties":{"k":{"type":"NULL"}}},{"type":"STRING"}]}`:               `{"k":null}`,
		`{"type":"STRING","nullable":true}`:                                                                `"emulated"`,
		`{"type":"ARRAY","items":{"type":"OBJECT","properties":{"l":{"type":"ARRAY","items":{}}}}}`:        `[{"l":["emulated"]}]`,
		`{"type":"OBJECT","properties":{"c":{"const":{"v":1}},"o":{"oneOf":[{"type":"integer"}]}}}`:        `{"c":{"v":1},"o":1}`,
		`{"type":"OBJECT","properties":{"a":{"allOf":[{"type":"integer","minimum":7},{"maximum":9}]}}}`:    `{"a":7}`,
		`{"type":"OBJECT","properties":{"a":true,"b":{"type":"STRING"}},"required":["b"],"nullable":true}`: `{"b":"emulated"}`,
	} {
		if got, _ := answer(t, emulator.New(nil), `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"responseSchema":`+schema+`}}`); got != want {
			t.Errorf("%s: got %s, want %s", schema, got, want)
		}
	}
	// Without a schema the JSON itself says where it comes from.
	if got, _ := answer(t, emulator.New(nil), `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"responseMimeType":"application/json"}}`); !strings.Contains(got, "no model ran") || !json.Valid([]byte(got)) {
		t.Errorf("got %s", got)
	}
}

// TestBadSchemas: a schema that is none is the caller's fault.
func TestBadSchemas(t *testing.T) {
	for body, field := range map[string]string{
		`{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"responseSchema":[1]}}`:                                                 "responseSchema",
		`{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"responseJsonSchema":"s"}}`:                                             "responseSchema",
		`{"contents":[{"parts":[{"text":"call lookup"}]}],"tools":[{"functionDeclarations":[{"name":"lookup","parameters":1}]}]}`:           "lookup",
		`{"contents":[{"parts":[{"text":"call lookup"}]}],"tools":[{"functionDeclarations":[{"name":"lookup","parametersJsonSchema":1}]}]}`: "lookup",
	} {
		q := &backend.Request{Model: "m", Body: &genai.GenerateContentRequest{}}
		if err := genai.Decode([]byte(body), q.Body); err != nil {
			t.Fatal(err)
		}
		_, err := emulator.New(nil).Generate(t.Context(), q)
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != backend.InvalidRequest || !strings.Contains(e.Message, field) {
			t.Errorf("%s: got %v", body, err)
		}
	}
}

// TestCut: a text is cut after four bytes for each token, never within a
// character, and what is not cut ends as usual.
func TestCut(t *testing.T) {
	b := scenario(t, "rules:\n  - text: ééé€€€\n") // 15 bytes.
	for limit, want := range map[string]string{"0": "", "1": "éé", "2": "ééé", "3": "ééé€€", "4": "ééé€€€"} {
		got, r := answer(t, b, `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"maxOutputTokens":`+limit+`}}`)
		reason := genai.FinishMaxTokens
		if limit == "4" {
			reason = genai.FinishStop
		}
		if got != want || !utf8.ValidString(got) || r.Candidates[0].FinishReason != reason {
			t.Errorf("limit %s: got %q, %s, want %q, %s", limit, got, r.Candidates[0].FinishReason, want, reason)
		}
	}
}

// TestDigest: what differs anywhere in the request differs in the answer.
func TestDigest(t *testing.T) {
	seen := make(map[string]string)
	for _, body := range []string{
		`{"contents":[{"parts":[{"text":"x"}]}]}`, `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"temperature":0.5}}`,
		`{"contents":[{"parts":[{"text":"y"}]},{"role":"model","parts":[{"text":"z"}]},{"parts":[{"text":"x"}]}]}`,
		`{"contents":[{"parts":[{"text":"x"},{"inlineData":{"data":"AA=="}}]}]}`, `{"contents":[{"parts":[{"text":"x"}]}],"systemInstruction":{"parts":[{"text":"x"}]}}`,
	} {
		text, r := answer(t, emulator.New(nil), body)
		if other, ok := seen[text]; ok {
			t.Errorf("%s and %s get the same answer", body, other)
		}
		seen[text] = body
		if !strings.HasPrefix(text, "[ringback emulator]") || !strings.Contains(text, r.ResponseID) {
			t.Errorf("%s: got %q, response id %s", body, text, r.ResponseID)
		}
	}
}

// TestResults: the turn that brings several results is told of each.
func TestResults(t *testing.T) {
	text, _ := answer(t, emulator.New(nil), `{"tools":[{"functionDeclarations":[{"name":"f"}]}],"toolConfig":{"functionCallingConfig":{"mode":"ANY"}},"contents":[{"parts":[{"text":"f"}]},
		{"role":"user","parts":[{"functionResponse":{"name":"f","response":{"v":1}}},{"functionResponse":{"name":"g","response":{"w":2}}}]}]}`)
	if !strings.Contains(text, `f returned {"v":1}`) || !strings.Contains(text, `g returned {"w":2}`) {
		t.Errorf("got %q", text)
	}
}

// TestThoughtAndCalls: a thought comes first, calls that are alike differ in their
// ids, and a stream says the same, in pieces if they are wanted.
func TestThoughtAndCalls(t *testing.T) {
	b := scenario(t, "rules:\n  - {thought: one two, function_calls: [{name: f, args: {a: 1, b: x}}, {name: f, args: {a: 1, b: x}}, {name: g}]}\n")
	r, err := b.Generate(t.Context(), ask("m", "x"))
	if err != nil {
		t.Fatal(err)
	}
	whole := r.Candidates[0].Content.Parts
	if len(whole) != 4 || !whole[0].Thought || *whole[0].Text != "one two" || whole[0].ThoughtSignature == "" {
		t.Fatalf("got %+v", whole)
	}
	ids := make(map[string]bool)
	for _, p := range whole[1:] {
		ids[p.FunctionCall.ID] = true
	}
	if len(ids) != 3 || string(whole[2].FunctionCall.Args) != `{"a":1,"b":"x"}` || string(whole[3].FunctionCall.Args) != "{}" {
		t.Errorf("got calls %+v, %+v, %+v", whole[1].FunctionCall, whole[2].FunctionCall, whole[3].FunctionCall)
	}
	for _, pieces := range []bool{false, true} {
		q := ask("m", "x")
		q.Pieces = pieces
		var told []genai.Part
		var last *genai.GenerateContentResponse
		chunks := 0
		for chunk, err := range b.Stream(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			last = chunk
			chunks++
			p := chunk.Candidates[0].Content.Parts[0]
			switch {
			case p.Thought && len(told) > 0:
				text := *told[0].Text + *p.Text
				told[0].Text, told[0].ThoughtSignature = &text, p.ThoughtSignature
			case p.CallPiece == nil:
				told = append(told, p)
			default:
				if p.CallPiece.Index == len(told)-1 {
					told = append(told, genai.Part{FunctionCall: &genai.FunctionCall{ID: p.CallPiece.ID, Name: p.CallPiece.Name}})
				}
				f := told[p.CallPiece.Index+1].FunctionCall
				f.Args = append(f.Args, p.CallPiece.Arguments...)
			}
		}
		got, err := json.Marshal(told)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) || last.UsageMetadata == nil || last.Candidates[0].FinishReason != genai.FinishStop {
			t.Errorf("pieces %v:\n got %s\nwant %s", pieces, got, want)
		}
		if n := map[bool]int{false: 5, true: 11}[pieces]; chunks != n {
			t.Errorf("pieces %v: %d chunks, want %d", pieces, chunks, n)
		}
	}
	text, _ := answer(t, b, `{"contents":[{"parts":[{"text":"x"}]},{"parts":[{"functionResponse":{"name":"f","response":{"v":1}}}]}]}`)
	if !strings.HasPrefix(text, "[ringback emulator]") {
		t.Errorf("with a result: got %q", text)
	}
}

func TestStreamIsLeftEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := scenario(t, "rules:\n  - {text: one two three, delay: 1m, chunk_delay: 1h}\n")
		reason := errors.New("cancelled by its owner")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer time.AfterFunc(90*time.Minute, func() { cancel(reason) }).Stop()
		begin, words := time.Now(), 0
		var last error
		for _, err := range b.Stream(ctx, ask("m", "x")) {
			if last = err; err == nil {
				words++
			}
		}
		if !errors.Is(last, reason) || words != 2 || time.Since(begin) != 90*time.Minute {
			t.Errorf("%d words and %v after %s", words, last, time.Since(begin))
		}
	})
}

func TestLoadScenario(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.yaml")
	if _, err := emulator.LoadScenario(file); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte("rules:\n  - text: hi\n    dealy: 1s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := emulator.LoadScenario(file); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "line 3") || !strings.Contains(err.Error(), "dealy") {
		t.Errorf("an unknown key: %v", err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := emulator.LoadScenario(file); err != nil || len(s.Rules) != 0 {
		t.Errorf("an empty file: %v, %v", s, err)
	}
}

func TestModelsAndTokens(t *testing.T) {
	models, err := emulator.New(nil).Models(t.Context())
	if err != nil || len(models) != 1 || models[0].Name != "models/"+emulator.Name || !strings.Contains(models[0].Description, "No model") {
		t.Errorf("got %+v, %v", models, err)
	}
	q := ask("m", "12345678")
	n, err := emulator.New(nil).CountTokens(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := emulator.New(nil).Generate(t.Context(), q); err != nil || n != 2 || r.UsageMetadata.PromptTokenCount != n {
		t.Errorf("counted %d, used %+v, %v", n, r.UsageMetadata, err)
	}
}

// TestHugeSample: a schema that multiplies is refused, and costs next to nothing.
func TestHugeSample(t *testing.T) {
	schema := strings.Repeat(`{"type":"array","minItems":16,"items":`, 20) + `{"type":"integer"}` + strings.Repeat("}", 20)
	q := ask("m", "x")
	q.Body.GenerationConfig = &genai.GenerationConfig{ResponseJSONSchema: json.RawMessage(schema)}
	var e *backend.Error
	if _, err := emulator.New(nil).Generate(t.Context(), q); !errors.As(err, &e) || e.Kind != backend.InvalidRequest {
		t.Errorf("got %v", err)
	}
}

// TestNothingAfterTheEnd: the last chunk is the end, whatever happens to the
// context while the words would come.
func TestNothingAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := scenario(t, "rules:\n  - {text: one two, chunk_delay: 1h}\n")
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Minute)
		defer cancel()
		for _, err := range b.Stream(ctx, ask("m", "x")) {
			if err != nil {
				t.Errorf("got %v", err)
			}
		}
	})
}
