package api_test

import (
	"testing"

	"ringback.dev"
)

// TestDynamicWebhooks: the addresses of a request get its events instead of the
// project's webhooks, each under an id of its own, with the metadata.
func TestDynamicWebhooks(t *testing.T) {
	for _, c := range []struct{ name, config, metadata string }{
		{"snake", `"webhook_config":{"uris":["https://a.example/x","https://b.example/","https://a.example/x"],"user_metadata":{"z":1.0,"10":"a","2":[" "]}}`, `{"2":[" "],"10":"a","z":1}`},
		{"camel", `"webhookConfig":{"uris":["https://a.example/x","https://b.example/"],"userMetadata":{ "k" : null }}`, `{"k":null}`},
		{"no metadata", `"webhook_config":{"uris":["https://a.example/x","https://b.example/"]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			s.subscribe("interaction.completed")
			a := s.create(`{"model":"gemini-3.6-flash","input":"please say hello",` + c.config + `}`)
			id := ringback.ID(a.field("id"))
			events, err := s.store.JobEvents(t.Context(), s.project, id)
			if err != nil || len(events) != 1 {
				t.Fatalf("got %+v, %v", events, err)
			}
			want := `{"type":"interaction.completed","version":"v1","timestamp":"2026-01-22T12:00:00.123456Z","data":{"id":"` + string(id) + `"`
			if c.metadata != "" {
				want += `,"user_metadata":` + c.metadata + `},"user_metadata":` + c.metadata + `}`
			} else {
				want += "}}"
			}
			if got := string(events[0].Body); got != want {
				t.Errorf("got body %s, want %s", got, want)
			}
			if s := events[0].Skipped; len(s) != 1 || s[0].Reason != ringback.Replaced || s[0].Count != 1 {
				t.Errorf("skipped %+v", s)
			}
			all, err := s.store.EventDeliveries(t.Context(), s.project, events[0].ID)
			if err != nil || len(all) != 2 || all[0].ID == all[1].ID || all[0].Target == all[1].Target {
				t.Fatalf("got %+v, %v", all, err)
			}
			seen := map[string]bool{}
			for _, d := range all {
				seen[d.URI] = d.Endpoint == "" && d.Scheme == ringback.JWT
			}
			if !seen["https://a.example/x"] || !seen["https://b.example/"] {
				t.Errorf("got %+v", all)
			}
		})
	}
	// Without an address the project's webhooks hear of it, and the resource shows
	// what was asked for.
	s := newServer(t)
	s.subscribe("interaction.completed")
	for _, config := range []string{`{"uris":[],"user_metadata":{"a":1}}`, `{"user_metadata":{"a":1}}`, `{}`} {
		a := s.create(`{"model":"gemini-3.6-flash","input":"hi","webhook_config":` + config + `}`)
		events, err := s.store.JobEvents(t.Context(), s.project, ringback.ID(a.field("id")))
		if err != nil || len(events) != 1 || len(events[0].Skipped) != 0 {
			t.Fatalf("got %+v, %v", events, err)
		}
		if all, err := s.store.EventDeliveries(t.Context(), s.project, events[0].ID); err != nil || len(all) != 1 || all[0].Endpoint == "" {
			t.Errorf("%s: got %+v, %v", config, all, err)
		}
	}
}

func TestJWKSRoute(t *testing.T) {
	s := newServer(t)
	for _, path := range []string{"/.well-known/jwks.json", "/v1beta/.well-known/jwks.json", "/some/prefix/.well-known/jwks.json"} {
		a := s.as("", "GET", path, "")
		if a.status != 200 || a.body != `{"keys":[]}` || a.header.Get("Cache-Control") != "public, max-age=300" || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %d %v %s", path, a.status, a.header, a.body)
		}
	}
	if a := s.as("", "POST", "/.well-known/jwks.json", "{}"); a.status != 405 {
		t.Errorf("POST: got %d", a.status)
	}
}
