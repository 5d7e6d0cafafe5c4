package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/webhook"
)

// advance sets the server's clock forward over HTTP.
func (s *server) advance(d time.Duration) {
	s.t.Helper()
	if status, body := s.call("POST", "/ringback/v1/clock:advance", "any", fmt.Sprintf(`{"seconds":%d}`, int(d.Seconds()))); status != http.StatusOK {
		s.t.Fatalf("advance: %d %s", status, body)
	}
}

// TestFastForward: a retry that is due in two hours, the end of a secret's
// rotation and a file's expiry come within seconds after the clock was set
// forward, while the signatures keep the real time.
func TestFastForward(t *testing.T) {
	arrived := make(chan *http.Request, 16)
	var status atomic.Int32
	status.Store(http.StatusInternalServerError)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		arrived <- r
		w.WriteHeader(int(status.Load()))
	}))
	defer receiver.Close()
	c := config(t, t.TempDir())
	c.Dev, c.RetrySchedule = true, []time.Duration{2 * time.Hour}
	s := start(t, c)
	code, body := s.call("POST", "/v1/webhooks", "any", fmt.Sprintf(`{"uri":%q,"subscribed_events":["interaction.completed"]}`, receiver.URL))
	var hook struct {
		ID               string
		NewSigningSecret string `json:"new_signing_secret"`
	}
	if err := json.Unmarshal(body, &hook); err != nil || code != http.StatusOK {
		t.Fatalf("create a webhook: %d %s", code, body)
	}
	secret, err := webhook.ParseSecret(hook.NewSigningSecret)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(r *http.Request, signatures int) {
		t.Helper()
		body, _ := io.ReadAll(r.Body)
		if _, err := (&webhook.Verifier{Secrets: []webhook.Secret{secret}}).Verify(r.Header, body); err != nil {
			t.Errorf("does not verify by the real time: %v", err)
		}
		if n := len(strings.Fields(r.Header.Get("webhook-signature"))); n != signatures {
			t.Errorf("%d signatures, want %d", n, signatures)
		}
	}
	ping := func() *http.Request {
		t.Helper()
		if status, body := s.call("POST", "/v1/webhooks/"+hook.ID+":ping", "any", ""); status != http.StatusOK {
			t.Fatalf("ping: %d %s", status, body)
		}
		return await(t, arrived)
	}

	// A retry.
	first := ping()
	verify(first, 1)
	due := func() string {
		_, body := s.call("GET", "/ringback/v1/deliveries/"+first.Header.Get("webhook-id"), "any", "")
		var d struct {
			NextAttempt string `json:"next_attempt"`
			Attempts    int
		}
		if err := json.Unmarshal(body, &d); err != nil || d.Attempts == 0 {
			return ""
		}
		return d.NextAttempt
	}
	until(t, "the first attempt is recorded", func() bool { return due() != "" })
	at, err := time.Parse(time.RFC3339Nano, due())
	if wait := time.Until(at); err != nil || wait < 90*time.Minute {
		t.Fatalf("the retry is due in %s, %v", wait, err)
	}
	status.Store(http.StatusNoContent)
	s.advance(3 * time.Hour)
	again := await(t, arrived)
	if again.Header.Get("webhook-id") != first.Header.Get("webhook-id") {
		t.Error("the retry has another webhook-id")
	}
	verify(again, 1)

	// A rotation.
	if status, body := s.call("POST", "/v1/webhooks/"+hook.ID+":rotateSigningSecret", "any", ""); status != http.StatusOK {
		t.Fatalf("rotate: %d %s", status, body)
	} else if text := strings.Split(string(body), `"`)[3]; true {
		verify(ping(), 2) // By the earlier secret.
		if secret, err = webhook.ParseSecret(text); err != nil {
			t.Fatal(err)
		}
		verify(ping(), 2)
	}
	s.advance(25 * time.Hour)
	verify(ping(), 1)

	// A file.
	if status, body := s.call("POST", "/upload/v1beta/files?uploadType=media", "any", "hello"); status != http.StatusOK {
		t.Fatalf("upload: %d %s", status, body)
	}
	if n := s.kept(); n != 1 {
		t.Fatalf("%d blobs are kept", n)
	}
	s.advance(49 * time.Hour)
	until(t, "the file has expired", func() bool { return s.kept() == 0 })
	_, body = s.call("GET", "/v1beta/files", "any", "")
	if strings.Contains(string(body), "files/") {
		t.Errorf("got %s", body)
	}
}

// TestFastForwardUnderWay: a job that runs while the clock is set forward is not
// taken for abandoned, and one that waits too long is told of as stalled.
func TestFastForwardUnderWay(t *testing.T) {
	url, asked, answer := model(t)
	c := config(t, t.TempDir())
	c.Dev, c.OpenAIURL = true, url
	s := start(t, c)
	id := s.submit("hello")
	await(t, asked)
	s.advance(24 * time.Hour)
	until(t, "the stall is told", func() bool {
		events, err := s.Store().JobEvents(t.Context(), s.Project(), id)
		return err == nil && len(events) == 1 && events[0].Type == ringback.JobStalled
	})
	other := s.submit("again") // Claims have been made since when this one runs.
	await(t, asked)
	answer <- struct{}{}
	answer <- struct{}{}
	for _, id := range []ringback.ID{id, other} {
		until(t, "the job ends", func() bool { return s.state(id) == ringback.Completed })
		if j, err := s.Store().Job(t.Context(), s.Project(), id); err != nil || j.Runs != 1 {
			t.Errorf("%s ran %d times, %v", id, j.Runs, err)
		}
	}
	if len(asked) > 0 {
		t.Error("the model was asked again")
	}
}

// TestClockOutlivesTheProcess: what is stored must not come to lie in the future.
func TestClockOutlivesTheProcess(t *testing.T) {
	c := config(t, t.TempDir())
	c.Dev = true
	s := start(t, c)
	s.advance(time.Hour)
	s.advance(time.Hour)
	s.stop()
	s = start(t, c)
	status, body := s.call("GET", "/ringback/v1/clock", "any", "")
	var clock struct {
		Now   time.Time
		Ahead int `json:"ahead_seconds"`
	}
	if err := json.Unmarshal(body, &clock); err != nil || status != http.StatusOK || clock.Ahead != 7200 || time.Until(clock.Now) < 119*time.Minute {
		t.Errorf("%d %s", status, body)
	}
	for body, names := range map[string]string{`{}`: "seconds: 0", `{"seconds":-1}`: "seconds: -1", `{"seconds":40000000}`: "31622400", `{"hours":1}`: "hours"} {
		if status, text := s.call("POST", "/ringback/v1/clock:advance", "any", body); status != http.StatusBadRequest || !strings.Contains(string(text), names) {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	s.stop()
	if err := os.WriteFile(filepath.Join(c.Data, clockFile), []byte("soon"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, c, "remove it")
	c.Dev = false
	start(t, c) // A server for production doesn't look at it.
}

// TestClockOfProduction can't be set.
func TestClockOfProduction(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	status, body := s.call("POST", "/ringback/v1/clock:advance", s.FirstKey, `{"seconds":60}`)
	if status != http.StatusBadRequest || !strings.Contains(string(body), "ringback dev") {
		t.Errorf("%d %s", status, body)
	}
	status, body = s.call("POST", "/ringback/v1/events:trigger", s.FirstKey, `{"type":"batch.failed"}`)
	if status != http.StatusBadRequest || !strings.Contains(string(body), "ringback dev") {
		t.Errorf("%d %s", status, body)
	}
	status, body = s.call("GET", "/ringback/v1/clock", s.FirstKey, "")
	if status != http.StatusOK || !strings.Contains(string(body), `"ahead_seconds":0`) {
		t.Errorf("%d %s", status, body)
	}
}
