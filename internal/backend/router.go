package backend

import (
	"context"
	"fmt"
	"iter"
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
	// Limits bound the requests of this route; those of the back-end are given
	// to NewRouter.
	Limits Limits

	gates []*gate // In the order in which they are entered.
}

// Router is a Backend that passes each request to the first route that matches
// its model.
type Router struct {
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
	for i := range routes {
		r := &routes[i]
		g := gates[r.Backend]
		if g == nil {
			l := limits[r.Backend]
			if l.Rows == 0 {
				l.Rows = RowsInFlight
			}
			g = newGate(l)
			gates[r.Backend] = g
		}
		if r.Limits != (Limits{}) {
			r.gates = append(r.gates, newGate(r.Limits))
		}
		r.gates = append(r.gates, g)
		if _, err := path.Match(r.Match, ""); err != nil || r.Match == "" {
			return nil, fmt.Errorf("%q is not a model name or pattern", r.Match)
		}
	}
	return &Router{routes: routes}, nil
}

// find returns the route of a model, and the model's name there.
func (r *Router) find(model string) (*Route, string, error) {
	for i := range r.routes {
		route := &r.routes[i]
		if ok, _ := path.Match(route.Match, model); ok || route.Match == "*" {
			if route.As != "" {
				model = route.As
			}
			return route, model, nil
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
	passes := make([]pass, 0, 2)
	var err error
	for _, g := range r.gates {
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
		err = r.gates[i].done(ctx, passes[i], err)
	}
	return err
}

// attached is the request as the back-end of a route gets it.
func (r *Router) attached(ctx context.Context, req *Request, model string) (_ *Request, release func(), err error) {
	own := *req
	own.Model = model
	if r.Attach == nil {
		return &own, func() {}, nil
	}
	own.Body, release, err = r.Attach(ctx, req.Project, req.Body)
	return &own, release, err
}

// Generate implements Backend.
func (r *Router) Generate(ctx context.Context, req *Request) (resp *genai.GenerateContentResponse, err error) {
	route, model, err := r.find(req.Model)
	if err != nil {
		return nil, err
	}
	err = route.through(ctx, req.Turn, func() (err error) {
		own, release, err := r.attached(ctx, req, model)
		if err != nil {
			return err
		}
		defer release()
		resp, err = route.Backend.Generate(ctx, own)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Embed implements Embedder. A back-end that can't embed refuses the request.
func (r *Router) Embed(ctx context.Context, req *EmbedRequest) (e *Embedding, err error) {
	route, model, err := r.find(req.Model)
	if err != nil {
		return nil, err
	}
	embedder, ok := route.Backend.(Embedder)
	if !ok {
		return nil, &Error{Kind: InvalidRequest, Message: fmt.Sprintf("the back-end of model %q makes no embeddings", req.Model)}
	}
	err = route.through(ctx, req.Turn, func() (err error) {
		e, err = embedder.Embed(ctx, &EmbedRequest{Model: model, Body: req.Body, Turn: req.Turn})
		return err
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Stream implements Streamer.
func (r *Router) Stream(ctx context.Context, req *Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		route, model, err := r.find(req.Model)
		if err != nil {
			yield(nil, err)
			return
		}
		listening := true
		err = route.through(ctx, req.Turn, func() error {
			own, release, err := r.attached(ctx, req, model)
			if err != nil {
				return err
			}
			defer release()
			for chunk, err := range Stream(ctx, route.Backend, own) {
				if err != nil {
					return err
				}
				if listening = yield(chunk, nil); !listening {
					return nil
				}
			}
			return nil
		})
		if err != nil && listening {
			yield(nil, err)
		}
	}
}

// CountTokens implements TokenCounter. It estimates for a back-end that can't count.
func (r *Router) CountTokens(ctx context.Context, req *Request) (int, error) {
	route, model, err := r.find(req.Model)
	if err != nil {
		return 0, err
	}
	if c, ok := route.Backend.(TokenCounter); ok {
		return c.CountTokens(ctx, &Request{Model: model, Body: req.Body})
	}
	return EstimateTokens(req.Body), nil
}

// Models implements ModelLister: the names in the routes, then what the
// back-ends behind patterns list.
func (r *Router) Models(ctx context.Context) ([]genai.Model, error) {
	var all []genai.Model
	add := func(m genai.Model) {
		if !slices.ContainsFunc(all, func(x genai.Model) bool { return x.Name == m.Name }) {
			all = append(all, m)
		}
	}
	for _, route := range r.routes {
		if !strings.ContainsAny(route.Match, `*?[\`) {
			add(Describe(route.Match))
			continue
		}
		l, ok := route.Backend.(ModelLister)
		if !ok {
			continue
		}
		models, err := l.Models(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range models {
			name := strings.TrimPrefix(m.Name, "models/")
			if ok, _ := path.Match(route.Match, name); ok || route.Match == "*" {
				add(m)
			}
		}
	}
	return all, nil
}

// Describe returns what can be said of a model that is known by name only.
func Describe(name string) genai.Model {
	return genai.Model{Name: "models/" + name, BaseModelID: name, Version: "001", DisplayName: name,
		SupportedGenerationMethods: []string{"generateContent", "streamGenerateContent", "countTokens", "batchGenerateContent", "embedContent", "asyncBatchEmbedContent"}}
}
