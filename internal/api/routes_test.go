package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"ringback.dev/internal/api"
)

// route is one of the routes of wire contract §0.4 that this version serves.
type route struct {
	method, path, body, allow string
	classic                   bool
}

func routes() []route {
	return []route{
		{method: "POST", path: "/webhooks", body: `{}`, allow: "GET, POST"},
		{method: "GET", path: "/webhooks", allow: "GET, POST"},
		{method: "GET", path: "/webhooks/w1", allow: "DELETE, GET, PATCH"},
		{method: "PATCH", path: "/webhooks/w1", body: `{}`, allow: "DELETE, GET, PATCH"},
		{method: "DELETE", path: "/webhooks/w1", allow: "DELETE, GET, PATCH"},
		{method: "POST", path: "/webhooks/w1:ping", allow: "POST"},
		{method: "POST", path: "/webhooks/w1:rotateSigningSecret", allow: "POST"},
		{method: "POST", path: "/webhooks/w1/rotate_secret", allow: "POST"},
		{method: "POST", path: "/interactions", body: `{}`, allow: "POST"},
		{method: "GET", path: "/interactions/v1_x", allow: "DELETE, GET"},
		{method: "DELETE", path: "/interactions/v1_x", allow: "DELETE, GET"},
		{method: "POST", path: "/interactions/v1_x/cancel", allow: "POST"},
		{method: "POST", path: "/interactions/v1_x:cancel", allow: "POST"},
		{method: "GET", path: "/models", allow: "GET", classic: true},
		{method: "GET", path: "/models/gemini-x", allow: "GET", classic: true},
		{method: "POST", path: "/models/gemini-x:generateContent", body: `{}`, allow: "POST", classic: true},
		{method: "POST", path: "/models/gemini-x:streamGenerateContent?alt=sse", body: `{}`, allow: "POST", classic: true},
		{method: "POST", path: "/models/org/model:countTokens", body: `{}`, allow: "POST", classic: true},
		{method: "POST", path: "/models/gemini-x:predictLongRunning", body: `{}`, allow: "POST", classic: true},
		{method: "GET", path: "/models/org/model/operations/op1", allow: "DELETE, GET", classic: true},
		{method: "DELETE", path: "/operations/op1", allow: "DELETE, GET", classic: true},
		{method: "POST", path: "/models/gemini-x/operations/op1:cancel", allow: "POST", classic: true},
		{method: "GET", path: "/operations", allow: "GET", classic: true},
	}
}

func TestEveryRouteWantsAKeyAndItsMethod(t *testing.T) {
	s := newServer(t)
	for _, version := range []string{"/v1", "/v1beta", "/v1alpha"} {
		for _, r := range routes() {
			path := version + r.path
			missing, wrong := s.as("", r.method, path, r.body), s.as("AIzaWrong", r.method, path, r.body)
			other := s.do("PUT", path, "")
			if r.classic {
				missing.refusedClassic(403, "PERMISSION_DENIED", "API key is missing")
				wrong.refusedClassic(400, "INVALID_ARGUMENT", "API key not valid")
				if !strings.Contains(wrong.body, `"reason":"API_KEY_INVALID"`) {
					t.Errorf("%s: the reason is missing: %s", path, wrong.body)
				}
				other.refusedClassic(405, "INVALID_ARGUMENT", "PUT")
			} else {
				missing.refused(401, "authentication", "API key is missing")
				wrong.refused(401, "authentication", "API key not valid")
				other.refused(405, "invalid_request", "PUT")
			}
			if got := other.header.Get("Allow"); got != r.allow {
				t.Errorf("PUT %s: Allow is %q, want %q", path, got, r.allow)
			}
		}
	}
}

func TestResourcesOfOthersAreNotThere(t *testing.T) {
	s := newServer(t)
	w := s.subscribe("batch.succeeded")
	i := s.do("POST", "/v1/interactions", `{"model":"slow","input":"hi","background":true}`).ok().field("id")
	replace := strings.NewReplacer("w1", w, "v1_x", i)
	for _, r := range routes() {
		if path := replace.Replace(r.path); path != r.path {
			s.as(s.foreign, r.method, "/v1"+path, r.body).refused(404, "not_found", "there is no")
		}
	}
	s.as(s.foreign, "POST", "/v1/interactions", `{"model":"gemini-x","input":"hi","previous_interaction_id":"`+i+`"}`).refused(404, "not_found", i)
	if got := s.as(s.foreign, "GET", "/v1/webhooks", "").ok().body; got != `{"webhooks":[]}` {
		t.Errorf("another project sees %s", got)
	}
	s.do("GET", "/v1/webhooks/"+w, "").ok()
	if got := s.do("GET", "/v1/interactions/"+i, "").ok().field("status"); got != "in_progress" {
		t.Errorf("status %q after another project's tries to cancel and delete", got)
	}
}

func TestTheThreePlacesOfAKey(t *testing.T) {
	s := newServer(t)
	s.send("GET", "/v1/webhooks?key="+s.key, http.Header{}, nil).ok()
	s.send("GET", "/v1/webhooks", http.Header{"Authorization": {"Bearer " + s.key}}, nil).ok()
	// The header comes first, whatever the others hold.
	s.send("GET", "/v1/webhooks?key=wrong", http.Header{"X-Goog-Api-Key": {s.key}, "Authorization": {"Bearer wrong"}}, nil).ok()
	s.send("GET", "/v1/webhooks?key="+s.key, http.Header{"X-Goog-Api-Key": {"wrong"}}, nil).refused(401, "authentication", "not valid")
}

func TestInDevAnyKeyIsTheProjects(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.AnyKey = "prj_dev" })
	s.as("whatever", "GET", "/v1/webhooks", "").ok()
	s.as("", "GET", "/v1/webhooks", "").refused(401, "authentication", "missing")
}

func TestPathAliases(t *testing.T) {
	s := newServer(t)
	id := s.subscribe("batch.succeeded")
	for _, name := range []string{id, "webhooks/" + id, "webhooks%2F" + id} {
		if got := s.do("GET", "/v1/webhooks/"+name, "").ok().field("id"); got != id {
			t.Errorf("%s: got the webhook %q", name, got)
		}
		s.do("POST", "/v1/webhooks/"+name+":ping", "").ok()
		for _, verb := range []string{":rotateSigningSecret", "/rotate_secret", ":rotate_secret", ":rotateSecret", "/rotateSigningSecret"} {
			if got := s.do("POST", "/v1/webhooks/"+name+verb, "{}").ok().field("secret"); !strings.HasPrefix(got, "whsec_") {
				t.Errorf("%s%s: got the secret %q", name, verb, got)
			}
		}
	}
	for _, verb := range []string{"/cancel", ":cancel"} {
		for _, prefix := range []string{"", "interactions/", "interactions%2F"} {
			job := s.do("POST", "/v1beta/interactions", `{"model":"slow","input":"hi","background":true}`).ok().field("id")
			if got := s.do("POST", "/v1beta/interactions/"+prefix+job+verb, "").ok().field("status"); got != "cancelled" {
				t.Errorf("%s%s: status %q", prefix, verb, got)
			}
		}
	}
}

func TestUnknownPaths(t *testing.T) {
	s := newServer(t)
	for path, hint := range map[string]string{
		"/":                            "there is no /",
		"/v2/models":                   "there is no /v2/models",
		"/v1/tunedModels/t1":           "does not serve tuned models yet",
		"/v1/models/m:predict":         "does not serve images yet",
		"/v1/operations/o1:fly":        "there is no /v1/operations/o1:fly",
		"/v1/models/m/operations/o1/x": "there is no",
	} {
		for _, method := range []string{"GET", "POST"} {
			s.do(method, path, "").refusedClassic(404, "NOT_FOUND", hint)
		}
	}
	s.do("POST", "/v1/models/m:fly", "").refusedClassic(404, "NOT_FOUND", "there is no /v1/models/m:fly")
	s.do("POST", "/v1/webhooks/w1:fly", "").refused(404, "not_found", "/v1/webhooks/w1:fly")
	s.do("POST", "/v1/interactions/v1_x/fly", "").refused(404, "not_found", "/v1/interactions/v1_x/fly")
}

func TestBrowsersMayCall(t *testing.T) {
	s := newServer(t)
	a := s.send("OPTIONS", "/v1/interactions", http.Header{"Origin": {"https://app.example"},
		"Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"x-goog-api-key,content-type"}}, nil)
	if a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" ||
		a.header.Get("Access-Control-Allow-Headers") != "x-goog-api-key,content-type" ||
		!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "PATCH") {
		t.Errorf("preflight: got %d %v", a.status, a.header)
	}
	// The error of a call from a browser must be readable to it, too.
	if a := s.send("GET", "/v1/webhooks", http.Header{"Origin": {"https://app.example"}}, nil); a.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("an error without CORS headers: %v", a.header)
	}
}

func TestBodiesThatAreTooLarge(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.MaxBody = 200 })
	key := http.Header{"X-Goog-Api-Key": {s.key}}
	large := `{"model":"gemini-x","input":"` + strings.Repeat("a", 200) + `"}`
	for name, body := range map[string]io.Reader{
		"of known length":   strings.NewReader(large),
		"of unknown length": io.MultiReader(strings.NewReader(large)),
	} {
		t.Run(name, func(t *testing.T) {
			s.send("POST", "/v1/interactions", key, body).refused(413, "invalid_request", "--max-request-bytes")
		})
	}
	s.do("POST", "/v1/models/gemini-x:generateContent", large).refusedClassic(413, "INVALID_ARGUMENT", "200 bytes")
	s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"hi"}`).ok()
}

func TestPanicsAreAnsweredAndLogged(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.CheckURI = func(string) error { panic("a secret detail") } })
	a := s.do("POST", "/v1/webhooks", `{"uri":"https://e.com","subscribed_events":["batch.succeeded"]}`)
	a.refused(500, "api_error", a.header.Get("X-Request-Id"))
	if strings.Contains(a.body, "secret detail") {
		t.Errorf("the answer tells details: %s", a.body)
	}
	if log := s.log.String(); !strings.Contains(log, "a secret detail") || !strings.Contains(log, a.header.Get("X-Request-Id")) {
		t.Errorf("the log lacks the panic or the request's id: %s", log)
	}
	s.do("GET", "/v1/webhooks", "").ok()
}

func TestInternalErrorsTellNoDetails(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.CheckURI = func(string) error { return errors.New("disk sda1 is odd") } })
	a := s.do("POST", "/v1/webhooks", `{"uri":"https://e.com","subscribed_events":["batch.succeeded"]}`)
	a.refused(500, "api_error", "internal")
	if strings.Contains(a.body, "sda1") || strings.Count(s.log.String(), "sda1") != 1 {
		t.Errorf("answered %s, logged %s; want the detail once, in the log", a.body, s.log)
	}
}

func TestOneLogLinePerRequestWithoutKeys(t *testing.T) {
	s := newServer(t)
	a := s.do("GET", "/v1/webhooks/w1?key="+s.foreign, "")
	lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
	if len(lines) != 1 {
		t.Fatalf("got %d lines, want 1: %q", len(lines), lines)
	}
	if strings.Contains(lines[0], s.key) || strings.Contains(lines[0], s.foreign) {
		t.Errorf("a key is in the log: %s", lines[0])
	}
	var line struct {
		Method, Route, Project, Request string
		Status                          int
	}
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatal(err)
	}
	if line.Method != "GET" || line.Route != "webhooks/{id}" || line.Status != 404 || line.Project != string(s.project) || line.Request != a.header.Get("X-Request-Id") {
		t.Errorf("got %+v", line)
	}
}

func TestMalformedBodies(t *testing.T) {
	s := newServer(t)
	for _, path := range []string{"/v1/webhooks", "/v1/interactions"} {
		for body, hint := range map[string]string{
			"":                         "empty",
			"{":                        "too early",
			`{"uri":}`:                 "malformed JSON at byte",
			`[]`:                       "an object",
			`{} {}`:                    "data after",
			`{"name":1,"model":1}`:     "expected a string, got number",
			strings.Repeat("[", 20000): "malformed",
		} {
			s.do("POST", path, body).refused(400, "invalid_request", hint)
		}
	}
	s.do("POST", "/v1/models/gemini-x:generateContent", `{"contents":[{"parts":[{"text":1}]}]}`).refusedClassic(400, "INVALID_ARGUMENT", "text: expected a string")
}

// Codes that end in an HTTP error of a back-end, and the wait that it asked for.
func TestBackendErrors(t *testing.T) {
	s := newServer(t)
	const hi = `{"contents":[{"parts":[{"text":"hi"}]}]}`
	s.do("POST", "/v1/models/refuse:generateContent", hi).refusedClassic(400, "INVALID_ARGUMENT", "the context is too long")
	s.do("POST", "/v1/models/fail:generateContent", hi).refusedClassic(500, "INTERNAL", "the model is not reachable")
	s.do("POST", "/v1/models/unheard-of:generateContent", hi).refusedClassic(404, "NOT_FOUND", "configured are gemini-*")
	busy := s.do("POST", "/v1/models/busy:generateContent", hi)
	busy.refusedClassic(429, "RESOURCE_EXHAUSTED", "rate")
	if got := busy.header.Get("Retry-After"); got != "7" {
		t.Errorf("Retry-After is %q, want 6.5 s rounded up", got)
	}
}

// The encoder must not escape what JavaScript's would not.
func TestAnswersAreNotEscapedForHTML(t *testing.T) {
	s := newServer(t)
	if a := s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"<a&b>"}`).ok(); !bytes.Contains([]byte(a.body), []byte("<a&b>")) {
		t.Errorf("escaped: %s", a.body)
	}
}
