package main

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"ringback.dev"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/examine"
	"ringback.dev/internal/jsjson"
	"ringback.dev/webhook"
)

// TestExamineFindsEveryFault plants each fault and has the receiver examined: the
// cases that are named for it fail, and no other. The good receiver gets full
// marks.
func TestExamineFindsEveryFault(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	token, key := &webhook.TokenKey{ID: "examine", Key: private}, webhook.NewSigningKey()
	set, err := examine.JWKS(token, &key)
	if err != nil {
		t.Fatal(err)
	}
	jwks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) }))
	defer jwks.Close()
	var mu sync.Mutex
	var covered []string
	each := func(t *testing.T, f fault) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		base := "http://" + l.Addr().String()
		e := &env{secret: webhook.NewSecret(), jwks: jwks.URL, audience: base + "/hook"}
		e.keys = webhook.NewKeySet(jwks.URL)
		srv := server(f.handler(e), e)
		srv.ErrorLog = quiet()
		served := make(chan struct{})
		go func() { defer close(served); _ = srv.Serve(&noting{l}) }() // Ends when it is closed.
		defer func() { srv.Close(); <-served }()

		c := examine.Config{URL: base + "/hook", Secrets: []webhook.Secret{e.secret}, Effects: examine.EffectsAt(base + "/effects"),
			EffectsWithin: 200 * time.Millisecond, Settle: time.Millisecond, Pause: 150 * time.Millisecond, Timeout: 30 * time.Second, Huge: 24 << 20,
			Event: func(at time.Time) ([]byte, error) { return emit.Sample(ringback.InteractionCompleted, at, "") },
			Another: func(of []byte, at time.Time) ([]byte, error) {
				return jsjson.Set(of, "type", []byte(`"interaction.incomplete"`))
			},
			FailOnce: func(body []byte) ([]byte, error) { return jsjson.Set(body, "data.examine_fail", []byte(`"once"`)) },
		}
		switch f.name { // They don't answer.
		case "works-first":
			c.Timeout = time.Second
		case "one-at-a-time":
			c.Timeout = 5 * time.Second
		}
		// The receivers that verify by hand know one scheme only.
		if f.name == "none" || strings.HasPrefix(f.name, "jwt-") {
			c.Token, c.Issuer, c.Audience = token, jwks.URL, e.audience
		}
		if f.name == "none" || f.name == "unknown-version" {
			c.Key = &key
		}
		report, err := examine.Run(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		failed := []string{}
		for _, r := range report.Results {
			if r.Verdict == examine.Fail {
				failed = append(failed, r.Name)
			}
		}
		want := slices.Clone(f.found)
		slices.Sort(failed)
		slices.Sort(want)
		if diff := cmp.Diff(append([]string{}, want...), failed); diff != "" {
			t.Errorf("failed cases (-want +got):\n%s", diff)
			for _, r := range report.Results {
				if r.Verdict == examine.Fail && !slices.Contains(f.found, r.Name) || slices.Contains(f.found, r.Name) {
					t.Logf("%s: %s: %s; got %s", r.Name, r.Verdict, r.Reason, r.Got)
				}
			}
		}
		mu.Lock()
		covered = append(covered, failed...)
		mu.Unlock()
		if f.name == "none" && (!report.FullMarks() || report.Passed != len(examine.Cases())) {
			for _, r := range report.Results {
				t.Logf("%s: %s %s", r.Name, r.Verdict, r.Reason)
			}
			t.Errorf("%d passed of %d, %d failed, %d not judged", report.Passed, len(examine.Cases()), report.Failed, report.NotJudged)
		}
	}
	// Several at once, more than there are processors: they mostly wait.
	var all errgroup.Group
	all.SetLimit(6)
	for _, f := range faults() {
		all.Go(func() error {
			t.Run(f.name, func(t *testing.T) { each(t, f) })
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, k := range examine.Cases() {
		// These two only tell whether the others say anything.
		if !slices.Contains(covered, k.Name) && k.Name != "v1a-valid" && k.Name != "jwt-valid" {
			t.Errorf("no fault is found by %s", k.Name)
		}
	}
}

// TestReadme: the table of the README is that of the program.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults()[1:] {
		found := make([]string, len(f.found))
		for i, name := range f.found {
			found[i] = "`" + name + "`"
		}
		if row := fmt.Sprintf("| `%s` | %s | %s |\n", f.name, f.mistake, strings.Join(found, " ")); !strings.Contains(string(text), row) {
			t.Errorf("README.md lacks the row\n%s", row)
		}
	}
}
