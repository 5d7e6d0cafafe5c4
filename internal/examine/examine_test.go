package examine_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/examine"
	"ringback.dev/internal/jsjson"
	"ringback.dev/webhook"
)

// The cases themselves are tested in examples/bad-receivers: each finds the fault
// that it is for.

func TestParseCount(t *testing.T) {
	for text, want := range map[string]int64{"": 0, " 42\n": 42, "-1": -1, "[]": 0, "[1,{},[]]": 3, `{"count":7,"x":1}`: 7, "one\ntwo\n\n three": 3, "{\"a\":1}\n{\"a\":2}\n": 2, `{"a":1}`: 1, "[1,": 1} {
		if got, err := examine.ParseCount([]byte(text)); got != want || err != nil {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, bad := range []string{"{\n\"total\": 3\n}", `{"count":1.5}`} {
		if got, err := examine.ParseCount([]byte(bad)); err == nil {
			t.Errorf("%q: got %d", bad, got)
		}
	}
}

func FuzzParseCount(f *testing.F) {
	for _, text := range []string{"12", "[1,2]", `{"count":3}`, "a\nb", "{\n}", "\xff\n["} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := examine.ParseCount(text)
		if list := bytes.HasPrefix(text, []byte("[")); list && (err != nil || n < 0 || n > int64(len(text))) {
			t.Errorf("%d in %q, %v", n, text, err)
		}
	})
}

// config examines a receiver at an address.
func config(url string, secret webhook.Secret) examine.Config {
	return examine.Config{URL: url, Secrets: []webhook.Secret{secret}, Settle: time.Millisecond, Pause: time.Millisecond, EffectsWithin: 10 * time.Millisecond,
		Event:   func(at time.Time) ([]byte, error) { return emit.Sample(ringback.InteractionCompleted, at, "") },
		Another: func(of []byte, _ time.Time) ([]byte, error) { return jsjson.Set(of, "type", []byte(`"ping"`)) }}
}

// TestNothingAccepted: while a good message is not accepted, refusals say nothing.
func TestNothingAccepted(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		http.Error(w, "<&>\x01", http.StatusForbidden)
	}))
	defer srv.Close()
	r, err := examine.Run(t.Context(), config(srv.URL, webhook.NewSecret()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != 1 || r.Passed != 0 || r.NotJudged != len(r.Results)-1 || r.FullMarks() || r.Results[0].Name != "valid" {
		t.Errorf("%d failed, %d passed, %d not judged", r.Failed, r.Passed, r.NotJudged)
	}
	var out strings.Builder
	if err := r.JUnit(&out); err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Skipped  int `xml:"skipped,attr"`
		Cases    []struct {
			Name    string `xml:"name,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"failure"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal([]byte(out.String()), &suite); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if suite.Tests != len(r.Results) || suite.Failures != 1 || suite.Skipped != r.NotJudged || suite.Cases[0].Failure == nil ||
		!strings.Contains(suite.Cases[0].Failure.Message, "answered 403") || !strings.Contains(suite.Cases[0].Failure.Text, "how: Compute over the raw body") {
		t.Errorf("got %s", out.String())
	}
}

// TestNotHeld: what keeps an examination from being held is an error, and no
// verdict on the receiver.
func TestNotHeld(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer srv.Close()
	for name, change := range map[string]func(*examine.Config){
		"the address":      func(c *examine.Config) { c.URL = "localhost:3000" },
		"nothing to sign":  func(c *examine.Config) { c.Secrets = nil },
		"no case":          func(c *examine.Config) { c.Only = []string{"nonsense"} },
		"can't be reached": func(c *examine.Config) { c.URL = "http://127.0.0.1:1/" },
		"broken count": func(c *examine.Config) {
			c.Effects = func(context.Context) (int64, error) { return 0, errors.New("broken count") }
		},
	} {
		c := config(srv.URL, webhook.NewSecret())
		change(&c)
		if r, err := examine.Run(t.Context(), c, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := examine.Run(ctx, config(srv.URL, webhook.NewSecret()), func(*examine.Result) { cancel(errors.New("enough")) })
	if err == nil || err.Error() != "enough" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestCases: each has a name of its own, and says all that there is to say.
func TestCases(t *testing.T) {
	names := make(map[string]bool)
	for _, k := range examine.Cases() {
		if names[k.Name] || k.Group == "" || k.Sent == "" || k.Want == "" || k.Why == "" || k.Fix == "" {
			t.Errorf("%+v", k)
		}
		names[k.Name] = true
	}
	if len(names) < 40 {
		t.Errorf("%d cases", len(names))
	}
}

// good is a receiver that verifies, and lets another one see what passes.
func good(secret webhook.Secret, act http.HandlerFunc) http.HandlerFunc {
	v := &webhook.Verifier{Secrets: []webhook.Secret{secret}}
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			_, err = v.Verify(r.Header, body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		act(w, r)
	}
}

// result is that of a case, with its verdict.
func result(t *testing.T, r *examine.Report, name string, want examine.Verdict) *examine.Result {
	t.Helper()
	for i := range r.Results {
		if x := &r.Results[i]; x.Name == name {
			if x.Verdict != want {
				t.Errorf("%s: %s, want %s: %s (%s)", name, x.Verdict, want, x.Reason, x.Got)
			}
			return x
		}
	}
	t.Fatalf("%s was not run", name)
	return nil
}

// TestGone: a receiver that ends over a message has failed there, and there is a
// report nevertheless.
func TestGone(t *testing.T) {
	secret := webhook.NewSecret()
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("webhook-timestamp") == "yesterday" {
			srv.Listener.Close()
			panic(http.ErrAbortHandler)
		}
		good(secret, func(http.ResponseWriter, *http.Request) {})(w, r)
	}))
	defer srv.Close()
	r, err := examine.Run(t.Context(), config(srv.URL, secret), nil)
	if err != nil {
		t.Fatal(err)
	}
	result(t, r, "missing-headers", examine.Pass)
	result(t, r, "malformed-headers", examine.Fail)
	for _, name := range []string{"skewed", "huge", "stalled-body"} {
		if x := result(t, r, name, examine.NotJudged); !strings.Contains(x.Reason, "malformed-headers") {
			t.Errorf("%s: %s", name, x.Reason)
		}
	}
	for _, name := range []string{"valid", "huge", "slow-body", "stalled-body", "hung-up"} {
		c := config(srv.URL, secret)
		c.Only = []string{name}
		if r, err := examine.Run(t.Context(), c, nil); err == nil || !strings.Contains(err.Error(), "can't be reached") {
			t.Errorf("%s, at nobody: %+v, %v", name, r, err)
		}
	}
}

// TestBusy: a receiver may say for a while that another attempt is at work.
func TestBusy(t *testing.T) {
	secret := webhook.NewSecret()
	var mu sync.Mutex
	asked := make(map[string]int) // By id.
	srv := httptest.NewServer(good(secret, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("webhook-id")
		if asked[id]++; asked[id] > 1 && asked[id] < 20 {
			w.WriteHeader(http.StatusConflict)
		}
	}))
	defer srv.Close()
	c := config(srv.URL, secret)
	c.Only, c.EffectsWithin = []string{"hung-up", "concurrent"}, time.Minute
	r, err := examine.Run(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	result(t, r, "hung-up", examine.Pass)
	result(t, r, "concurrent", examine.Pass)
}

// TestSlowEffects: effects that come long after the answers are counted where they
// belong.
func TestSlowEffects(t *testing.T) {
	secret := webhook.NewSecret()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := make(map[string]bool)
		done := 0
		h := good(secret, func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if id := r.Header.Get("webhook-id"); !seen[id] {
				seen[id] = true
				time.AfterFunc(3*time.Second, func() {
					mu.Lock()
					defer mu.Unlock()
					done++
				})
			}
		})
		c := config("http://receiver.example/", secret)
		c.Settle, c.EffectsWithin = 0, 0 // The defaults.
		c.Only = []string{"valid", "unknown-type", "forged", "duplicate", "same-job"}
		c.Transport = transport(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			h(w, r)
			return w.Result(), nil
		})
		c.Effects = func(context.Context) (int64, error) {
			mu.Lock()
			defer mu.Unlock()
			return int64(done), nil
		}
		r, err := examine.Run(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range c.Only {
			result(t, r, name, examine.Pass)
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
