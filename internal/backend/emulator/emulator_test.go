package emulator_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/backendtest"
	"ringback.dev/internal/backend/emulator"
	"ringback.dev/internal/genai"
)

func scenario(t *testing.T, text string) *emulator.Backend {
	t.Helper()
	s, err := emulator.ReadScenario(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return emulator.New(s)
}

func TestSuite(t *testing.T) {
	backendtest.Run(t, scenario(t, `rules:
  - match: {model: call}
    function_call: {name: get_weather, args: {city: Paris}}
  - match: {model: fail}
    error: {kind: unavailable}
  - match: {model: hang}
    delay: 1h
`))
}

func ask(model, prompt string) *backend.Request {
	return &backend.Request{Model: model, Body: &genai.GenerateContentRequest{Contents: []genai.Content{{Parts: []genai.Part{genai.TextPart(prompt)}}}}}
}

func TestHonestAndDeterministic(t *testing.T) {
	b := emulator.New(nil)
	first, err := b.Generate(t.Context(), ask("gemini-9", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Generate(t.Context(), ask("gemini-9", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	text := *first.Candidates[0].Content.Parts[0].Text
	if !strings.Contains(text, "ringback emulator") || !strings.Contains(text, "No model ran") || first.ModelVersion != emulator.Name {
		t.Errorf("the emulator passes for a model: %q, %s", text, first.ModelVersion)
	}
	if *again.Candidates[0].Content.Parts[0].Text != text {
		t.Error("the same request got another answer")
	}
}

func TestFunctionByNameAndMode(t *testing.T) {
	q := ask("m", "please use lookup now")
	q.Body.Tools = []genai.Tool{{FunctionDeclarations: []genai.FunctionDeclaration{{Name: "other"}, {Name: "lookup",
		ParametersJSONSchema: json.RawMessage(`{"type":"object","required":["q"],"properties":{"q":{"enum":["a","b"]},"n":{"type":"integer"}}}`)}}}}
	r, err := emulator.New(nil).Generate(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Candidates[0].Content.Parts[0].FunctionCall; c == nil || c.Name != "lookup" || string(c.Args) != `{"q":"a"}` {
		t.Errorf("unexpected call %+v", c)
	}
	q.Body.ToolConfig = &genai.ToolConfig{FunctionCallingConfig: &genai.FunctionCallingConfig{Mode: "NONE"}}
	if r, err = emulator.New(nil).Generate(t.Context(), q); err != nil || r.Candidates[0].Content.Parts[0].FunctionCall != nil {
		t.Errorf("a call although the mode is NONE: %v", err)
	}
	q.Body.ToolConfig.FunctionCallingConfig.Mode = "ANY"
	if r, err = emulator.New(nil).Generate(t.Context(), q); err != nil || r.Candidates[0].Content.Parts[0].FunctionCall.Name != "other" {
		t.Errorf("mode ANY: %v", err)
	}
}

func TestRateLimitThenNormal(t *testing.T) {
	b := scenario(t, "rules:\n  - rate_limit: {retry_after: 2s, times: 2}\n")
	for i := range 3 {
		_, err := b.Generate(t.Context(), ask("m", "hi"))
		var e *backend.Error
		if limited := errors.As(err, &e) && e.Kind == backend.RateLimited && e.RetryAfter == 2*time.Second; limited != (i < 2) {
			t.Errorf("call %d: got %v", i+1, err)
		}
	}
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := scenario(t, "rules:\n  - {match: {prompt: /^slow/}, text: one two three, delay: 1500ms, chunk_delay: 100ms}\n")
		begin := time.Now()
		for _, err := range b.Stream(t.Context(), ask("m", "slow, please")) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took != 1700*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

func TestScenarioErrors(t *testing.T) {
	for text, hint := range map[string]string{
		"rule: []": "rule", "rules:\n  - {match: {modell: x}}": "modell", "rules:\n  - {text: a, error: {kind: internal}}": "only one",
		"rules:\n  - {error: {kind: bad}}": "none of", "rules:\n  - {match: {prompt: /(/}}": "prompt", "rules:\n  - {match: {model: '[' }}": "pattern",
		"rules:\n  - {function_call: {args: {}}}": "name", "rules:\n  - {function_calls: [{name: f}, {}]}": "function_calls[1].name", "rules: [null]": "empty", "rules:\n  - {filtered: {count: -1}}": "filtered.count", "rules:\n  - {filtered: {}, text: a}": "only one",
	} {
		if _, err := emulator.ReadScenario(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: got %v, want a word of %q", text, err, hint)
		}
	}
}

func FuzzReadScenario(f *testing.F) {
	f.Add([]byte("rules:\n  - match: {model: a*, prompt: /x/}\n    text: hi\n    delay: 1s\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := emulator.ReadScenario(strings.NewReader(string(text))); err == nil {
			for _, r := range s.Rules {
				r.Delay, r.ChunkDelay = 0, 0
			}
			_, _ = emulator.New(s).Generate(t.Context(), ask("m", "x")) // Whatever it says, it must not panic.
		}
	})
}
