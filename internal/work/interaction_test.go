package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
)

func specOf(t *testing.T, text string) *genai.InteractionSpec {
	t.Helper()
	var s genai.InteractionSpec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func TestInteractionRequest(t *testing.T) {
	for _, c := range []struct{ name, spec, want string }{
		{"text", `{"steps":[{"type":"user_input","content":[{"type":"text","text":"hi"}]}]}`,
			`{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}`},
		{"media", `{"steps":[{"type":"user_input","content":[{"type":"image","data":"AA==","mime_type":"image/png"},{"type":"text","text":"what?"}]}]}`,
			`{"contents":[{"role":"user","parts":[{"inlineData":{"mimeType":"image/png","data":"AA=="}},{"text":"what?"}]}]}`},
		{"turns of one side are one", `{"steps":[{"type":"user_input","content":[{"type":"text","text":"a"}]},{"type":"user_input","content":[{"type":"text","text":"b"}]},
			{"type":"thought","signature":"c2ln","summary":[{"type":"text","text":"h"},{"type":"text","text":"m"}]},{"type":"model_output","content":[{"type":"text","text":"c"}]},{"type":"model_output"},
			{"type":"user_input","content":[{"type":"text","text":"d"}]}]}`,
			`{"contents":[{"role":"user","parts":[{"text":"a"},{"text":"b"}]},` +
				`{"role":"model","parts":[{"text":"hm","thought":true,"thoughtSignature":"c2ln"},{"text":"c"}]},{"role":"user","parts":[{"text":"d"}]}]}`},
		{"calls and results in any order", `{"steps":[
			{"type":"function_call","id":"1","name":"f","arguments":{"a":1},"signature":"c2ln"},{"type":"function_call","id":"2","name":"g","arguments":{}},
			{"type":"function_result","call_id":"2","result":"text"},{"type":"function_result","call_id":"1","result":{"b":2}},
			{"type":"function_result","call_id":"3","name":"named","result":[{"type":"text","text":"x"}]},{"type":"function_result","call_id":"1","is_error":true,"result":{"why":"x"}},
			{"type":"function_result","call_id":"1"}]}`,
			`{"contents":[{"role":"model","parts":[{"thoughtSignature":"c2ln","functionCall":{"id":"1","name":"f","args":{"a":1}}},{"functionCall":{"id":"2","name":"g","args":{}}}]},` +
				`{"role":"user","parts":[{"functionResponse":{"id":"2","name":"g","response":{"result":"text"}}},{"functionResponse":{"id":"1","name":"f","response":{"b":2}}},` +
				`{"functionResponse":{"id":"3","name":"named","response":{"result":[{"type":"text","text":"x"}]}}},{"functionResponse":{"id":"1","name":"f","response":{"error":{"why":"x"}}}},` +
				`{"functionResponse":{"id":"1","name":"f","response":{"result":null}}}]}]}`},
		{"everything else", `{"system_instruction":"be brief","tools":[{"type":"function","name":"f","description":"d","parameters":{"type":"object"}},{"type":"function","name":"g"}],
			"generation_config":{"temperature":0,"top_p":0.5,"max_output_tokens":9,"seed":7,"stop_sequences":["x"],"presence_penalty":0.1,"frequency_penalty":0.2,"tool_choice":{"allowed_tools":{"mode":"any","tools":["g"]}}},
			"json":true,"schema":{"type":"string"},"steps":[]}`,
			`{"systemInstruction":{"parts":[{"text":"be brief"}]},"tools":[{"functionDeclarations":[{"name":"f","description":"d","parametersJsonSchema":{"type":"object"}},{"name":"g"}]}],` +
				`"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["g"]}},` +
				`"generationConfig":{"temperature":0,"topP":0.5,"maxOutputTokens":9,"stopSequences":["x"],"seed":7,"presencePenalty":0.1,"frequencyPenalty":0.2,` +
				`"responseMimeType":"application/json","responseJsonSchema":{"type":"string"}}}`},
		{"mode in any case", `{"generation_config":{"tool_choice":"Validated"},"steps":[]}`,
			`{"toolConfig":{"functionCallingConfig":{"mode":"VALIDATED"}},"generationConfig":{}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := specOf(t, c.spec)
			req, err := interactionRequest(spec, spec.Steps)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, string(got)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	orphan := specOf(t, `{"steps":[{"type":"function_result","call_id":"9","result":1}]}`)
	if _, err := interactionRequest(orphan, orphan.Steps); err == nil || !strings.Contains(err.Error(), `"9"`) {
		t.Errorf("a result without its call: got %v, want an error that names it", err)
	}
}

func TestInteractionResult(t *testing.T) {
	for _, c := range []struct{ name, answer, state, failure, want string }{
		{"text", `{"candidates":[{"content":{"parts":[{"text":"a"},{"text":"b"}]},"finishReason":"STOP"}],
			"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":6,"totalTokenCount":12,"thoughtsTokenCount":2,"cachedContentTokenCount":1,"promptTokensDetails":[{"modality":"TEXT","tokenCount":4}]}}`,
			"completed", "", `{"steps":[{"type":"model_output","content":[{"type":"text","text":"ab"}]}],` +
				`"usage":{"total_tokens":12,"total_input_tokens":4,"input_tokens_by_modality":[{"modality":"text","tokens":4}],"total_cached_tokens":1,"total_output_tokens":6,"total_tool_use_tokens":0,"total_thought_tokens":2}}`},
		{"thought, call, text", `{"candidates":[{"content":{"parts":[{"text":"hm","thought":true,"thoughtSignature":"c2ln"},{"functionCall":{"id":"1","name":"f","args":{"a":1}},"thoughtSignature":"c2ln"},{"functionCall":{"name":"g"}},{"text":"wait"}]},"finishReason":"STOP"}]}`,
			"requires_action", "", `{"steps":[{"type":"thought","signature":"c2ln","summary":[{"type":"text","text":"hm"}]},{"type":"function_call","id":"1","name":"f","arguments":{"a":1},"signature":"c2ln"},` +
				`{"type":"function_call","id":"call_2","name":"g","arguments":{}},{"type":"model_output","content":[{"type":"text","text":"wait"}]}]}`},
		{"image", `{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AA=="}}]}}]}`,
			"completed", "", `{"steps":[{"type":"model_output","content":[{"type":"image","data":"AA==","mime_type":"image/png"}]}]}`},
		{"cut off", `{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"MAX_TOKENS"}]}`,
			"incomplete", "", `{"steps":[{"type":"model_output","content":[{"type":"text","text":"a"}]}]}`},
		{"answer blocked", `{"candidates":[{"finishReason":"SAFETY"}]}`,
			"failed", "api_error: the model ended its answer with SAFETY",
			`{"steps":[{"type":"model_output","content":[],"error":{"code":13,"message":"the model ended its answer with SAFETY"}}]}`},
		{"answer blocked in the middle", `{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"SAFETY"}]}`,
			"failed", "api_error: the model ended its answer with SAFETY",
			`{"steps":[{"type":"model_output","content":[{"type":"text","text":"a"}],"error":{"code":13,"message":"the model ended its answer with SAFETY"}}]}`},
		{"prompt blocked", `{"promptFeedback":{"blockReason":"BLOCKLIST"}}`,
			"failed", "invalid_request: the prompt was blocked: BLOCKLIST",
			`{"steps":[{"type":"model_output","content":[],"error":{"code":13,"message":"the prompt was blocked: BLOCKLIST"}}]}`},
		{"nothing", `{}`, "failed", "api_error: the back-end's answer is empty", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var resp genai.GenerateContentResponse
			if err := json.Unmarshal([]byte(c.answer), &resp); err != nil {
				t.Fatal(err)
			}
			talk := newTalk(&genai.InteractionSpec{}, func(*genai.InteractionEvent) error { return nil })
			r, err := conclude(&genai.InteractionSpec{}, talk, talk.chunk(&resp))
			if err != nil {
				t.Fatal(err)
			}
			failure := ""
			if r.Failure != nil {
				failure = r.Failure.Code + ": " + r.Failure.Message
			}
			if string(r.State) != c.state || failure != c.failure {
				t.Errorf("got %s, failure %q; want %s, %q", r.State, failure, c.state, c.failure)
			}
			if d := cmp.Diff(c.want, string(r.Output)); c.want != "" && d != "" {
				t.Errorf("output (-want +got):\n%s", d)
			}
			var out genai.InteractionOutput
			if err := json.Unmarshal(r.Output, &out); err != nil {
				t.Errorf("the output can't be read: %v: %s", err, r.Output)
			}
		})
	}
}

// chain stores a conversation of n ended interactions and returns the last one's id.
func chain(t *testing.T, st store.Store, n int) ringback.ID {
	t.Helper()
	now := time.Date(2026, 1, 22, 12, 0, 0, 0, time.UTC)
	last := ""
	for i := range n {
		spec := genai.InteractionSpec{Steps: []genai.Step{{Type: genai.StepUserInput, Content: []genai.StepContent{{Type: "text", Text: fmt.Sprint("question ", i)}}}}}
		spec.PreviousInteractionID = last
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		j := &ringback.Job{ID: ringback.NewInteractionID(now), Project: "p", Kind: ringback.KindInteraction, State: ringback.Running, Model: "m", Spec: text, Created: now, Updated: now}
		if err := st.CreateJob(t.Context(), j, &ringback.Lease{Node: "n", Token: 1, Until: now.Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		output := fmt.Sprintf(`{"steps":[{"type":"model_output","content":[{"type":"text","text":"answer %d"}]}]}`, i)
		if err := st.EndJob(t.Context(), j.ID, nil, &store.End{State: ringback.Completed, Output: []byte(output), At: now}); err != nil {
			t.Fatal(err)
		}
		last = string(j.ID)
	}
	return ringback.ID(last)
}

func openStore(t *testing.T) store.Store {
	t.Helper()
	st, err := sqlite.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	begin := time.Date(2026, 1, 22, 12, 0, 0, 0, time.UTC)
	project := ringback.Project{ID: "p", Name: "p", Created: begin}
	if err := st.CreateProject(t.Context(), project, &ringback.APIKey{ID: "k", Project: "p", Hash: []byte("h"), Created: begin}, store.By{Actor: store.Server, At: begin}); err != nil {
		t.Fatal(err)
	}
	return st
}

// runOn runs a job on a back-end.
func runOn(ctx context.Context, st store.Store, be backend.Backend, j *ringback.Job) (Result, error) {
	r := New(Config{Store: st, Backend: be, Node: "n", Log: slog.New(slog.DiscardHandler)})
	return r.runInteraction(ctx, j, ringback.Lease{}, nil)
}

func TestHistoryIsOldestFirst(t *testing.T) {
	st := openStore(t)
	steps, err := history(t.Context(), st, "p", chain(t, st, 3))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range steps {
		got = append(got, s.Content[0].Text)
	}
	want := []string{"question 0", "answer 0", "question 1", "answer 1", "question 2", "answer 2"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := history(t.Context(), st, "other", chain(t, st, 1)); !errors.Is(err, ringback.NotFound) {
		t.Errorf("the history of another project: got %v, want %v", err, ringback.NotFound)
	}
}

func TestRunInteraction(t *testing.T) {
	st := openStore(t)
	script, err := emulator.ReadScenario(strings.NewReader(`rules:
- {match: {model: fail}, error: {kind: unavailable, message: gone fishing}}
- {match: {model: slow}, delay: 24h}
`))
	if err != nil {
		t.Fatal(err)
	}
	be := emulator.New(script)
	job := func(model, previous string) *ringback.Job {
		return &ringback.Job{ID: "v1_x", Project: "p", Kind: ringback.KindInteraction, Model: model,
			Spec: json.RawMessage(`{"previous_interaction_id":"` + previous + `","steps":[{"type":"user_input","content":[{"type":"text","text":"hi"}]}]}`)}
	}
	r, err := runOn(t.Context(), st, be, job("m", string(chain(t, st, 2))))
	if err != nil || r.State != ringback.Completed || !strings.Contains(string(r.Output), "turn 5") {
		t.Errorf("with a history of two interactions: %+v %s, %v", r, r.Output, err)
	}
	r, err = runOn(t.Context(), st, be, job("fail", ""))
	if err != nil || r.State != ringback.Failed || *r.Failure != (ringback.Failure{Code: "service_unavailable", Message: "gone fishing"}) {
		t.Errorf("on a back-end that fails: %+v, %v", r, err)
	}
	r, err = runOn(t.Context(), st, be, job("m", "v1_deleted"))
	if err != nil || r.State != ringback.Failed || r.Failure.Code != "not_found" {
		t.Errorf("after a deleted interaction: %+v, %v", r, err)
	}
	// A run that is cut off says nothing about the job; the cause is kept.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStopping)
	if r, err := runOn(ctx, st, be, job("slow", "")); !errors.Is(err, errStopping) {
		t.Errorf("cut off: %+v, %v; want %v", r, err, errStopping)
	}
}

// Every kind of back-end error has a code that the surface's clients know (§5.10).
func TestInteractionCode(t *testing.T) {
	for kind, want := range map[backend.Kind]string{
		backend.InvalidRequest: "invalid_request", backend.ModelNotFound: "model_not_found", backend.RateLimited: "rate_limit_exceeded",
		backend.Unavailable: "service_unavailable", backend.Timeout: "gateway_timeout", backend.Unauthorized: "api_error", backend.Internal: "api_error",
	} {
		if got := interactionCode(kind); got != want {
			t.Errorf("%s: got %q, want %q", kind, got, want)
		}
	}
}

// A conversation that is too long fails. It must not be taken for a run that was
// cut off, which would be repeated for ever.
func TestConversationThatIsTooLong(t *testing.T) {
	st := openStore(t)
	j := &ringback.Job{ID: "v1_x", Project: "p", Kind: ringback.KindInteraction, Model: "m",
		Spec: json.RawMessage(`{"previous_interaction_id":"` + string(chain(t, st, maxTurns+1)) + `","steps":[{"type":"user_input","content":[{"type":"text","text":"hi"}]}]}`)}
	r, err := runOn(t.Context(), st, emulator.New(nil), j)
	if err != nil || r.State != ringback.Failed || r.Failure.Code != "failed_precondition" || !strings.Contains(r.Failure.Message, "1000") {
		t.Errorf("got %+v, %v; want a failure that names the limit", r, err)
	}
}
