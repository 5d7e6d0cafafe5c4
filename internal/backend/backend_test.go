package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// able has every optional ability.
type able struct {
	named
	models []string
	err    error
}

func (a *able) Stream(_ context.Context, req *backend.Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		for i := range 3 {
			if !yield(&genai.GenerateContentResponse{ModelVersion: fmt.Sprintf("%s %d", req.Model, i)}, nil) {
				return
			}
		}
		yield(nil, a.err)
	}
}

func (a *able) CountTokens(_ context.Context, req *backend.Request) (int, error) {
	return len(req.Model), a.err
}

func (a *able) Models(context.Context) ([]genai.Model, error) {
	var all []genai.Model
	for _, name := range a.models {
		all = append(all, backend.Describe(name))
	}
	return all, a.err
}

func router(t *testing.T, routes ...backend.Route) *backend.Router {
	t.Helper()
	r, err := backend.NewRouter(routes, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestFirstRouteWins: the order of the routes decides, not how exact they are;
// "*" alone takes names with slashes, which a pattern does not.
func TestFirstRouteWins(t *testing.T) {
	r := router(t, backend.Route{Match: "gemini-*", Backend: named("a")}, backend.Route{Match: "gemini-2", Backend: named("b")}, backend.Route{Match: "*", Backend: named("c"), As: "d"})
	for model, want := range map[string]string{"gemini-2": "a/gemini-2", "gemini-x/y": "c/d", "org/name": "c/d", "": "c/d"} {
		req := &backend.Request{Model: model, Body: &genai.GenerateContentRequest{}}
		got, err := r.Generate(t.Context(), req)
		if err != nil || got.ModelVersion != want {
			t.Errorf("%q: got %v, %v, want %s", model, got, err, want)
		}
		if req.Model != model {
			t.Errorf("the caller's request was renamed to %q", req.Model)
		}
	}
}

func TestRouterStreams(t *testing.T) {
	failed := errors.New("cut")
	r := router(t, backend.Route{Match: "x", Backend: &able{err: failed}, As: "y"})
	var got []string
	for chunk, err := range r.Stream(t.Context(), &backend.Request{Model: "x"}) {
		if err != nil {
			got = append(got, err.Error())
			continue
		}
		got = append(got, chunk.ModelVersion)
	}
	if d := cmp.Diff([]string{"y 0", "y 1", "y 2", "cut"}, got); d != "" {
		t.Error(d)
	}
	n := 0
	for _, err := range r.Stream(t.Context(), &backend.Request{Model: "z"}) {
		n++
		if backend.AsError(err).Kind != backend.ModelNotFound {
			t.Errorf("got %v", err)
		}
	}
	if n != 1 {
		t.Errorf("an unknown model gave %d chunks", n)
	}
}

func TestRouterCounts(t *testing.T) {
	r := router(t, backend.Route{Match: "counts", Backend: &able{}, As: "four"}, backend.Route{Match: "guesses", Backend: named("b")})
	body := &genai.GenerateContentRequest{Contents: []genai.Content{{Parts: []genai.Part{genai.TextPart("123456789")}}}}
	for model, want := range map[string]int{"counts": 4, "guesses": 3} {
		if n, err := r.CountTokens(t.Context(), &backend.Request{Model: model, Body: body}); err != nil || n != want {
			t.Errorf("%s: got %d, %v, want %d", model, n, err, want)
		}
	}
	if _, err := r.CountTokens(t.Context(), &backend.Request{Model: "other", Body: body}); backend.AsError(err).Kind != backend.ModelNotFound {
		t.Errorf("got %v", err)
	}
}

// TestRouterListsWhatItAnswers: each model once, and only such as are routed to
// the back-end that lists them.
func TestRouterListsWhatItAnswers(t *testing.T) {
	b := &able{models: []string{"gemini-2", "gemini-3", "other", "org/x"}}
	for name, c := range map[string]struct {
		routes []backend.Route
		want   []string
	}{
		"pattern":            {[]backend.Route{{Match: "gemini-*", Backend: b}}, []string{"models/gemini-2", "models/gemini-3"}},
		"names come first":   {[]backend.Route{{Match: "gemini-3", Backend: named("a")}, {Match: "gemini-*", Backend: b}}, []string{"models/gemini-3", "models/gemini-2"}},
		"everything":         {[]backend.Route{{Match: "*", Backend: b}}, []string{"models/gemini-2", "models/gemini-3", "models/other", "models/org/x"}},
		"a name as another":  {[]backend.Route{{Match: "mine", Backend: b, As: "other"}}, []string{"models/mine"}},
		"one that can't say": {[]backend.Route{{Match: "*", Backend: named("a")}}, nil},
	} {
		models, err := router(t, c.routes...).Models(t.Context())
		var got []string
		for _, m := range models {
			got = append(got, m.Name)
		}
		if d := cmp.Diff(c.want, got); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", name, err, d)
		}
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("dial tcp: refused")
	e := &backend.Error{Kind: backend.Unavailable, Message: "the back-end can't be reached", Cause: cause}
	if got := backend.AsError(fmt.Errorf("run job: %w", e)); got != e || !errors.Is(e, cause) || !strings.Contains(e.Error(), "refused") {
		t.Errorf("got %v of %v", got, e)
	}
	other := backend.AsError(cause)
	if other.Kind != backend.Internal || strings.Contains(other.Message, "refused") || !errors.Is(other, cause) {
		t.Errorf("what is no *Error became %+v; its text is not for the caller", other)
	}
}

// TestEstimateTokens: all that a model would read counts, the instruction too.
func TestEstimateTokens(t *testing.T) {
	part := func(p genai.Part) *genai.GenerateContentRequest {
		return &genai.GenerateContentRequest{Contents: []genai.Content{{Parts: []genai.Part{p}}}}
	}
	system := part(genai.TextPart("12345678"))
	system.SystemInstruction = &genai.Content{Parts: []genai.Part{genai.TextPart("1234")}}
	for name, c := range map[string]struct {
		body *genai.GenerateContentRequest
		want int
	}{
		"nothing":     {&genai.GenerateContentRequest{}, 0},
		"empty text":  {part(genai.TextPart("")), 0},
		"one byte":    {part(genai.TextPart("a")), 1},
		"instruction": {system, 3},
		"call":        {part(genai.Part{FunctionCall: &genai.FunctionCall{Name: "ab", Args: json.RawMessage(`{}`)}}), 1},
		"response":    {part(genai.Part{FunctionResponse: &genai.FunctionResponse{Name: "abc", Response: json.RawMessage(`{}`)}}), 2},
		"image":       {part(genai.Part{InlineData: &genai.Blob{Data: "AA=="}}), 258},
		"file":        {part(genai.Part{FileData: &genai.FileData{}}), 0},
	} {
		if got := backend.EstimateTokens(c.body); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}
