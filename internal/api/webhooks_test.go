package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/api"
	"ringback.dev/internal/store"
	"ringback.dev/webhook"
)

func TestWebhookLife(t *testing.T) {
	s := newServer(t)
	created := s.do("POST", "/v1/webhooks",
		`{"name":"MyHook","uri":"https://example.com/cb?a=1&b=2","subscribed_events":["batch.succeeded","interaction.completed","batch.completed"],"someday":{}}`).
		golden("webhook_created")
	id := created.field("id")
	s.do("GET", "/v1/webhooks/"+id, "").golden("webhook")
	s.do("GET", "/v1/webhooks", "").golden("webhooks")

	s.clock.Add(time.Minute)
	s.do("PATCH", "/v1/webhooks/"+id, `{"subscribed_events":["video.generated"],"state":"DISABLED"}`).golden("webhook_updated")
	s.do("POST", "/v1/webhooks/"+id+":ping", "").refused(400, "failed_precondition", "disabled")
	s.do("PATCH", "/v1/webhooks/"+id, `{"state":"enabled"}`).ok()

	if got := s.do("POST", "/v1/webhooks/"+id+":ping", "").ok().body; got != "{}" {
		t.Errorf("ping: got %s", got)
	}
	s.waitTold()
	events, err := s.store.EventsAfter(t.Context(), s.project, store.EventFilter{}, 0, 10)
	if err != nil || len(events) != 1 || events[0].Type != ringback.Ping {
		t.Fatalf("after a ping: events %v, %v", events, err)
	}
	want := `{"type":"ping","version":"v1","timestamp":"2026-01-22T12:01:00.123456Z","data":{"id":"` + id + `"}}`
	if got := string(events[0].Body); got != want {
		t.Errorf("ping: body %s, want %s", got, want)
	}

	if got := s.do("DELETE", "/v1/webhooks/"+id, "").ok().body; got != "{}" {
		t.Errorf("delete: got %s", got)
	}
	for _, r := range []struct{ method, suffix string }{{"GET", ""}, {"PATCH", ""}, {"DELETE", ""}, {"POST", ":ping"}, {"POST", ":rotateSigningSecret"}} {
		s.do(r.method, "/v1/webhooks/"+id+r.suffix, "{}").refused(404, "not_found", id)
	}
}

func TestWebhooksThatAreRefused(t *testing.T) {
	s := newServer(t)
	var everyEvent []string
	for _, e := range ringback.EventTypes() {
		everyEvent = append(everyEvent, string(e))
	}
	known := strings.Join(everyEvent, ", ")
	const events = `,"subscribed_events":["batch.succeeded"]}`
	for _, c := range []struct{ body, hint string }{
		{`{}`, "uri: it is required"},
		{`null`, "uri: it is required"},
		{`{"uri":null` + events, "uri: it is required"},
		{`{"uri":"https://e.com"}`, "subscribed_events: it is required; the known events are " + known},
		{`{"uri":"https://e.com","subscribed_events":[]}`, "at least one event is required; the known events are " + known},
		{`{"uri":"https://e.com","subscribed_events":["batch.done"]}`, `unknown event "batch.done"; the known events are ` + known},
		{`{"uri":"https://e.com","subscribed_events":["ping"]}`, `unknown event "ping"`},
		{`{"uri":"https://e.com","subscribed_events":"batch.succeeded"}`, "subscribed_events: expected a list, got string"},
		{`{"uri":7` + events, "uri: expected a string, got number"},
		{`{"uri":""` + events, "uri: it is required"},
		{`{"uri":"http://e.com"` + events, "--allow-http-callbacks"},
		{`{"uri":"https://127.0.0.1/x"` + events, "--allow-private-callbacks"},
		{`{"uri":"https://localhost:8080"` + events, "--allow-private-callbacks"},
		{`{"uri":"ftp://e.com"` + events, "https://"},
		{`{"uri":"/relative"` + events, "absolute"},
		{`{"name":"` + strings.Repeat("n", 257) + `","uri":"https://e.com"` + events, "name: at most 256 bytes"},
	} {
		s.do("POST", "/v1/webhooks", c.body).refused(400, "invalid_request", c.hint)
	}
	if got := s.do("GET", "/v1/webhooks", "").ok().body; got != `{"webhooks":[]}` {
		t.Errorf("what was refused is there: %s", got)
	}
}

func TestWebhookIDOfTheClientsChoice(t *testing.T) {
	s := newServer(t)
	const body = `{"uri":"https://e.com","subscribed_events":["batch.succeeded"]}`
	for parameter, id := range map[string]string{"webhook_id": "my-id-1", "webhookId": "my-id-2"} {
		if got := s.do("POST", "/v1/webhooks?"+parameter+"="+id, body).ok().field("id"); got != id {
			t.Errorf("%s=%s: got the id %q", parameter, id, got)
		}
	}
	for _, id := range []string{"A", "a_b", "a%2Fb", "a:b", strings.Repeat("a", 64)} {
		s.do("POST", "/v1/webhooks?webhook_id="+id, body).refused(400, "invalid_request", "1 to 63 characters of [a-z0-9-]")
	}
	// No 409 on this surface: its SDKs would repeat the call.
	s.do("POST", "/v1/webhooks?webhook_id=my-id-1", body).refused(400, "failed_precondition", "my-id-1 is taken")
}

func TestUpdateMask(t *testing.T) {
	s := newServer(t)
	id := s.subscribe("batch.succeeded")
	type shown struct {
		Name, URI, State string
		Events           []string `json:"subscribed_events"`
	}
	// Every update holds all fields; the mask decides which ones change.
	n := 0
	for mask, changed := range map[string][]string{
		"":                        {"name", "uri", "state", "events"},
		"*":                       {"name", "uri", "state", "events"},
		"name":                    {"name"},
		"subscribed_events,state": {"events", "state"},
		"subscribedEvents, uri":   {"events", "uri"},
		"name,labels.x":           {"name"},
		"labels":                  nil,
	} {
		n++
		var want, got shown
		read := func(into *shown) {
			if err := json.Unmarshal([]byte(s.do("GET", "/v1/webhooks/"+id, "").ok().body), into); err != nil {
				t.Fatal(err)
			}
		}
		read(&want)
		next := shown{Name: fmt.Sprint("n", n), URI: fmt.Sprintf("https://e.com/%d", n), State: "disabled", Events: []string{"batch.failed"}}
		if want.State == "disabled" {
			next.State = "enabled"
		}
		if want.Events[0] == "batch.failed" {
			next.Events[0] = "batch.succeeded"
		}
		for _, field := range changed {
			switch field {
			case "name":
				want.Name = next.Name
			case "uri":
				want.URI = next.URI
			case "state":
				want.State = next.State
			case "events":
				want.Events = next.Events
			}
		}
		body, err := json.Marshal(map[string]any{"name": next.Name, "uri": next.URI, "state": next.State, "subscribed_events": next.Events})
		if err != nil {
			t.Fatal(err)
		}
		s.do("PATCH", "/v1/webhooks/"+id+"?update_mask="+url.QueryEscape(mask), string(body)).ok()
		read(&got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("mask %q (-want +got):\n%s", mask, d)
		}
	}
	// What is listed but not present stays; what is not listed need not be valid.
	before := s.do("GET", "/v1/webhooks/"+id, "").body
	s.do("PATCH", "/v1/webhooks/"+id+"?updateMask=name,uri", `{"state":"bogus"}`).ok()
	if after := s.do("GET", "/v1/webhooks/"+id, "").body; after != before {
		t.Errorf("changed from %s to %s", before, after)
	}
}

func TestUpdatesThatAreRefused(t *testing.T) {
	s := newServer(t)
	id := s.subscribe("batch.succeeded")
	before := s.do("GET", "/v1/webhooks/"+id, "").ok().body
	for body, hint := range map[string]string{
		`{"state":"disabled_due_to_failed_deliveries"}`: "can't be set",
		`{"state":"on"}`:                              `"enabled" and "disabled" can`,
		`{"name":"x","subscribed_events":[]}`:         "at least one event",
		`{"name":"x","subscribed_events":["no"]}`:     "unknown event",
		`{"name":"x","uri":"http://e.com"}`:           "--allow-http-callbacks",
		`{"name":"` + strings.Repeat("é", 129) + `"}`: "256 bytes",
		``: "empty",
	} {
		s.do("PATCH", "/v1/webhooks/"+id, body).refused(400, "invalid_request", hint)
	}
	if after := s.do("GET", "/v1/webhooks/"+id, "").body; after != before {
		t.Errorf("a refused update changed %s to %s", before, after)
	}
}

// liveSecrets returns the live secrets of an endpoint as they would sign, newest first.
func (s *server) liveSecrets(id string) []string {
	s.t.Helper()
	e, err := s.store.Endpoint(s.t.Context(), s.project, ringback.ID(id))
	if err != nil {
		s.t.Fatal(err)
	}
	var plain []string
	for _, secret := range e.LiveSecrets(s.clock.Now()) {
		b, err := s.secrets.Unseal(secret.Sealed, "endpoint/"+id)
		if err != nil {
			s.t.Fatal(err)
		}
		if strings.Contains(string(secret.Sealed), string(b)) {
			s.t.Error("the secret rests in the clear")
		}
		plain = append(plain, string(b))
	}
	return plain
}

func TestRotation(t *testing.T) {
	s := newServer(t)
	created := s.do("POST", "/v1/webhooks", `{"uri":"https://example.com","subscribed_events":["batch.succeeded"]}`).ok()
	id, first := created.field("id"), created.field("new_signing_secret")
	if _, err := webhook.ParseSecret(first); err != nil {
		t.Fatalf("the secret %q: %v", first, err)
	}
	rotate := func(body string) string {
		t.Helper()
		a := s.do("POST", "/v1/webhooks/"+id+":rotateSigningSecret", body).ok()
		if _, err := webhook.ParseSecret(a.field("secret")); err != nil {
			t.Fatalf("rotate: %v: %s", err, a.body)
		}
		return a.field("secret")
	}
	shown := func() string {
		t.Helper()
		var w struct {
			Secrets []struct {
				Truncated string `json:"truncated_secret"`
				Expires   string `json:"expire_time"`
			} `json:"signing_secrets"`
		}
		a := s.do("GET", "/v1/webhooks/"+id, "").ok()
		if strings.Contains(a.body, "new_signing_secret") {
			t.Errorf("the whole secret is shown again: %s", a.body)
		}
		if err := json.Unmarshal([]byte(a.body), &w); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(w.Secrets)
	}
	end := func(secret, expires string) string {
		return "{whsec_..." + secret[len(secret)-4:] + " " + expires + "}"
	}
	check := func(when string, wantShown string, want ...string) {
		t.Helper()
		if got := s.liveSecrets(id); !slices.Equal(got, want) {
			t.Errorf("%s: %d secrets sign, want %d, or they are others or in another order", when, len(got), len(want))
		}
		if got := shown(); got != wantShown {
			t.Errorf("%s: shown are %s, want %s", when, got, wantShown)
		}
	}
	check("at first", "["+end(first, "")+"]", first)

	second := rotate("")
	check("after a rotation with overlap", "["+end(second, "")+" "+end(first, "2026-01-23T12:00:00.123456Z")+"]", second, first)

	s.clock.Add(time.Hour)
	third := rotate(`{"revocation_behavior":"REVOKE_PREVIOUS_SECRETS_AFTER_H24"}`)
	check("after another", "["+end(third, "")+" "+end(second, "2026-01-23T13:00:00.123456Z")+" "+end(first, "2026-01-23T12:00:00.123456Z")+"]", third, second, first)

	s.clock.Add(23*time.Hour + time.Second)
	check("when the first has expired", "["+end(third, "")+" "+end(second, "2026-01-23T13:00:00.123456Z")+"]", third, second)

	fourth := rotate(`{"revocationBehavior":"revoke_previous_secrets_immediately"}`)
	check("after a rotation that revokes", "["+end(fourth, "")+"]", fourth)

	s.do("POST", "/v1/webhooks/"+id+":rotateSigningSecret", `{"revocation_behavior":"later"}`).refused(400, "invalid_request", `"later" is neither`)
	check("after a refused rotation", "["+end(fourth, "")+"]", fourth)
}

func TestWebhookPages(t *testing.T) {
	s := newServer(t)
	var want []string
	for range 7 {
		want = append(want, s.subscribe("batch.succeeded"))
		s.clock.Add(time.Second)
	}
	type page struct {
		Webhooks []struct{ ID string }
		Next     string `json:"next_page_token"`
	}
	get := func(query string) (p page) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.do("GET", "/v1/webhooks?"+query, "").ok().body), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, names := range [][2]string{{"page_size", "page_token"}, {"pageSize", "pageToken"}} {
		var got []string
		pages := 0
		for token := ""; ; {
			p := get(names[0] + "=3&" + names[1] + "=" + url.QueryEscape(token))
			for _, w := range p.Webhooks {
				got = append(got, w.ID)
			}
			pages++
			if token = p.Next; token == "" || pages > 9 {
				break
			}
		}
		if pages != 3 || !slices.Equal(got, want) {
			t.Errorf("%s: %d pages with %v, want 3 with %v", names[0], pages, got, want)
		}
	}
	if p := get("page_size=7"); p.Next != "" || len(p.Webhooks) != 7 {
		t.Errorf("a page that holds all: %d webhooks, token %q", len(p.Webhooks), p.Next)
	}
	if p := get("page_size=0"); len(p.Webhooks) != 7 {
		t.Errorf("page_size 0 shows %d", len(p.Webhooks))
	}
	// The webhook that a token names may be gone when the next page is asked for.
	p := get("page_size=3")
	s.do("DELETE", "/v1/webhooks/"+want[2], "").ok()
	if next := get("page_size=3&page_token=" + p.Next); len(next.Webhooks) != 3 || next.Webhooks[0].ID != want[3] {
		t.Errorf("after a delete: %+v, want it to begin with %s", next, want[3])
	}
	for query, hint := range map[string]string{"page_size=x": "page_size", "page_size=-1": "page_size", "page_token=%25%25": "page_token", "page_token=_____w": "page_token"} {
		s.do("GET", "/v1/webhooks?"+query, "").refused(400, "invalid_request", hint)
	}
}

func TestAtMostAHundredWebhooks(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.CheckURI = func(string) error { return nil } })
	for range 100 {
		s.subscribe("batch.succeeded")
	}
	const body = `{"uri":"https://e.com","subscribed_events":["batch.succeeded"]}`
	s.do("POST", "/v1/webhooks", body).refused(400, "failed_precondition", "100 webhooks")
	s.as(s.foreign, "POST", "/v1/webhooks", body).ok()
	var all struct{ Webhooks []struct{ ID string } }
	if err := json.Unmarshal([]byte(s.do("GET", "/v1/webhooks", "").ok().body), &all); err != nil || len(all.Webhooks) != 50 {
		t.Errorf("the default page holds %d webhooks, %v; want 50", len(all.Webhooks), err)
	}
	if err := json.Unmarshal([]byte(s.do("GET", "/v1/webhooks?page_size=100000", "").ok().body), &all); err != nil || len(all.Webhooks) != 100 {
		t.Errorf("the largest page holds %d webhooks, %v; want all 100", len(all.Webhooks), err)
	}
}
