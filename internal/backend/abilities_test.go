package backend_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

var plain = []string{"generateContent", "streamGenerateContent", "countTokens", "batchGenerateContent"}

// TestMethods: a model can what its back-end can, or one that stands in for it.
func TestMethods(t *testing.T) {
	embeds, films := append(slices.Clone(plain), "embedContent", "asyncBatchEmbedContent"), append(slices.Clone(plain), "predictLongRunning")
	r := router(t,
		backend.Route{Match: "plain", Backend: named("a")},
		backend.Route{Match: "embeds", Backend: &place{}},
		backend.Route{Match: "films", Backend: &studio{}},
		backend.Route{Match: "by-fallback", Backend: named("a"), Fallbacks: []backend.Fallback{{Backend: &studio{}}}},
		backend.Route{Match: "alias", Backend: named("a"), As: "real"},
		backend.Route{Match: "*", Backend: &able{models: []string{"listed"}}},
	)
	all, err := r.Models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"plain": plain, "embeds": embeds, "films": films, "by-fallback": films, "alias": plain, "listed": plain}
	for _, m := range all {
		name := strings.TrimPrefix(m.Name, "models/")
		if d := cmp.Diff(want[name], m.SupportedGenerationMethods); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		delete(want, name)
		one, err := r.Describe(t.Context(), name)
		if d := cmp.Diff(m, one); err != nil || d != "" {
			t.Errorf("%s in the list and alone: %v\n%s", name, err, d)
		}
		if text := map[bool]string{true: "Another name of real."}[name == "alias"]; m.Description != text || m.BaseModelID != name {
			t.Errorf("unexpected description %+v", m)
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	if m, err := r.Describe(t.Context(), "not-listed"); err != nil || m.Name != "models/not-listed" || !slices.Equal(m.SupportedGenerationMethods, plain) {
		t.Errorf("got %+v, %v", m, err)
	}
	if _, err := router(t, backend.Route{Match: "x", Backend: named("a")}).Describe(t.Context(), "y"); backend.AsError(err).Kind != backend.ModelNotFound {
		t.Errorf("got %v", err)
	}
}

// lister lists what a function says.
type lister struct {
	named
	list func(context.Context) ([]genai.Model, error)
}

func (l *lister) Models(ctx context.Context) ([]genai.Model, error) { return l.list(ctx) }

// TestModelsWithoutAll: a back-end that is down, or does not answer, keeps nothing
// from the list but its own models; its fallback is asked for them.
func TestModelsWithoutAll(t *testing.T) {
	down := func(context.Context) ([]genai.Model, error) {
		return nil, &backend.Error{Kind: backend.Unavailable, Message: "down"}
	}
	asked := 0
	counted := func(context.Context) ([]genai.Model, error) {
		asked++
		return nil, &backend.Error{Kind: backend.Unavailable, Message: "down"}
	}
	hangs := func(ctx context.Context) ([]genai.Model, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	up := &able{models: []string{"b-1", "a-1"}}
	twice := &lister{list: counted}
	own := &lister{list: func(context.Context) ([]genai.Model, error) {
		return []genai.Model{{Name: "models/e-1", SupportedGenerationMethods: []string{"embedContent"}}}, nil
	}}
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			routes []backend.Route
			want   []string // Nil: an error.
			took   time.Duration
		}{
			"one is down":       {[]backend.Route{{Match: "a-*", Backend: &lister{list: down}}, {Match: "*", Backend: up}}, []string{"models/b-1"}, 0},
			"one hangs":         {[]backend.Route{{Match: "a-*", Backend: &lister{list: hangs}}, {Match: "*", Backend: up}}, []string{"models/b-1"}, 10 * time.Second},
			"two hang":          {[]backend.Route{{Match: "a-*", Backend: &lister{list: hangs}}, {Match: "*", Backend: &lister{list: hangs}}}, nil, 10 * time.Second},
			"all are down":      {[]backend.Route{{Match: "a-*", Backend: twice}, {Match: "*", Backend: twice}}, nil, 0},
			"names are known":   {[]backend.Route{{Match: "x", Backend: named("a")}, {Match: "*", Backend: &lister{list: down}}}, []string{"models/x"}, 0},
			"nobody lists":      {[]backend.Route{{Match: "*", Backend: named("a")}}, []string{}, 0},
			"a fallback lists":  {[]backend.Route{{Match: "*", Backend: &lister{list: down}, Fallbacks: []backend.Fallback{{Backend: up, As: "z"}, {Backend: up}}}}, []string{"models/b-1", "models/a-1"}, 0},
			"by other names":    {[]backend.Route{{Match: "*", Backend: &lister{list: down}, Fallbacks: []backend.Fallback{{Backend: up, As: "z"}}}}, nil, 0},
			"it knows its own":  {[]backend.Route{{Match: "*", Backend: own}}, []string{"models/e-1"}, 0},
			"of earlier routes": {[]backend.Route{{Match: "b-*", Backend: named("a")}, {Match: "*", Backend: up}}, []string{"models/a-1"}, 0},
		} {
			begin := time.Now()
			models, err := router(t, c.routes...).Models(t.Context())
			names := []string{}
			for _, m := range models {
				names = append(names, m.Name)
			}
			if (err != nil) != (c.want == nil) || c.want != nil && !slices.Equal(names, c.want) || time.Since(begin) != c.took {
				t.Errorf("%s: got %v, %v after %s", name, names, err, time.Since(begin))
			}
			if name == "it knows its own" && !slices.Equal(models[0].SupportedGenerationMethods, []string{"embedContent"}) {
				t.Errorf("got %+v", models)
			}
		}
		if asked != 1 {
			t.Errorf("one back-end was asked %d times", asked)
		}
	})
}
