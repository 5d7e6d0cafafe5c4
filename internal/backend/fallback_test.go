package backend_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// place is a back-end whose answers are a function of the model; it notes the models
// that it was asked for. It streams two chunks, the error in place of the one that
// broken names (from 1), or in place of the answer.
type place struct {
	name   string
	answer func(ctx context.Context, model string) error
	broken int

	mu    sync.Mutex
	asked []string
}

func (p *place) do(ctx context.Context, model string) error {
	p.mu.Lock()
	p.asked = append(p.asked, model)
	p.mu.Unlock()
	if p.answer == nil {
		return nil
	}
	return p.answer(ctx, model)
}

// takeAsked returns the models that it was asked for since the last time.
func (p *place) takeAsked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

func (p *place) Generate(ctx context.Context, req *backend.Request) (*genai.GenerateContentResponse, error) {
	if err := p.do(ctx, req.Model); err != nil {
		return nil, err
	}
	return &genai.GenerateContentResponse{ResponseID: p.name}, nil
}

func (p *place) Stream(ctx context.Context, req *backend.Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		err := p.do(ctx, req.Model)
		for i := 1; i <= 2; i++ {
			if err != nil && i >= p.broken {
				yield(nil, err)
				return
			}
			if !yield(&genai.GenerateContentResponse{ResponseID: p.name}, nil) {
				return
			}
		}
	}
}

func (p *place) Embed(ctx context.Context, req *backend.EmbedRequest) (*backend.Embedding, error) {
	if err := p.do(ctx, req.Model); err != nil {
		return nil, err
	}
	return &backend.Embedding{Tokens: len(p.name)}, nil
}

func (p *place) CountTokens(ctx context.Context, req *backend.Request) (int, error) {
	return len(p.name), p.do(ctx, req.Model)
}

func always(kind backend.Kind) func(context.Context, string) error {
	return func(context.Context, string) error {
		return &backend.Error{Kind: kind, Message: string(kind)}
	}
}

// chain is a route of a model over places, the fallbacks under names of their own.
func chain(t *testing.T, limits backend.Limits, places ...*place) *backend.Router {
	t.Helper()
	route := backend.Route{Match: "m", Name: places[0].name, Backend: places[0], Limits: limits}
	for i, p := range places[1:] {
		route.Fallbacks = append(route.Fallbacks, backend.Fallback{Name: p.name, Backend: p, As: fmt.Sprint("m", i+2)})
	}
	return router(t, route)
}

func (p *place) wasAsked(t *testing.T, want ...string) {
	t.Helper()
	if got := p.takeAsked(); !slices.Equal(got, want) {
		t.Errorf("%s was asked for %v, want %v", p.name, got, want)
	}
}

// TestFallsBack: which errors send a request on, and which one is answered when
// nobody serves it.
func TestFallsBack(t *testing.T) {
	const ok = backend.Kind("")
	for _, c := range []struct {
		said  []backend.Kind // By each in turn.
		asked int            // How many were asked.
		want  backend.Kind
	}{
		{[]backend.Kind{ok, ok}, 1, ok},
		{[]backend.Kind{backend.Unavailable, ok}, 2, ok},
		{[]backend.Kind{backend.Unauthorized, ok}, 2, ok},
		{[]backend.Kind{backend.RateLimited, ok}, 2, ok},
		{[]backend.Kind{backend.Timeout, ok}, 2, ok},
		{[]backend.Kind{backend.Internal, ok}, 2, ok},
		{[]backend.Kind{backend.ModelNotFound, ok}, 2, ok},
		{[]backend.Kind{backend.InvalidRequest, ok}, 1, backend.InvalidRequest},
		{[]backend.Kind{backend.Unavailable, backend.Timeout, ok}, 3, ok},
		{[]backend.Kind{backend.Unavailable, backend.Internal, backend.Timeout}, 3, backend.Timeout},
		// What a fallback refuses, the first one might have taken.
		{[]backend.Kind{backend.Unavailable, backend.InvalidRequest}, 2, backend.Unavailable},
		{[]backend.Kind{backend.Unavailable, backend.InvalidRequest, ok}, 3, ok},
		{[]backend.Kind{backend.RateLimited, backend.ModelNotFound, backend.InvalidRequest}, 3, backend.RateLimited},
		{[]backend.Kind{backend.ModelNotFound, backend.Unavailable}, 2, backend.Unavailable},
		{[]backend.Kind{backend.ModelNotFound, backend.InvalidRequest}, 2, backend.ModelNotFound},
	} {
		var places []*place
		for i, kind := range c.said {
			p := &place{name: string(rune('a' + i))}
			if kind != ok {
				p.answer = always(kind)
			}
			places = append(places, p)
		}
		last := places[c.asked-1]
		// Afresh for each call: a back-end that fails again and again is passed over.
		q := &backend.Request{Model: "m", Body: &genai.GenerateContentRequest{}}
		calls := map[string]func() (string, error){
			"generate": func() (string, error) {
				resp, err := chain(t, backend.Limits{}, places...).Generate(t.Context(), q)
				if err != nil {
					return "", err
				}
				return resp.ResponseID + " " + resp.ModelVersion, nil
			},
			"a row": func() (string, error) {
				row := *q
				row.Turn.Batch = "b"
				resp, err := chain(t, backend.Limits{InFlight: 1}, places...).Generate(t.Context(), &row)
				if err != nil {
					return "", err
				}
				return resp.ResponseID + " " + resp.ModelVersion, nil
			},
			"stream": func() (text string, err error) {
				for chunk, err := range chain(t, backend.Limits{}, places...).Stream(t.Context(), q) {
					if err != nil {
						return "", err
					}
					text = chunk.ResponseID + " " + chunk.ModelVersion
				}
				return text, nil
			},
		}
		for name, call := range calls {
			got, err := call()
			if c.want != ok {
				if e := backend.AsError(err); err == nil || e.Kind != c.want {
					t.Errorf("%v, %s: got %q, %v, want %s", c.said, name, got, err, c.want)
				}
			} else if want := last.name + " " + map[bool]string{true: "m", false: fmt.Sprint("m", c.asked)}[c.asked == 1]; err != nil || got != want {
				t.Errorf("%v, %s: got %q, %v, want %q", c.said, name, got, err, want)
			}
			for i, p := range places {
				switch {
				case i >= c.asked:
					p.wasAsked(t)
				case i == 0:
					p.wasAsked(t, "m")
				default:
					p.wasAsked(t, fmt.Sprint("m", i+1))
				}
			}
		}
	}
}

// TestNoFallback: a request that its caller gave up, and a stream of which something
// was heard, go nowhere else.
func TestNoFallback(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, b := &place{name: "a"}, &place{name: "b"}
	a.answer = func(context.Context, string) error {
		cancel()
		return &backend.Error{Kind: backend.Unavailable}
	}
	r := chain(t, backend.Limits{}, a, b)
	if _, err := r.Generate(ctx, &backend.Request{Model: "m"}); err == nil {
		t.Error("a request that was given up was answered")
	}
	b.wasAsked(t)

	own := errors.New("the disk is full")
	a.answer = func(context.Context, string) error { return own }
	if _, err := r.Generate(t.Context(), &backend.Request{Model: "m"}); !errors.Is(err, own) {
		t.Errorf("an error of no back-end: got %v", err)
	}
	b.wasAsked(t)

	a.answer, a.broken = always(backend.Unavailable), 2
	var got []string
	for chunk, err := range r.Stream(t.Context(), &backend.Request{Model: "m"}) {
		if err != nil {
			got = append(got, string(backend.AsError(err).Kind))
			continue
		}
		got = append(got, chunk.ResponseID)
	}
	if !slices.Equal(got, []string{"a", "unavailable"}) {
		t.Errorf("got %v", got)
	}
	b.wasAsked(t)
	for range r.Stream(t.Context(), &backend.Request{Model: "m"}) {
		break // Whoever has heard enough may leave.
	}
	b.wasAsked(t)
}

// TestEmbeddingsFallBack only to the same model: the vectors of another one can't be
// compared.
func TestEmbeddingsFallBack(t *testing.T) {
	a, b, c := &place{name: "a", answer: always(backend.Unavailable)}, &place{name: "bb"}, &place{name: "ccc"}
	r := router(t, backend.Route{Match: "m", Backend: a, As: "x", Fallbacks: []backend.Fallback{{Backend: named("n"), As: "x"}, {Backend: b, As: "y"}, {Backend: c, As: "x"}}})
	e, err := r.Embed(t.Context(), &backend.EmbedRequest{Model: "m", Body: &genai.EmbedContentRequest{}})
	if err != nil || e.Tokens != 3 {
		t.Errorf("got %+v, %v", e, err)
	}
	b.wasAsked(t)
	r = router(t, backend.Route{Match: "m", Backend: named("n"), Fallbacks: []backend.Fallback{{Backend: b}}})
	if e, err := r.Embed(t.Context(), &backend.EmbedRequest{Model: "m", Body: &genai.EmbedContentRequest{}}); err != nil || e.Tokens != 2 {
		t.Errorf("a back-end that can't: got %+v, %v", e, err)
	}
}

func TestCountsFallBack(t *testing.T) {
	body := &genai.GenerateContentRequest{Contents: []genai.Content{{Parts: []genai.Part{genai.TextPart("123456789")}}}}
	a, b := &place{name: "a", answer: always(backend.Unavailable)}, &place{name: "bb"}
	if n, err := chain(t, backend.Limits{}, a, b).CountTokens(t.Context(), &backend.Request{Model: "m", Body: body}); n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	r := router(t, backend.Route{Match: "m", Backend: a, Fallbacks: []backend.Fallback{{Backend: named("n")}}})
	if n, err := r.CountTokens(t.Context(), &backend.Request{Model: "m", Body: body}); n != 3 || err != nil {
		t.Errorf("an estimate: got %d, %v", n, err)
	}
	a.answer = always(backend.InvalidRequest)
	if _, err := chain(t, backend.Limits{}, a, b).CountTokens(t.Context(), &backend.Request{Model: "m", Body: body}); backend.AsError(err).Kind != backend.InvalidRequest {
		t.Errorf("got %v", err)
	}
}

// rows runs rows of a batch, as the runner does: each is tried until it is answered.
type rows struct {
	t *testing.T
	r *backend.Router

	mu   sync.Mutex
	by   map[string]int // How many each place has answered.
	wait sync.WaitGroup
}

func (x *rows) start(n int) {
	for range n {
		x.wait.Go(func() {
			for {
				resp, err := x.r.Generate(x.t.Context(), &backend.Request{Model: "m", Turn: backend.Turn{Batch: "b"}})
				if err == nil {
					x.mu.Lock()
					x.by[resp.ResponseID]++
					x.mu.Unlock()
					return
				}
				if k := backend.AsError(err).Kind; k != backend.Unavailable && k != backend.RateLimited && k != backend.Unauthorized {
					x.t.Errorf("a row failed: %v", err)
					return
				}
			}
		})
	}
}

func (x *rows) answered(place string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.by[place]
}

// TestRowsFallBack: while the back-end is down, rows run on the fallback at once, and
// few of them try the back-end; when it is back, they return to it.
func TestRowsFallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		down := true
		a := &place{name: "a", answer: func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			if down {
				return &backend.Error{Kind: backend.Unavailable, Message: "down"}
			}
			return nil
		}}
		b := &place{name: "b", answer: func(context.Context, string) error {
			time.Sleep(10 * time.Second)
			return nil
		}}
		x := &rows{t: t, r: chain(t, backend.Limits{}, a, b), by: make(map[string]int)}
		begin := time.Now()
		x.start(640) // Ten times what a back-end gets at once.
		x.wait.Wait()
		if took := time.Since(begin); took != 100*time.Second || x.answered("b") != 640 {
			t.Errorf("%d rows on the fallback after %s", x.answered("b"), took)
		}
		if n := len(a.takeAsked()); n > 64+10 {
			t.Errorf("the back-end that is down was asked %d times", n)
		}
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(time.Minute)
		x.start(1) // One row tries whether it is back; meanwhile others would run on the fallback.
		x.wait.Wait()
		x.start(10)
		x.wait.Wait()
		if x.answered("a") != 11 {
			t.Errorf("%d rows on the back-end that is back", x.answered("a"))
		}
	})
}

// TestWaitingRowsFallBack: rows that wait for their turn when the back-end goes down
// don't stay in its line.
func TestWaitingRowsFallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &place{name: "a", answer: func(context.Context, string) error {
			time.Sleep(time.Second)
			return &backend.Error{Kind: backend.RateLimited, RetryAfter: time.Hour}
		}}
		b := &place{name: "b"}
		r, err := backend.NewRouter([]backend.Route{{Match: "m", Backend: a, Fallbacks: []backend.Fallback{{Backend: b}}}}, map[backend.Backend]backend.Limits{a: {Rows: 2}})
		if err != nil {
			t.Fatal(err)
		}
		x := &rows{t: t, r: r, by: make(map[string]int)}
		begin := time.Now()
		x.start(100)
		x.wait.Wait()
		if took := time.Since(begin); took != time.Second || x.answered("b") != 100 {
			t.Errorf("%d rows on the fallback after %s", x.answered("b"), took)
		}
	})
}

// TestRowsWaitForAny: with all back-ends down, rows wait for whichever is back first,
// and leave the route's places to those who don't.
func TestRowsWaitForAny(t *testing.T) {
	for _, first := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			answer := func(name string) func(context.Context, string) error {
				return func(context.Context, string) error {
					if name == first && time.Since(begin) > 10*time.Minute {
						return nil
					}
					return &backend.Error{Kind: backend.Unauthorized, Message: "no"}
				}
			}
			a, b := &place{name: "a", answer: answer("a")}, &place{name: "b", answer: answer("b")}
			x := &rows{t: t, r: chain(t, backend.Limits{InFlight: 4}, a, b), by: make(map[string]int)}
			x.start(500)
			time.Sleep(time.Minute)
			// The other one takes what somebody waits for, though rows wait.
			asked := time.Now()
			if _, err := x.r.Generate(t.Context(), &backend.Request{Model: "m"}); backend.AsError(err).Kind != backend.Unauthorized || time.Since(asked) > 0 {
				t.Errorf("got %v after %s", err, time.Since(asked))
			}
			x.wait.Wait()
			if took := time.Since(begin) - 10*time.Minute; took > 31*time.Second || x.answered(first) != 500 {
				t.Errorf("%d rows on %s, %s after it was back", x.answered(first), first, took)
			}
			if n := len(a.takeAsked()) + len(b.takeAsked()); n > 500+100 {
				t.Errorf("the back-ends were asked %d times", n)
			}
		})
	}
}

// TestRowsWaitForTheOneThatTakesThem: a fallback that refuses a row does not decide
// while the back-end that might take it is down.
func TestRowsWaitForTheOneThatTakesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		a := &place{name: "a", answer: func(context.Context, string) error {
			if time.Since(begin) > time.Minute {
				return nil
			}
			return &backend.Error{Kind: backend.Unavailable}
		}}
		b := &place{name: "b", answer: always(backend.InvalidRequest)}
		x := &rows{t: t, r: chain(t, backend.Limits{}, a, b), by: make(map[string]int)}
		x.start(20)
		x.wait.Wait()
		if x.answered("a") != 20 {
			t.Errorf("%d rows were answered", x.answered("a"))
		}
		// Unless there is nobody else.
		r := chain(t, backend.Limits{}, &place{name: "c", answer: always(backend.ModelNotFound)}, b)
		if _, err := r.Generate(t.Context(), &backend.Request{Model: "m", Turn: backend.Turn{Batch: "b"}}); backend.AsError(err).Kind != backend.ModelNotFound {
			t.Errorf("got %v", err)
		}
	})
}

// TestRowsAreGivenUp: a row that waits for back-ends ends with its batch.
func TestRowsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := errors.New("the batch was cancelled")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer time.AfterFunc(5*time.Second, func() { cancel(reason) }).Stop()
		limited := func(context.Context, string) error {
			return &backend.Error{Kind: backend.RateLimited, RetryAfter: time.Hour}
		}
		r := chain(t, backend.Limits{InFlight: 1}, &place{name: "a", answer: limited}, &place{name: "b", answer: limited})
		row := &backend.Request{Model: "m", Turn: backend.Turn{Batch: "b"}}
		if _, err := r.Generate(ctx, row); backend.AsError(err).Kind != backend.RateLimited {
			t.Errorf("got %v", err)
		}
		begin := time.Now()
		if _, err := r.Generate(ctx, row); !errors.Is(err, reason) || time.Since(begin) != 5*time.Second {
			t.Errorf("got %v after %s", err, time.Since(begin))
		}
	})
}

// TestUrgentFallsBack: what somebody waits for goes to a back-end that can be used,
// and tries one that can't only after that.
func TestUrgentFallsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &place{name: "a", answer: func(context.Context, string) error {
			time.Sleep(5 * time.Second) // Its own tries.
			return &backend.Error{Kind: backend.Unavailable}
		}}
		b := &place{name: "b"}
		r := chain(t, backend.Limits{}, a, b)
		generate := func() time.Duration {
			t.Helper()
			begin := time.Now()
			if resp, err := r.Generate(t.Context(), &backend.Request{Model: "m"}); err != nil || resp.ResponseID != "b" {
				t.Errorf("got %+v, %v", resp, err)
			}
			return time.Since(begin)
		}
		for range 3 {
			if took := generate(); took != 5*time.Second {
				t.Errorf("at first it took %s", took)
			}
		}
		if took := generate(); took != 0 {
			t.Errorf("then it took %s", took)
		}
		b.answer = always(backend.Timeout)
		a.takeAsked()
		if _, err := r.Generate(t.Context(), &backend.Request{Model: "m"}); backend.AsError(err).Kind != backend.Unavailable {
			t.Errorf("got %v", err)
		}
		a.wasAsked(t, "m")
	})
}

// TestFallbacksAreLogged: a line for the first one, then one a minute.
func TestFallbacksAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := chain(t, backend.Limits{}, &place{name: "a", answer: always(backend.Internal)}, &place{name: "b"})
		r.Log = slog.New(slog.NewTextHandler(&out, nil))
		for range 90 {
			if _, err := r.Generate(t.Context(), &backend.Request{Model: "m"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "model=m from=a error=internal not_logged_before=0") || !strings.Contains(lines[1], "not_logged_before=59") {
			t.Errorf("got %q", lines)
		}
	})
}

// studio makes videos: what it does is a function.
type studio struct {
	named
	make func(*backend.VideoRequest, backend.VideoOutput) error
}

func (s *studio) MakeVideos(_ context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
	return &backend.VideoResult{Filtered: len(req.Model)}, s.make(req, out)
}

// reel keeps what videos a job has and what was noted.
type reel struct {
	begun      int
	checkpoint []byte
}

func (r *reel) Create(context.Context, string) (io.WriteCloser, error) {
	r.begun++
	return nil, nil
}

func (r *reel) Note(_ context.Context, checkpoint []byte) error {
	r.checkpoint = checkpoint
	return nil
}

func (*reel) Progress(int) {}

// TestVideosFallBack only while nothing was begun, and a further run goes on where the
// one before has noted something.
func TestVideosFallBack(t *testing.T) {
	down := &backend.Error{Kind: backend.Unavailable, Message: "down"}
	var asked []string
	var deed func(name string, req *backend.VideoRequest, out backend.VideoOutput) error
	maker := func(name string) *studio {
		return &studio{named: named(name), make: func(req *backend.VideoRequest, out backend.VideoOutput) error {
			asked = append(asked, fmt.Sprintf("%s/%s %s", name, req.Model, req.Checkpoint))
			return deed(name, req, out)
		}}
	}
	a, b := maker("a"), maker("b")
	route := backend.Route{Match: "*", Name: "a", Backend: a, Fallbacks: []backend.Fallback{{Name: "n", Backend: named("n")}, {Name: "b", Backend: b, As: "veo"}}}
	run := func(route backend.Route, film *reel) error {
		asked = nil
		_, err := router(t, route).MakeVideos(t.Context(), &backend.VideoRequest{Model: "m", Checkpoint: film.checkpoint}, film)
		return err
	}
	check := func(what string, err error, fails bool, want ...string) {
		t.Helper()
		if (err != nil) != fails || !slices.Equal(asked, want) {
			t.Errorf("%s: asked %q, want %q; %v", what, asked, want, err)
		}
	}

	film := &reel{}
	deed = func(name string, _ *backend.VideoRequest, out backend.VideoOutput) error {
		out.Progress(10)
		if name == "a" {
			return down
		}
		return nil
	}
	check("nothing was begun", run(route, film), false, "a/m ", "b/veo ")

	deed = func(_ string, _ *backend.VideoRequest, out backend.VideoOutput) error {
		if _, err := out.Create(t.Context(), "video/mp4"); err != nil {
			return err
		}
		return down
	}
	check("a video was begun", run(route, film), true, "a/m ")

	deed = func(name string, _ *backend.VideoRequest, out backend.VideoOutput) error {
		if err := out.Note(t.Context(), []byte(`{"op":"`+name+`"}`)); err != nil {
			return err
		}
		return down
	}
	check("something was noted", run(route, film), true, "a/m ")
	check("it goes on with it", run(route, film), true, `a/m {"op":"a"}`)

	film = &reel{}
	both := deed
	deed = func(name string, req *backend.VideoRequest, out backend.VideoOutput) error {
		if name == "a" {
			return down
		}
		return both(name, req, out)
	}
	check("noted by a fallback", run(route, film), true, "a/m ", "b/veo ")
	check("the fallback goes on with it", run(route, film), true, `b/veo {"op":"b"}`)
	other := route
	other.Fallbacks = []backend.Fallback{{Name: "b", Backend: b, As: "veo"}, {Name: "c", Backend: maker("c")}}
	check("in another order", run(other, film), true, `b/veo {"op":"b"}`)
	other.Fallbacks = other.Fallbacks[1:]
	check("when it is gone, others begin", run(other, film), true, "a/m ", "c/m ")
	other.Fallbacks = nil
	check("without any fallback", run(other, film), true, "a/m ")

	other = backend.Route{Match: "*", Name: "n", Backend: named("n"), Fallbacks: []backend.Fallback{{Name: "b", Backend: b}}}
	film = &reel{}
	check("by the only one that can", run(other, film), true, "b/m ")
	if err := run(backend.Route{Match: "*", Backend: named("n")}, film); backend.AsError(err).Kind != backend.InvalidRequest {
		t.Errorf("got %v", err)
	}
}
