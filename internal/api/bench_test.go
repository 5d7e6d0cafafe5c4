package api_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/api"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
)

// noRunner takes jobs and forgets them: what is measured is the surface alone.
type noRunner struct{ api.Runner }

func (noRunner) Submit(_ context.Context, j *ringback.Job) error {
	if len(j.Spec) == 0 {
		return errors.New("no spec")
	}
	return nil
}

// BenchmarkCreateBackground measures what the surface itself takes to accept a
// background interaction: everything but the network, the store and the run.
func BenchmarkCreateBackground(b *testing.B) {
	router, err := backend.NewRouter([]backend.Route{{Match: "*", Backend: emulator.New(nil)}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	h := api.New(api.Config{Runner: noRunner{}, Backend: router, AnyKey: "prj_bench", Log: slog.New(slog.DiscardHandler)})
	for name, body := range map[string]string{
		"Short": `{"model":"gemini-3.6-flash","input":"hi","background":true}`,
		"Long": `{"model":"gemini-3.6-flash","input":[{"type":"user_input","content":[{"type":"text","text":"` + strings.Repeat("word ", 4000) + `"}]}],"background":true,` +
			`"tools":[{"type":"function","name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}],"generation_config":{"temperature":0.2}}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					r := httptest.NewRequest("POST", "/v1beta/interactions", strings.NewReader(body))
					r.Header.Set("X-Goog-Api-Key", "any")
					w := httptest.NewRecorder()
					if h.ServeHTTP(w, r); w.Code != http.StatusOK {
						b.Errorf("%d %s", w.Code, w.Body)
						return
					}
				}
			})
		})
	}
}
