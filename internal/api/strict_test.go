package api_test

import (
	"strings"
	"testing"

	"ringback.dev/internal/api"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
)

// With a route for every name, as in ringback dev, a path that is no model's
// must not be taken for one.
func TestPathsThatAreNoModels(t *testing.T) {
	s := newServer(t, func(c *api.Config) {
		router, err := backend.NewRouter([]backend.Route{{Match: "*", Backend: emulator.New(nil)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Backend = router
	})
	s.do("GET", "/v1beta/models/veo/operations/op1", "").refusedClassic(404, "NOT_FOUND", `no operation "op1"`)
	s.do("GET", "/v1beta/models/", "").refusedClassic(404, "NOT_FOUND", "there is no /v1beta/models/")
	s.do("POST", "/v1beta/models/:generateContent", hello).refusedClassic(404, "NOT_FOUND", "there is no /v1beta/models/:generateContent")
	// A name may hold a colon; there is no verb on GET.
	if got := s.do("GET", "/v1beta/models/qwen2.5:0.5b", "").ok().field("name"); got != "models/qwen2.5:0.5b" {
		t.Errorf("got %q", got)
	}
	s.do("POST", "/v1beta/models/qwen2.5:0.5b:countTokens", hello).ok()
}

func TestPageTokensThatThisServerDidNotGive(t *testing.T) {
	s := newServer(t)
	s.subscribe("batch.succeeded")
	s.do("GET", "/v1/webhooks?page_token=aGVsbG8", "").refused(400, "invalid_request", "page_token") // "hello"
	s.do("GET", "/v1/models?pageToken=aGVsbG8", "").refusedClassic(400, "INVALID_ARGUMENT", "page_token")
}

func TestInputThatSaysNothing(t *testing.T) {
	s := newServer(t)
	for _, input := range []string{
		`[{"type":"user_input","content":[]}]`,
		`[{"type":"user_input"}]`,
		`{"type":"text","text":""}`,
		`[{"type":"model_output","content":[{"type":"text","text":""}]}]`,
	} {
		s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":`+input+`}`).refused(400, "invalid_request", "input: it is empty")
	}
	s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":[{"type":"function_result","call_id":"c","result":1}]}`).
		refused(400, "invalid_request", `input[0].call_id: no function_call "c"`)
	s.create(`{"model":"gemini-x","input":[{"type":"text","text":""},{"type":"text","text":"hi"}]}`)
}

func TestNullSchemaIsNoSchema(t *testing.T) {
	s := newServer(t)
	if a := s.create(`{"model":"gemini-x","input":"hi","response_format":{"type":"text","schema":null}}`); !strings.Contains(a.body, "No model ran") {
		t.Errorf("got %s", a.body)
	}
	s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"hi","response_format":[null]}`).refused(400, "invalid_request", "response_format")
}
