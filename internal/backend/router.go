package backend

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"path"
	"slices"
	"strings"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

// Route sends the models whose name matches to a back-end.
type Route struct {
	// Match is a model's name or a pattern of path.Match, such as "gemini-*"; a
	// bare "*" matches every name, also one with slashes.
	Match   string
	Backend Backend
	// As is the name that the back-end knows; empty means the same.
	As string
	// Name is the back-end's, for the log.
	Name string
	// Fallbacks are tried in their order when a request fails for a reason that is
	// not its own (fallback.go).
	Fallbacks []Fallback
	// Limits bound the requests of this route; those of the back-end are given
	// to NewRouter.
	Limits Limits
	// Rows: the rows of batches are run one by one although the back-end takes whole
	// batches.
	Rows bool

	own     *gate     // Of the route's limits, if it has any.
	targets []*target // The back-end, then the fallbacks.
}

// Router is a Backend that passes each request to the first route that matches
// its model.
type Router struct {
	// Log, if not nil, is told of requests that went on to a fallback.
	Log *slog.Logger
	// Attach, if not nil, puts the files of a project that a request points to into
	// the request. release is called when it was answered. It is called when the
	// request's turn has come, so that few are in memory.
	Attach func(ctx context.Context, project ringback.ID, body *genai.GenerateContentRequest) (_ *genai.GenerateContentRequest, release func(), err error)

	routes []Route
}

// RowsInFlight is how many rows of batches a back-end gets at once unless its
// limits say otherwise.
const RowsInFlight = 64

// NewRouter returns a Router. limits are those of back-ends; one that is not in it
// gets RowsInFlight rows and any number of other requests. A malformed pattern is
// an error.
func NewRouter(routes []Route, limits map[Backend]Limits) (*Router, error) {
	routes = slices.Clone(routes)
	gates := make(map[Backend]*gate)
	gateOf := func(b Backend) *gate {
		if gates[b] == nil {
			l := limits[b]
			if l.Rows == 0 {
				l.Rows = RowsInFlight
			}
			gates[b] = newGate(l)
		}
		return gates[b]
	}
	for i := range routes {
		r := &routes[i]
		if _, err := path.Match(r.Match, ""); err != nil || r.Match == "" {
			return nil, fmt.Errorf("%q is not a model name or pattern", r.Match)
		}
		if r.Limits != (Limits{}) {
			r.own = newGate(r.Limits)
		}
		for k, f := range append([]Fallback{{r.Name, r.Backend, r.As}}, r.Fallbacks...) {
			r.targets = append(r.targets, &target{Fallback: f, first: k == 0, gate: gateOf(f.Backend)})
		}
	}
	return &Router{routes: routes}, nil
}

// matches reports whether the route takes a model. A bare "*" takes all.
func (r *Route) matches(model string) bool {
	ok, _ := path.Match(r.Match, model)
	return ok || r.Match == "*"
}

// named reports whether the route is for one model, not for a pattern.
func (r *Route) named() bool { return !strings.ContainsAny(r.Match, `*?[\`) }

// find returns the route of a model, and the model's name there.
func (r *Router) find(model string) (*Route, string, error) {
	for i := range r.routes {
		if route := &r.routes[i]; route.matches(model) {
			return route, route.targets[0].model(model), nil
		}
	}
	names := make([]string, len(r.routes))
	for i := range r.routes {
		names[i] = r.routes[i].Match
	}
	return nil, "", &Error{Kind: ModelNotFound,
		Message: fmt.Sprintf("model %q is not configured; configured are %s", model, strings.Join(names, ", "))}
}

// Resolve implements Resolver.
func (r *Router) Resolve(model string) error {
	_, _, err := r.find(model)
	return err
}

// through runs f when it is the turn's time at all gates of the route.
func (r *Route) through(ctx context.Context, t Turn, f func() error) error {
	gates := make([]*gate, 0, 2)
	if r.own != nil {
		gates = append(gates, r.own)
	}
	gates = append(gates, r.targets[0].gate)
	passes := make([]pass, 0, 2)
	var err error
	for _, g := range gates {
		var p pass
		if p, err = g.enter(ctx, t); err != nil {
			break
		}
		passes = append(passes, p)
	}
	if err == nil {
		err = f()
	}
	for i := len(passes) - 1; i >= 0; i-- {
		err = gates[i].done(ctx, passes[i], err)
	}
	return err
}

// sign says which model answered, if the back-end does not: with other names and
// fallbacks that is not plain from the request.
func (t *target) sign(resp *genai.GenerateContentResponse, asked string) {
	if resp.ModelVersion == "" {
		resp.ModelVersion = t.model(asked)
	}
}

// attached is the request as a target gets it.
func (r *Router) attached(ctx context.Context, req *Request, t *target) (_ *Request, release func(), err error) {
	own := *req
	own.Model = t.model(req.Model)
	if r.Attach == nil {
		return &own, func() {}, nil
	}
	own.Body, release, err = r.Attach(ctx, req.Project, req.Body)
	return &own, release, err
}

// Generate implements Backend.
func (r *Router) Generate(ctx context.Context, req *Request) (resp *genai.GenerateContentResponse, err error) {
	route, _, err := r.find(req.Model)
	if err != nil {
		return nil, err
	}
	err = r.run(ctx, route, route.targets, req.Model, req.Turn, func(t *target) (begun bool, err error) {
		own, release, err := r.attached(ctx, req, t)
		if err != nil {
			return false, err
		}
		defer release()
		resp, err = t.Backend.Generate(ctx, own)
		if err == nil {
			t.sign(resp, req.Model)
		}
		return false, err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Embed implements Embedder. A back-end that can't embed refuses the request. Vectors
// of different models can't be compared, so fallbacks count only if they run the
// model under the same name.
func (r *Router) Embed(ctx context.Context, req *EmbedRequest) (e *Embedding, err error) {
	route, _, err := r.find(req.Model)
	if err != nil {
		return nil, err
	}
	targets := route.embedders(req.Model)
	if len(targets) == 0 {
		return nil, &Error{Kind: InvalidRequest, Message: fmt.Sprintf("the back-end of model %q makes no embeddings", req.Model)}
	}
	err = r.run(ctx, route, targets, req.Model, req.Turn, func(t *target) (begun bool, err error) {
		e, err = t.Backend.(Embedder).Embed(ctx, &EmbedRequest{Model: t.model(req.Model), Body: req.Body, Turn: req.Turn})
		return false, err
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Stream implements Streamer.
func (r *Router) Stream(ctx context.Context, req *Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		route, _, err := r.find(req.Model)
		if err != nil {
			yield(nil, err)
			return
		}
		listening := true
		err = r.run(ctx, route, route.targets, req.Model, req.Turn, func(t *target) (begun bool, err error) {
			own, release, err := r.attached(ctx, req, t)
			if err != nil {
				return false, err
			}
			defer release()
			for chunk, err := range Stream(ctx, t.Backend, own) {
				if err != nil {
					return begun, err
				}
				begun = true
				t.sign(chunk, req.Model)
				if listening = yield(chunk, nil); !listening {
					return begun, nil
				}
			}
			return begun, nil
		})
		if err != nil && listening {
			yield(nil, err)
		}
	}
}

// CountTokens implements TokenCounter. It estimates for a back-end that can't count.
func (r *Router) CountTokens(ctx context.Context, req *Request) (n int, err error) {
	route, _, err := r.find(req.Model)
	if err != nil {
		return 0, err
	}
	for _, t := range route.targets {
		c, ok := t.Backend.(TokenCounter)
		if !ok {
			return EstimateTokens(req.Body), nil
		}
		n, err = c.CountTokens(ctx, &Request{Model: t.model(req.Model), Body: req.Body})
		if err == nil || ctx.Err() != nil || AsError(err).Kind == InvalidRequest {
			break
		}
	}
	return n, err
}
