// Package backendtest is the suite that every adapter of package backend passes.
package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// Run runs the suite. The back-end must answer these models in these ways:
//
//	echo      the last turn's text somewhere in the answer, and the system
//	          instruction's length or text changes the answer
//	call      a call of the function get_weather with {"city":"Paris"} unless the
//	          last turn brings its result, which is then in the answer
//	fail      an error of kind Unavailable or Internal
//	hang      nothing, until the context ends
func Run(t *testing.T, b backend.Backend) {
	t.Run("Text", func(t *testing.T) { text(t, b) })
	t.Run("SystemInstruction", func(t *testing.T) { system(t, b) })
	t.Run("Turns", func(t *testing.T) { turns(t, b) })
	t.Run("FunctionRoundTrip", func(t *testing.T) { function(t, b) })
	t.Run("JSONMode", func(t *testing.T) { jsonMode(t, b) })
	t.Run("MaxOutputTokens", func(t *testing.T) { maxTokens(t, b) })
	t.Run("StreamSaysTheSame", func(t *testing.T) { stream(t, b) })
	t.Run("CallInPieces", func(t *testing.T) { pieces(t, b) })
	t.Run("Errors", func(t *testing.T) { failing(t, b) })
	t.Run("Cancellation", func(t *testing.T) { cancellation(t, b) })
}

func ask(model string, body *genai.GenerateContentRequest) *backend.Request {
	return &backend.Request{Model: model, Body: body}
}

func says(texts ...string) *genai.GenerateContentRequest {
	r := &genai.GenerateContentRequest{}
	for i, s := range texts {
		role := "user"
		if i%2 == 1 {
			role = "model"
		}
		r.Contents = append(r.Contents, genai.Content{Role: role, Parts: []genai.Part{genai.TextPart(s)}})
	}
	return r
}

// answer is the text of the first candidate.
func answer(t *testing.T, r *genai.GenerateContentResponse, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Candidates) == 0 || r.Candidates[0].Content == nil {
		t.Fatalf("an empty answer: %+v", r)
	}
	var text strings.Builder
	for _, p := range r.Candidates[0].Content.Parts {
		if p.Text != nil && !p.Thought {
			text.WriteString(*p.Text)
		}
	}
	return text.String()
}

func generate(t *testing.T, b backend.Backend, req *backend.Request) (string, *genai.GenerateContentResponse) {
	t.Helper()
	r, err := b.Generate(t.Context(), req)
	return answer(t, r, err), r
}

func text(t *testing.T, b backend.Backend) {
	got, r := generate(t, b, ask("echo", says("Is anybody there?")))
	if !strings.Contains(got, "Is anybody there?") {
		t.Errorf("got %q", got)
	}
	if r.Candidates[0].FinishReason != genai.FinishStop || r.Candidates[0].Content.Role != "model" {
		t.Errorf("unexpected candidate %+v", r.Candidates[0])
	}
	u := r.UsageMetadata
	if u == nil || u.PromptTokenCount == 0 || u.CandidatesTokenCount == 0 || u.TotalTokenCount != u.PromptTokenCount+u.CandidatesTokenCount {
		t.Errorf("unexpected usage %+v", u)
	}
}

func system(t *testing.T, b backend.Backend) {
	plain, _ := generate(t, b, ask("echo", says("hi")))
	with := says("hi")
	with.SystemInstruction = &genai.Content{Parts: []genai.Part{genai.TextPart("Answer like a pirate.")}}
	if told, _ := generate(t, b, ask("echo", with)); told == plain {
		t.Errorf("the system instruction changed nothing: %q", told)
	}
}

func turns(t *testing.T, b backend.Backend) {
	one, _ := generate(t, b, ask("echo", says("and now?")))
	three, _ := generate(t, b, ask("echo", says("first", "yes", "and now?")))
	if one == three {
		t.Errorf("the history changed nothing: %q", one)
	}
}

func function(t *testing.T, b backend.Backend) {
	q := says("What is the weather?")
	q.Tools = []genai.Tool{{FunctionDeclarations: []genai.FunctionDeclaration{{Name: "get_weather",
		Parameters: json.RawMessage(`{"type":"OBJECT","properties":{"city":{"type":"STRING"}}}`)}}}}
	_, r := generate(t, b, ask("call", q))
	var call *genai.FunctionCall
	for _, p := range r.Candidates[0].Content.Parts {
		if p.FunctionCall != nil {
			call = p.FunctionCall
		}
	}
	if call == nil || call.Name != "get_weather" || string(call.Args) != `{"city":"Paris"}` || call.ID == "" || r.Candidates[0].FinishReason != genai.FinishStop {
		t.Fatalf("unexpected call %+v", call)
	}
	q.Contents = append(q.Contents, *r.Candidates[0].Content, genai.Content{Role: "user", Parts: []genai.Part{{
		FunctionResponse: &genai.FunctionResponse{ID: call.ID, Name: call.Name, Response: json.RawMessage(`{"degrees":21}`)}}}})
	if got, _ := generate(t, b, ask("call", q)); !strings.Contains(got, "21") {
		t.Errorf("the result is not in the answer: %q", got)
	}
}

func jsonMode(t *testing.T, b backend.Backend) {
	q := says("Give me a name.")
	q.GenerationConfig = &genai.GenerationConfig{ResponseMimeType: "application/json",
		ResponseJSONSchema: json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}`)}
	got, _ := generate(t, b, ask("echo", q))
	var v struct{ Name *string }
	if err := json.Unmarshal([]byte(got), &v); err != nil || v.Name == nil {
		t.Errorf("not the JSON asked for: %q, %v", got, err)
	}
}

func maxTokens(t *testing.T, b backend.Backend) {
	q := says("Tell me a long story about a webhook.")
	limit := 2
	q.GenerationConfig = &genai.GenerationConfig{MaxOutputTokens: &limit}
	if _, r := generate(t, b, ask("echo", q)); r.Candidates[0].FinishReason != genai.FinishMaxTokens {
		t.Errorf("got finish reason %s", r.Candidates[0].FinishReason)
	}
}

func stream(t *testing.T, b backend.Backend) {
	whole, _ := generate(t, b, ask("echo", says("Is anybody there?")))
	var text strings.Builder
	var last *genai.GenerateContentResponse
	for chunk, err := range backend.Stream(t.Context(), b, ask("echo", says("Is anybody there?"))) {
		text.WriteString(answer(t, chunk, err))
		last = chunk
	}
	if text.String() != whole {
		t.Errorf("the stream says %q, the answer %q", text.String(), whole)
	}
	if last == nil || last.Candidates[0].FinishReason != genai.FinishStop || last.UsageMetadata == nil {
		t.Errorf("the last chunk lacks the reason or the usage: %+v", last)
	}
	// Whoever has heard enough may leave.
	for range backend.Stream(t.Context(), b, ask("echo", says("Is anybody there?"))) {
		break
	}
}

// pieces: a call that comes in pieces is the call, and does not come whole as well. A
// back-end that has calls only whole may bring it so.
func pieces(t *testing.T, b backend.Backend) {
	q := says("What is the weather?")
	q.Tools = []genai.Tool{{FunctionDeclarations: []genai.FunctionDeclaration{{Name: "get_weather",
		Parameters: json.RawMessage(`{"type":"OBJECT","properties":{"city":{"type":"STRING"}}}`)}}}}
	for _, inPieces := range []bool{false, true} {
		req := ask("call", q)
		req.Pieces = inPieces
		var call, whole genai.FunctionCall
		var last *genai.GenerateContentResponse
		for chunk, err := range backend.Stream(t.Context(), b, req) {
			answer(t, chunk, err)
			last = chunk
			for _, p := range chunk.Candidates[0].Content.Parts {
				if p.FunctionCall != nil {
					whole = *p.FunctionCall
				}
				if p.CallPiece == nil {
					continue
				}
				if first := call.Name == ""; p.CallPiece.Index != 0 || (p.CallPiece.ID != "") != first || (p.CallPiece.Name != "") != first {
					t.Errorf("unexpected piece %+v", p.CallPiece)
				}
				call.ID, call.Name = call.ID+p.CallPiece.ID, call.Name+p.CallPiece.Name
				call.Args = append(call.Args, p.CallPiece.Arguments...)
			}
		}
		if last == nil || last.Candidates[0].FinishReason != genai.FinishStop || last.UsageMetadata == nil {
			t.Errorf("pieces %v: the last chunk lacks the reason or the usage: %+v", inPieces, last)
		}
		if call.Name != "" && (!inPieces || whole.Name != "") {
			t.Errorf("pieces %v: in pieces %+v, whole %+v", inPieces, call, whole)
		}
		if call.Name == "" {
			call = whole
		}
		var args map[string]string
		if err := json.Unmarshal(call.Args, &args); err != nil || call.Name != "get_weather" || call.ID == "" || args["city"] != "Paris" || len(args) != 1 {
			t.Errorf("pieces %v: got %s %s(%s), %v", inPieces, call.ID, call.Name, call.Args, err)
		}
	}
}

func failing(t *testing.T, b backend.Backend) {
	_, err := b.Generate(t.Context(), ask("fail", says("hi")))
	var e *backend.Error
	if !errors.As(err, &e) || (e.Kind != backend.Unavailable && e.Kind != backend.Internal) {
		t.Errorf("got %v", err)
	}
	for _, err := range backend.Stream(t.Context(), b, ask("fail", says("hi"))) {
		if !errors.As(err, &e) {
			t.Errorf("stream: got %v", err)
		}
	}
}

func cancellation(t *testing.T, b backend.Backend) {
	reason := errors.New("the job was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.Generate(ctx, ask("hang", says("hi")))
		done <- err
	}()
	cancel(reason)
	if err := <-done; !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
