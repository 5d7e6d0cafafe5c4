package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/api"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

// create makes an interaction and returns the answer.
func (s *server) create(body string) answer {
	s.t.Helper()
	return s.do("POST", "/v1/interactions", body).ok()
}

func TestInteractionsInTheForeground(t *testing.T) {
	for _, c := range []struct{ name, body, event string }{
		{"text", `{"model":"gemini-3.6-flash","input":"please say hello"}`, "interaction.completed"},
		{"options", `{"model":"models/gemini-3.6-flash","input":"please say hello","service_tier":"FLEX","labels":{"team_a":"b c"},"store":true,
			"safety_settings":[{"type":"hate_speech"}],"cached_content":"x","response_modalities":["TEXT"]}`, "interaction.completed"},
		{"function_call", `{"model":"gemini-3.6-flash","input":"weather?","tools":[{"type":"function","name":"get_weather","description":"d",
			"parameters":{"type":"object","properties":{"city":{"type":"string"}}}}]}`, "interaction.requires_action"},
		{"incomplete", `{"model":"gemini-3.6-flash","input":"cut it"}`, "interaction.completed interaction.incomplete"},
		{"unsafe", `{"model":"gemini-3.6-flash","input":"something bad"}`, "interaction.failed"},
		{"failed", `{"model":"fail","input":"hi"}`, "interaction.failed"},
		{"refused", `{"model":"refuse","input":"hi"}`, "interaction.failed"},
		{"limited", `{"model":"busy","input":"hi"}`, "interaction.failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			a := s.create(c.body).golden("interaction_" + c.name)
			id := a.field("id")
			if got := s.do("GET", "/v1/interactions/"+id+"?stream=false", "").ok().body; got != a.body {
				t.Errorf("get shows\n%s, create\n%s", got, a.body)
			}
			var want []ringback.EventType
			for name := range strings.FieldsSeq(c.event) {
				want = append(want, ringback.EventType(name))
			}
			if got := s.events(id); !slices.Equal(got, want) {
				t.Errorf("events: got %v, want %s alone", got, c.event)
			}
		})
	}
}

func TestInteractionInTheBackground(t *testing.T) {
	s := newServer(t)
	s.subscribe("interaction.completed")
	a := s.create(`{"model":"gemini-3.6-flash","input":[{"type":"text","text":"please"},{"type":"text","text":"say hello"}],"background":true,"labels":{"a":"b"}}`).
		golden("interaction_background")
	s.waitTold()
	path := "/v1/interactions/" + a.field("id")
	s.do("GET", path, "").golden("interaction_background_completed")
	s.do("GET", path+"?include_input=true&stream=false", "").golden("interaction_background_input")
	if a, b := s.do("GET", path+"?includeInput=true", "").body, s.do("GET", path+"?include_input=true", "").body; a != b {
		t.Errorf("includeInput shows %s", a)
	}

	if got := s.do("DELETE", path, "").ok().body; got != "{}" {
		t.Errorf("delete: got %s", got)
	}
	s.do("GET", path, "").refused(404, "not_found", a.field("id"))
	s.do("DELETE", path, "").refused(404, "not_found", a.field("id"))
	s.do("POST", path+"/cancel", "").refused(404, "not_found", a.field("id"))
}

func TestCancel(t *testing.T) {
	s := newServer(t)
	s.subscribe("interaction.completed")
	const cancelled = "interaction.cancelled"
	slow := s.create(`{"model":"slow","input":"hi","background":true}`).field("id")
	s.do("GET", "/v1/interactions/"+slow, "").golden("interaction_running")
	s.clock.Add(time.Minute)
	s.do("POST", "/v1/interactions/"+slow+"/cancel", "").golden("interaction_cancelled")
	if got := s.events(slow); !slices.Equal(got, []ringback.EventType{cancelled}) {
		t.Errorf("events: %v", got)
	}
	s.do("POST", "/v1/interactions/"+slow+"/cancel", "").refused(400, "failed_precondition", "ended already: cancelled")

	done := s.create(`{"model":"gemini-x","input":"hi","background":true}`).field("id")
	s.waitTold()
	s.do("POST", "/v1/interactions/"+done+"/cancel", "").refused(400, "failed_precondition", "ended already: completed")
	foreground := s.create(`{"model":"gemini-x","input":"hi"}`).field("id")
	s.do("POST", "/v1/interactions/"+foreground+"/cancel", "").refused(400, "failed_precondition", "only background")
	for _, id := range []string{done, foreground} {
		if got := s.events(id); slices.Contains(got, cancelled) {
			t.Errorf("events of %s, whose cancel was refused: %v", id, got)
		}
	}
}

func TestFunctionRoundTrip(t *testing.T) {
	const tools = `"tools":[{"type":"function","name":"get_weather"}]`
	s := newServer(t)
	first := s.create(`{"model":"gemini-3.6-flash","input":"weather?",` + tools + `}`)
	var asked genai.Interaction
	if err := json.Unmarshal([]byte(first.body), &asked); err != nil || asked.Status != "requires_action" {
		t.Fatalf("%v: %s", err, first.body)
	}
	call := asked.Steps[len(asked.Steps)-1]
	for name, result := range map[string]string{"object": `{"temp":20}`, "string": `"20 degrees"`, "content": `[{"type":"text","text":"20"}]`} {
		t.Run(name, func(t *testing.T) {
			input := `{"type":"function_result","call_id":"` + call.ID + `","result":` + result + `}`
			second := s.create(`{"model":"gemini-3.6-flash","previous_interaction_id":"` + asked.ID + `",` + tools + `,"input":[` + input + `]}`)
			if second.field("status") != "completed" || second.field("previous_interaction_id") != asked.ID || second.field("id") == asked.ID {
				t.Errorf("got %s", second.body)
			}
			// The same, stateless: the client sends the whole history.
			steps, err := json.Marshal(asked.Steps)
			if err != nil {
				t.Fatal(err)
			}
			history := `[{"type":"user_input","content":[{"type":"text","text":"weather?"}]},` + strings.TrimPrefix(strings.TrimSuffix(string(steps), "]"), "[") + "," + input + "]"
			third := s.create(`{"model":"gemini-3.6-flash","store":false,` + tools + `,"input":` + history + `}`)
			text := func(a answer) string {
				t.Helper()
				var i genai.Interaction
				if err := json.Unmarshal([]byte(a.body), &i); err != nil || len(i.Steps) != 1 || len(i.Steps[0].Content) != 1 {
					t.Fatalf("%v: %s", err, a.body)
				}
				return i.Steps[0].Content[0].Text
			}
			// The emulator repeats the function's name and result.
			if got := text(second); got != text(third) || !strings.Contains(got, "get_weather returned {") {
				t.Errorf("with state %q, without %q", got, text(third))
			}
		})
	}
	if got := s.do("GET", "/v1/interactions/"+asked.ID, "").ok().field("status"); got != "requires_action" {
		t.Errorf("the first interaction is %q now", got)
	}
}

func TestConversation(t *testing.T) {
	s := newServer(t)
	// The emulator's answer tells the number of turns that it was shown and the
	// size of the system instruction, which a later turn must not inherit (§5.1).
	first := s.create(`{"model":"gemini-x","input":"one","system_instruction":"be brief"}`)
	second := s.create(`{"model":"gemini-y","input":"two","previous_interaction_id":"` + first.field("id") + `"}`)
	third := s.create(`{"model":"gemini-x","input":{"type":"text","text":"three"},"previous_interaction_id":"` + second.field("id") + `"}`)
	for a, turn := range map[*answer]string{&first: "turn 1,", &second: "turn 3,", &third: "turn 5,"} {
		if !strings.Contains(a.body, turn) || strings.Contains(a.body, "system instruction") != (a == &first) {
			t.Errorf("want %s, system instruction %v: %s", turn, a == &first, a.body)
		}
	}

	running := s.create(`{"model":"slow","input":"hi","background":true}`).field("id")
	s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"hi","previous_interaction_id":"`+running+`"}`).
		refused(400, "failed_precondition", "in progress")
	s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"hi","previous_interaction_id":"v1_nope"}`).
		refused(404, "not_found", "v1_nope")

	// A turn of the middle may be deleted; what follows can't go on then.
	s.do("DELETE", "/v1/interactions/"+first.field("id"), "").ok()
	broken := s.create(`{"model":"gemini-x","input":"four","previous_interaction_id":"` + third.field("id") + `"}`)
	if broken.field("status") != "failed" || !strings.Contains(broken.body, `"code":"not_found"`) {
		t.Errorf("got %s", broken.body)
	}
}

func TestWhatIsNotStoredIsNotThere(t *testing.T) {
	s := newServer(t)
	a := s.create(`{"model":"gemini-x","input":"say hello","store":false}`)
	if a.field("status") != "completed" || !strings.Contains(a.body, "Hello there") {
		t.Errorf("got %s", a.body)
	}
	id := a.field("id")
	s.do("GET", "/v1/interactions/"+id, "").refused(404, "not_found", id)
	s.do("DELETE", "/v1/interactions/"+id, "").refused(404, "not_found", id)
	s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"hi","previous_interaction_id":"`+id+`"}`).refused(404, "not_found", id)
	if events, err := s.store.EventsAfter(t.Context(), s.project, store.EventFilter{}, 0, 10); err != nil || len(events) != 0 {
		t.Errorf("events %v, %v; want none", events, err)
	}
}

func TestInteractionsThatAreRefused(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct{ rest, hint string }{
		{``, "input: it is required"},
		{`"input":null`, "input: it is required"},
		{`"input":""`, "input: it is empty"},
		{`"input":[]`, "input: it is empty"},
		{`"input":7`, "input: expected a string, an object or a list"},
		{`"input":{"text":"hi"}`, "input[0].type: it is required"},
		{`"input":["hi"]`, "input[0]: the body: expected an object, got string"},
		{`"input":[{"type":"text","text":"a"},{"type":"dance"}]`, `input[1]: steps and content of type "dance"`},
		{`"input":[{"type":"text","text":7}]`, "input[0]: text: expected a string, got number"},
		{`"input":{"type":"image","uri":"https://e.com/a.png","data":"AA=="}`, "input[0]: give data or uri, not both"},
		{`"input":{"type":"image","data":"AA=="}`, "input[0]: image content needs data and mime_type"},
		{`"input":[{"type":"user_input","content":[{"type":"text","text":"a"},{"type":"video"}]}]`, "input[0].content[1]: video content needs"},
		{`"input":[{"type":"function_call","name":"f"}]`, "input[0]: a function_call needs an id and a name"},
		{`"input":[{"type":"function_call","id":"c","name":"f","arguments":"{}"}]`, "input[0].arguments: expected an object"},
		{`"input":[{"type":"function_result","result":1}]`, "input[0].call_id: it is required"},
		{`"input":[{"type":"google_search_call","id":"x"}]`, `"google_search_call" are not supported`},
		{`"input":"hi","stream":true,"background":true,"store":false`, "store: a background interaction must be stored"},
		{`"input":"hi","response_format":{"type":"object","properties":{"a":{"type":"wrong"}}}`, "response_format: the schema is none: at /properties/a/type"},
		{`"input":"hi","response_format":{"$ref":"https://e.com/schema.json"}`, "response_format: the schema can't be used"},
		{`"input":"hi","webhook_config":[]`, "webhook_config: "},
		{`"input":"hi","webhook_config":{"uris":"https://e.com"}`, "webhook_config: uris: expected a list"},
		{`"input":"hi","webhook_config":{"uris":["https://e.com","http://e.com"]}`, "webhook_config.uris[1]: it must begin with https://"},
		{`"input":"hi","webhook_config":{"uris":["https://169.254.169.254/"]}`, "webhook_config.uris[0]: 169.254.169.254 is not a public address"},
		{`"input":"hi","webhook_config":{"uris":["https://e.com/1","https://e.com/2","https://e.com/3","https://e.com/4","https://e.com/5","https://e.com/6","https://e.com/7","https://e.com/8","https://e.com/9","https://e.com/10","https://e.com/11"]}`, "webhook_config.uris: at most 10"},
		{`"input":"hi","webhook_config":{"uris":["https://e.com"],"user_metadata":[]}`, "webhook_config.user_metadata: expected an object"},
		{`"input":"hi","webhook_config":{"uris":["https://e.com"],"user_metadata":{"a":"` + strings.Repeat("x", 9000) + `"}}`, "webhook_config.user_metadata: it is larger than 8192 bytes"},
		{`"input":"hi","store":false,"webhook_config":{"uris":["https://e.com"]}`, "webhook_config: an interaction that is not stored has no events"},
		{`"input":"hi","agent":"deep-research"`, "agent: it is not supported"},
		{`"input":"hi","background":true,"store":false`, "store: a background interaction must be stored"},
		{`"input":"hi","background":"yes"`, "background: expected true or false, got string"},
		{`"input":"hi","tools":[{"type":"function","name":"f"},{"type":"google_search"}]`, `tools[1]: the tool "google_search"`},
		{`"input":"hi","tools":[{"type":"function"}]`, "tools[0].name: it is required"},
		{`"input":"hi","tools":{}`, "tools: expected a list"},
		{`"input":"hi","generation_config":{"tool_choice":"maybe"}`, `tool_choice: "maybe" is none of`},
		{`"input":"hi","generation_config":{"tool_choice":{"allowed_tools":{"mode":"maybe"}}}`, `"maybe"`},
		{`"input":"hi","generation_config":{"temperature":"hot"}`, "generation_config.temperature: expected a number"},
		{`"input":"hi","generationConfig":{"maxOutputTokens":1.5}`, "generation_config.max_output_tokens: expected a whole number"},
		{`"input":"hi","response_modalities":["smell"]`, `response_modalities "smell"`},
		{`"input":"hi","environment":{}`, "environment: it is not supported"},
		{`"input":"hi","generation_config":{"speech_config":[{"voice":"x"}]}`, "generation_config.speech_config: it is not supported"},
		{`"input":"hi","generation_config":{"thinking_summaries":"some"}`, `generation_config.thinking_summaries: "some" is neither`},
		{`"continuation_token":"x"`, "continuation_token: it is none of this server"},
		{`"input":"hi","response_format":{"type":"image"}`, "response_format: image"},
		{`"input":"hi","response_format":"json"`, "response_format: "},
		{`"input":"hi","response_mime_type":"image/png"`, `"image/png"`},
		{`"input":"hi","labels":{"a":1}`, "expected a string"},
	} {
		body := `{"model":"gemini-x"`
		if c.rest != "" {
			body += "," + c.rest
		}
		s.do("POST", "/v1/interactions", body+"}").refused(400, "invalid_request", c.hint)
	}
	s.do("POST", "/v1/interactions", `{"input":"hi"}`).refused(400, "invalid_request", "model: it is required")
	for _, background := range []string{"true", "false"} {
		s.do("POST", "/v1/interactions", `{"model":"unheard-of","input":"hi","background":`+background+`}`).
			refused(404, "model_not_found", "configured are gemini-*")
	}
	id := s.create(`{"model":"gemini-x","input":"hi"}`).field("id")
	for _, unknown := range []string{"e0", "e1000", "7", "x"} {
		s.do("GET", "/v1/interactions/"+id+"?stream=true&last_event_id="+unknown, "").refused(400, "invalid_request", `this stream has no event "`+unknown)
	}
	if events, err := s.store.EventsAfter(t.Context(), s.project, store.EventFilter{}, 0, 10); err != nil || len(events) != 1 {
		t.Errorf("%d events, %v; what is refused must leave none behind", len(events), err)
	}
}

// A long answer in the foreground comes by instalments, if the server is told so:
// each time under another token, in the end the interaction itself.
func TestContinuation(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.AnswerWithin = time.Millisecond })
	first := s.create(`{"model":"slow","input":"hi"}`)
	id, token := first.field("id"), first.field("continuation_token")
	if first.field("status") != "requires_continuation" || token == "" || strings.Contains(first.body, "steps") {
		t.Fatalf("got %s", first.body)
	}
	again := func(token string) answer {
		return s.create(`{"model":"slow","previous_interaction_id":"` + id + `","continuation_token":"` + token + `"}`)
	}
	second := again(token)
	if second.field("status") != "requires_continuation" || second.field("continuation_token") == token || second.field("id") != id {
		t.Errorf("got %s, then %s", first.body, second.body)
	}
	<-s.asked
	if got := s.status(id); got != "in_progress" {
		t.Errorf("got %s", got)
	}
	if err := s.endJob(id); err != nil {
		t.Fatal(err)
	}
	if last := again(second.field("continuation_token")); last.field("status") != "completed" || last.field("id") != id {
		t.Errorf("got %s", last.body)
	}
	s.as(s.foreign, "POST", "/v1/interactions", `{"model":"slow","continuation_token":"`+token+`"}`).refused(404, "not_found", id)
}

// endJob ends an interaction as if its back-end had answered.
func (s *server) endJob(id string) error {
	return s.store.EndJob(s.t.Context(), ringback.ID(id), nil, &store.End{State: ringback.Completed, Output: []byte(`{"steps":[]}`), At: s.clock.Now()})
}

// Requests reach the back-end with what they ask for; the emulator obeys it.
func TestWhatTheBackendIsAsked(t *testing.T) {
	s := newServer(t)
	const schema = `{"type":"object","properties":{"city_name":{"type":"string"}},"required":["city_name"]}`
	const tools = `"tools":[{"type":"function","name":"f","parameters":` + schema + `},{"type":"function","name":"g"}]`
	for _, c := range []struct{ name, rest, want string }{
		{"json by schema", `"response_format":{"type":"text","mime_type":"application/json","schema":` + schema + `}`, `"text":"{\"city_name\":`},
		{"json by a list", `"response_format":[{"type":"text","mimeType":"application/json","schema":` + schema + `}]`, `"text":"{\"city_name\":`},
		{"json by a bare schema", `"response_format":` + schema, `"text":"{\"city_name\":`},
		{"plain text", `"response_format":{"type":"text"}`, "No model ran"},
		{"any tool", tools + `,"generation_config":{"tool_choice":"ANY"}`, `"name":"f","arguments":{"city_name":`},
		{"allowed tool", tools + `,"generation_config":{"toolChoice":{"allowedTools":{"mode":"any","tools":["g"]}}}`, `"name":"g","arguments":{}`},
		{"no tool", tools + `,"generation_config":{"tool_choice":"none"}`, "No model ran"},
		{"output limit", `"generation_config":{"max_output_tokens":2}`, `"status":"incomplete"`},
		{"system instruction", `"systemInstruction":"12345"`, "system instruction has 5 bytes"},
	} {
		if got := s.create(`{"model":"gemini-x","input":"call f",` + c.rest + `}`).body; !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s, want a part of %s", c.name, got, c.want)
		}
	}
	// A refusal of the back-end's own reaches the client whole.
	if got := s.create(`{"model":"refuse","input":"hi"}`).body; !strings.Contains(got, `"errors":[{"code":"invalid_request","message":"the context is too long"}]`) {
		t.Errorf("got %s", got)
	}
}

// A client that leaves a foreground interaction cancels it: nobody waits for it.
func TestTheClientLeaves(t *testing.T) {
	s := newServer(t)
	s.subscribe("interaction.cancelled")
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", s.url+"/v1/interactions", strings.NewReader(`{"model":"slow","input":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Goog-Api-Key", s.key)
	left := make(chan error, 1)
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	s.wait(s.asked, "the model is asked")
	leave()
	if err := <-left; err == nil {
		t.Fatal("the slow model answered")
	}
	s.waitTold()
	events, err := s.store.EventsAfter(t.Context(), s.project, store.EventFilter{}, 0, 10)
	if err != nil || len(events) != 1 || events[0].Type != ringback.InteractionCancelled {
		t.Errorf("events %v, %v; want one, cancelled", events, err)
	}
}
