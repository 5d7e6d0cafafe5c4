package api_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ringback.dev/internal/api"
)

// target is the surface without the network and without a log.
func target(f *testing.F) http.Handler {
	var h http.Handler
	newServer(f, func(c *api.Config) {
		c.AnyKey, c.MaxBody = "prj_fuzz", 1<<16
		c.Log = slog.New(slog.DiscardHandler)
		h = api.New(*c)
	})
	return h
}

// post answers a body and checks that the answer is one that the SDKs can read.
func post(t *testing.T, h http.Handler, method, path string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("X-Goog-Api-Key", "any")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	switch w.Code {
	case 200, 400, 404, 413:
	default:
		t.Fatalf("%q: answered %d %s", body, w.Code, w.Body)
	}
	var e struct {
		Error struct{ Code, Message string }
		ID    string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("%q: answered %s: %v", body, w.Body, err)
	}
	if ok := w.Code == 200; ok != (e.Error.Code == "") || ok != (e.Error.Message == "") {
		t.Fatalf("%q: answered %d %s", body, w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "internal error") {
		t.Fatalf("%q: a panic: %s", body, w.Body)
	}
	return w
}

func FuzzCreateInteraction(f *testing.F) {
	h := target(f)
	for _, body := range []string{
		`{"model":"gemini-x","input":"hi"}`,
		`{"model":"gemini-x","input":{"type":"image","data":"AA==","mime_type":"image/png"},"labels":{"a":"b"},"service_tier":"FLEX"}`,
		`{"model":"gemini-x","input":[{"type":"user_input","content":[{"type":"text","text":"f"}]},{"type":"thought","signature":"c2ln","summary":[{"type":"text","text":"hm"}]},
			{"type":"function_call","id":"c","name":"f","arguments":{"a":1}},{"type":"function_result","callId":"c","result":[1],"is_error":true}],
			"tools":[{"type":"function","name":"f","parameters":{"type":"object","properties":{"a":{"type":"string","enum":["x"]}}}}]}`,
		`{"model":"gemini-x","input":"f","generation_config":{"temperature":0.5,"max_output_tokens":-1,"stop_sequences":["a"],"tool_choice":{"allowed_tools":{"mode":"any","tools":["f"]}}}}`,
		`{"model":"gemini-x","input":"f","response_format":[{"type":"text","schema":{"type":["object","null"],"$ref":"#"}}],"previous_interaction_id":"v1_x"}`,
		`{"model":"gemini-x","input":"\ud800","response_mime_type":"application/json","response_format":{"anyOf":[]}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		// What is stored costs a sync of the disk; the fuzzer has better uses of its time.
		var q map[string]json.RawMessage
		if json.Unmarshal(body, &q) == nil && q != nil {
			q["store"] = json.RawMessage("false")
			if changed, err := json.Marshal(q); err == nil {
				body = changed
			}
		}
		post(t, h, "POST", "/v1/interactions", body)
	})
}

func FuzzCreateWebhook(f *testing.F) {
	h := target(f)
	for _, body := range []string{
		`{"name":"n","uri":"https://example.com/cb","subscribed_events":["batch.succeeded"]}`,
		`{"uri":"https://[::1]:80/","subscribedEvents":["interaction.completed","batch.completed"],"state":"disabled"}`,
		`{"uri":"https://user@e.com/#f","subscribed_events":[]}`,
	} {
		f.Add([]byte(body), "name")
		f.Add([]byte(body), "*")
	}
	f.Fuzz(func(t *testing.T, body []byte, mask string) {
		w := post(t, h, "POST", "/v1/webhooks", body)
		if w.Code != 200 {
			return
		}
		var made struct{ ID string }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil {
			t.Fatal(err)
		}
		path := "/v1/webhooks/" + made.ID
		r := httptest.NewRequest("GET", path, nil)
		q := r.URL.Query()
		q.Set("update_mask", mask)
		if w := post(t, h, "PATCH", path+"?"+q.Encode(), body); w.Code != 200 {
			// Only a state that can't be set makes a body that was good enough for
			// create bad for update; create passes over the state.
			if !strings.Contains(w.Body.String(), "state: ") {
				t.Errorf("%q was created and can't be updated: %s", body, w.Body)
			}
		}
		if w := post(t, h, "DELETE", path, nil); w.Code != 200 {
			t.Errorf("delete: %s", w.Body)
		}
	})
}
