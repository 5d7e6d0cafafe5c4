package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genai"
	"google.golang.org/genai/interactions/models/apierrors"
	"google.golang.org/genai/interactions/models/interactions"
	"google.golang.org/genai/interactions/models/operations"
)

// told is an event of a stream as the SDK yields it.
type told struct {
	Type        string `json:"event_type"`
	ID          string `json:"event_id"`
	Interaction struct {
		ID, Status string
		Usage      any
	}
	InteractionID string `json:"interaction_id"`
	Status        string
	Index         int
	Step          map[string]any
	Delta         struct {
		Type, Text, Arguments, Signature string
		Content                          map[string]any
	}
	Error struct{ Code, Message string }

	json string // All of it.
}

// listen reads a stream to its end, or until enough is true of an event; then its
// connection is closed.
func listen(t *testing.T, s *goStream, enough func(told) bool) []told {
	t.Helper()
	var all []told
	for s.Next() {
		text := printed(t, s)
		e := decode[told](t, text)
		e.json = text
		all = append(all, e)
		if enough != nil && enough(e) {
			break
		}
	}
	if err := errors.Join(s.Err(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return all
}

func said(e told) bool { return e.Type == "step.delta" }

func text(all []told) string {
	var b strings.Builder
	for _, e := range all {
		if e.Delta.Type == "text" {
			b.WriteString(e.Delta.Text)
		}
	}
	return b.String()
}

func same(t *testing.T, what string, got, want []told) {
	t.Helper()
	alike := func(a, b told) bool { return a.json == b.json }
	if !slices.EqualFunc(got, want, alike) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// whole checks what all whole streams have in common and returns the
// interaction's id.
func whole(t *testing.T, all []told, status string) string {
	t.Helper()
	for i, e := range all {
		if e.ID != fmt.Sprint("e", i+1) {
			t.Errorf("event %d is %s", i+1, e.json)
		}
	}
	if len(all) < 3 || all[0].Type != "interaction.created" || all[0].Interaction.Status != "in_progress" ||
		all[1].Type != "interaction.status_update" || all[1].Status != "in_progress" {
		t.Fatalf("unexpected beginning: %+v", all)
	}
	last := all[len(all)-1]
	if last.Type != "interaction.completed" || last.Interaction.Status != status {
		t.Fatalf("the last event is %s", last.json)
	}
	id := last.Interaction.ID
	if all[0].Interaction.ID != id || all[1].InteractionID != id || id == "" {
		t.Errorf("the ids differ: %s, %s", all[0].json, all[1].json)
	}
	return id
}

// steps are the steps that the events of a stream add up to.
func steps(t *testing.T, all []told) []any {
	t.Helper()
	var every []map[string]any
	open := make(map[int]bool)
	for _, e := range all {
		if strings.HasPrefix(e.Type, "step.") && e.Type != "step.start" && !open[e.Index] {
			t.Fatalf("the step is not open: %s", e.json)
		}
		switch e.Type {
		case "step.start":
			if e.Index != len(every) || e.Step["content"] != nil {
				t.Errorf("unexpected start: %s", e.json)
			}
			every = append(every, e.Step)
			open[e.Index] = true
		case "step.delta":
			step, list, content := every[e.Index], "content", map[string]any{"type": "text", "text": e.Delta.Text}
			switch e.Delta.Type {
			case "arguments_delta":
				before, _ := step["arguments"].(string)
				step["arguments"] = before + e.Delta.Arguments
				continue
			case "thought_signature":
				step["signature"] = e.Delta.Signature
				continue
			case "thought_summary":
				list, content = "summary", e.Delta.Content
			case "text":
			default:
				t.Fatalf("unexpected delta: %s", e.json)
			}
			items, _ := step[list].([]any)
			if n := len(items); n > 0 { // Text goes on with the text before it.
				content = maps.Clone(content)
				content["text"] = items[n-1].(map[string]any)["text"].(string) + content["text"].(string)
				items = items[:n-1]
			}
			step[list] = append(items, content)
		case "step.stop":
			if args, ok := every[e.Index]["arguments"].(string); ok {
				every[e.Index]["arguments"] = decode[any](t, args)
			}
			delete(open, e.Index)
		}
	}
	if len(open) > 0 {
		t.Errorf("steps are still open: %v", open)
	}
	return decode[[]any](t, marshal(t, every))
}

func TestGoStreams(t *testing.T) {
	c := goClient(t, dev(t), "any")
	begin := func(t *testing.T, body string) *goStream {
		t.Helper()
		return createStream(t, c, `{"stream":true,`+strings.TrimPrefix(body, "{"))
	}
	stream := func(t *testing.T, body string) []told {
		t.Helper()
		return listen(t, begin(t, body), nil)
	}
	resume := func(t *testing.T, id, last string) []told {
		t.Helper()
		return listen(t, getStream(t, c, id, last), nil)
	}
	// stored checks that a whole stream says what is stored, and says it again in the
	// same words.
	stored := func(t *testing.T, all []told, status string) *interactions.Interaction {
		t.Helper()
		id := whole(t, all, status)
		got := get(t, c, id)
		if string(got.Status) != status {
			t.Errorf("stored as %s", got.Status)
		}
		if s, want := steps(t, all), decode[[]any](t, marshal(t, got.Steps)); !reflect.DeepEqual(s, want) {
			t.Errorf("the steps:\n got %v\nwant %v", s, want)
		}
		usage := decode[map[string]any](t, marshal(t, got.Usage))
		if sent := all[len(all)-1].Interaction.Usage; !reflect.DeepEqual(sent, any(usage)) || usage["total_tokens"] == 0.0 {
			t.Errorf("usage %v was sent, %v is stored", sent, usage)
		}
		same(t, "again", resume(t, id, ""), all)
		return got
	}
	deltas := func(all []told, kind string) (n int) {
		for _, e := range all {
			if e.Delta.Type == kind {
				n++
			}
		}
		return n
	}
	const tools = `"tools":[{"type":"function","name":"get_weather","description":"d","parameters":{"type":"object"}},
		{"type":"function","name":"get_time","description":"d","parameters":{"type":"object"}}]`

	t.Run("Text", func(t *testing.T) {
		all := stream(t, `{"model":"gemini-3.6-flash","input":"hi","system_instruction":"be nice"}`)
		got := stored(t, all, "completed")
		if text(all) != *got.OutputText || !strings.Contains(text(all), "system instruction has 7 bytes") || deltas(all, "text") < 6 {
			t.Errorf("%d deltas say %q", deltas(all, "text"), text(all))
		}
		for i, e := range all {
			same(t, "after "+e.ID, resume(t, *got.ID, e.ID), all[i+1:])
		}
	})
	t.Run("Thoughts", func(t *testing.T) {
		all := stream(t, `{"model":"thinking-model","input":"hi"}`)
		got := stored(t, all, "completed")
		if got.Steps[0].ThoughtStep == nil || got.Steps[0].ThoughtStep.Signature == nil || deltas(all, "thought_summary") < 2 || text(all) != "It is as you say." {
			t.Errorf("unexpected steps %s", marshal(t, got.Steps))
		}
	})
	t.Run("FunctionCall", func(t *testing.T) {
		all := stream(t, `{"model":"m","input":"weather?",`+tools+`}`)
		asked := stored(t, all, "requires_action")
		call := asked.Steps[0].FunctionCallStep
		if call.Name != "get_weather" || call.Arguments["city"] != "Paris" || deltas(all, "arguments_delta") < 2 {
			t.Errorf("unexpected call %+v", call)
		}
		answer := stream(t, `{"model":"m",`+tools+`,"previous_interaction_id":"`+*asked.ID+`","input":[{"type":"function_result","call_id":"`+call.ID+`","name":"get_weather","result":"20 degrees"}]}`)
		got := stored(t, answer, "completed")
		if !strings.Contains(text(answer), "20 degrees") || *got.PreviousInteractionID != *asked.ID {
			t.Errorf("unexpected answer %q", text(answer))
		}
		if next := stream(t, `{"model":"m","input":"thanks",`+tools+`,"previous_interaction_id":"`+*got.ID+`"}`); !strings.Contains(text(next), "turn 5") {
			t.Errorf("unexpected next turn %q", text(next))
		}
	})
	t.Run("CallsAtOnce", func(t *testing.T) {
		asked := stored(t, stream(t, `{"model":"m","input":"Please plan my trip.",`+tools+`}`), "requires_action")
		if len(asked.Steps) != 3 || asked.Steps[1].FunctionCallStep.ID == asked.Steps[2].FunctionCallStep.ID {
			t.Fatalf("unexpected steps %s", marshal(t, asked.Steps))
		}
		answer := stream(t, `{"model":"m",`+tools+`,"previous_interaction_id":"`+*asked.ID+`","input":[
			{"type":"function_result","call_id":"`+asked.Steps[2].FunctionCallStep.ID+`","result":"12:30"},{"type":"function_result","call_id":"`+asked.Steps[1].FunctionCallStep.ID+`","result":"20 degrees"}]}`)
		stored(t, answer, "completed")
		for _, word := range []string{"get_time returned", "12:30", "get_weather returned", "20 degrees"} {
			if !strings.Contains(text(answer), word) {
				t.Errorf("no %q in %q", word, text(answer))
			}
		}
	})
	t.Run("BackgroundLeftAndResumed", func(t *testing.T) {
		hook := receive(t)
		w := register(t, c, hook.URI)
		all := listen(t, begin(t, `{"model":"counting-model","input":"hi","background":true}`), func(e told) bool { return e.ID == "e3" })
		rest := resume(t, all[0].Interaction.ID, "e3")
		got := stored(t, append(all, rest...), "completed")
		if text(rest) != "one two three four five six seven eight nine ten" {
			t.Errorf("the rest says %q", text(rest))
		}
		if err := verify(t, *w.NewSigningSecret, hook.wait(t, "interaction.completed", *got.ID)); err != nil {
			t.Error(err)
		}
	})
	t.Run("CreatedWithoutStream", func(t *testing.T) {
		late := create(t, c, `{"model":"late-model","input":"hi","background":true}`)
		if got := stored(t, resume(t, *late.ID, ""), "completed"); !strings.Contains(*got.OutputText, "ringback emulator") {
			t.Errorf("unexpected answer %q", *got.OutputText)
		}
		failed := create(t, c, `{"model":"fail-model","input":"hi","background":true}`)
		all := resume(t, *failed.ID, "")
		whole(t, all, "failed")
		if e := all[len(all)-2]; e.Type != "error" || e.Error.Code != "api_error" || e.Error.Message != "the model is not reachable" {
			t.Errorf("unexpected event %s", e.json)
		}
	})
	t.Run("Failure", func(t *testing.T) {
		all := stream(t, `{"model":"fail-model","input":"hi"}`)
		id := whole(t, all, "failed")
		if e := all[len(all)-2]; e.Type != "error" || e.Error.Code != "api_error" || e.Error.Message != "the model is not reachable" {
			t.Errorf("unexpected event %s", e.json)
		}
		same(t, "again", resume(t, id, ""), all)
	})
	t.Run("Incomplete", func(t *testing.T) {
		stored(t, stream(t, `{"model":"m","input":"hi","generation_config":{"max_output_tokens":3}}`), "incomplete")
	})
	t.Run("LeftInTheForeground", func(t *testing.T) {
		hook := receive(t)
		register(t, c, hook.URI)
		all := listen(t, begin(t, `{"model":"halting-model","input":"hi"}`), said)
		all = append(all, resume(t, all[0].Interaction.ID, all[len(all)-1].ID)...)
		hook.wait(t, "interaction.cancelled", whole(t, all, "cancelled"))
	})
	t.Run("CancelledWhileItRuns", func(t *testing.T) {
		all := listen(t, begin(t, `{"model":"halting-model","input":"hi","background":true}`), said)
		id := all[0].Interaction.ID
		s := getStream(t, c, id, all[len(all)-1].ID)
		if got := must[*operations.CancelInteractionByIDResponse](t)(c.Interactions.Cancel(t.Context(), operations.CancelInteractionByIDRequest{ID: id})).Interaction; got.Status != interactions.InteractionStatusCancelled {
			t.Errorf("unexpected status %s", got.Status)
		}
		all = append(all, listen(t, s, nil)...)
		whole(t, all, "cancelled")
		if text(all) != "one " {
			t.Errorf("it says %q", text(all))
		}
		same(t, "again", resume(t, id, ""), all)
	})
	t.Run("NotStored", func(t *testing.T) {
		all := stream(t, `{"model":"m","input":"hi","store":false}`)
		id := whole(t, all, "completed")
		_, err := c.Interactions.Get(t.Context(), operations.GetInteractionByIDRequest{ID: id, Stream: genai.Ptr(true)})
		getError(t, err, 404, "not_found")
	})
	t.Run("JSON", func(t *testing.T) {
		all := stream(t, `{"model":"m","input":"hi","response_format":{"type":"text","mime_type":"application/json","schema":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}}}`)
		stored(t, all, "completed")
		var v struct{ N *int }
		if err := json.Unmarshal([]byte(text(all)), &v); err != nil || v.N == nil {
			t.Errorf("got %q, %v", text(all), err)
		}
	})
	t.Run("Errors", func(t *testing.T) {
		for _, x := range []struct {
			body, code string
			status     int
		}{
			{`{"model":"m","input":"","stream":true}`, "invalid_request", 400},
			{`{"model":"m","input":"hi","stream":true,"store":false,"background":true}`, "invalid_request", 400},
			{`{"model":"m","input":"hi","stream":true,"tools":[{"type":"google_search"}]}`, "invalid_request", 400},
			{`{"model":"m","input":"hi","stream":true,"previous_interaction_id":"v1_nosuch"}`, "not_found", 404},
		} {
			_, err := c.Interactions.Create(t.Context(), operations.CreateInteractionRequest{Body: operations.NewCreateInteractionRequestBody(decode[interactions.CreateModelInteraction](t, x.body))})
			var e *apierrors.CreateInteractionClientError
			if !errors.As(err, &e) || e.HTTPMeta.Response.StatusCode != x.status || *e.Error_.Code != x.code {
				t.Errorf("%s: %v", x.body, err)
			}
		}
		all := stream(t, `{"model":"m","input":"hi"}`)
		for _, last := range []string{"e0", "x", "3", fmt.Sprint("e", len(all)+1)} {
			_, err := c.Interactions.Get(t.Context(), operations.GetInteractionByIDRequest{ID: all[0].Interaction.ID, Stream: genai.Ptr(true), LastEventID: &last})
			getError(t, err, 400, "invalid_request")
		}
		_, err := c.Interactions.Get(t.Context(), operations.GetInteractionByIDRequest{ID: "v1_nosuch", Stream: genai.Ptr(true)})
		getError(t, err, 404, "not_found")
	})
	t.Run("Media", func(t *testing.T) {
		for kind, mime := range map[string]string{"image": "image/png", "audio": "audio/wav", "video": "video/mp4", "document": "application/pdf"} {
			data := "not really " + kind
			ask := func(field, value string) string {
				return fmt.Sprintf(`{"model":"m","input":[{"type":"text","text":"What is in it?"},{"type":%q,"mime_type":%q,%q:%q}]}`, kind, mime, field, value)
			}
			if got := create(t, c, ask("data", base64.StdEncoding.EncodeToString([]byte(data)))); got.Status != "completed" || !strings.Contains(*got.OutputText, "What is in it?") {
				t.Errorf("%s: unexpected answer %s", kind, marshal(t, got))
			}
			file := must[*genai.File](t)(c.Files.Upload(t.Context(), strings.NewReader(data), &genai.UploadFileConfig{MIMEType: mime}))
			all := stream(t, ask("uri", file.URI))
			got := stored(t, all, "completed")
			next := create(t, c, `{"model":"m","input":"And now?","previous_interaction_id":"`+*got.ID+`"}`)
			if !strings.Contains(text(all), "What is in it?") || !strings.Contains(*next.OutputText, "turn 3") {
				t.Errorf("%s: unexpected answers %q, %q", kind, text(all), *next.OutputText)
			}
		}
	})
}

// getError checks the SDK's typed error of a get.
func getError(t *testing.T, err error, status int, code string) {
	t.Helper()
	var e *apierrors.GetInteractionByIDClientError
	if !errors.As(err, &e) || e.HTTPMeta.Response.StatusCode != status || *e.Error_.Code != code {
		t.Errorf("got %v, want %d %s", err, status, code)
	}
}
