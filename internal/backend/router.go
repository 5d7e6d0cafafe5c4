package backend

import (
	"context"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

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
}

// Router is a Backend that passes each request to the first route that matches
// its model.
type Router struct{ routes []Route }

// NewRouter returns a Router. A malformed pattern is an error.
func NewRouter(routes []Route) (*Router, error) {
	for _, r := range routes {
		if _, err := path.Match(r.Match, ""); err != nil || r.Match == "" {
			return nil, fmt.Errorf("%q is not a model name or pattern", r.Match)
		}
	}
	return &Router{routes}, nil
}

// find returns the back-end for a model and the request as it sees it.
func (r *Router) find(req *Request) (Backend, *Request, error) {
	for _, route := range r.routes {
		if ok, _ := path.Match(route.Match, req.Model); ok || route.Match == "*" {
			if route.As != "" {
				req = &Request{Model: route.As, Body: req.Body}
			}
			return route.Backend, req, nil
		}
	}
	names := make([]string, len(r.routes))
	for i, route := range r.routes {
		names[i] = route.Match
	}
	return nil, nil, &Error{Kind: ModelNotFound,
		Message: fmt.Sprintf("model %q is not configured; configured are %s", req.Model, strings.Join(names, ", "))}
}

// Resolve implements Resolver.
func (r *Router) Resolve(model string) error {
	_, _, err := r.find(&Request{Model: model})
	return err
}

// Generate implements Backend.
func (r *Router) Generate(ctx context.Context, req *Request) (*genai.GenerateContentResponse, error) {
	b, req, err := r.find(req)
	if err != nil {
		return nil, err
	}
	return b.Generate(ctx, req)
}

// Stream implements Streamer.
func (r *Router) Stream(ctx context.Context, req *Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	b, req, err := r.find(req)
	if err != nil {
		return func(yield func(*genai.GenerateContentResponse, error) bool) { yield(nil, err) }
	}
	return Stream(ctx, b, req)
}

// CountTokens implements TokenCounter. It estimates for a back-end that can't count.
func (r *Router) CountTokens(ctx context.Context, req *Request) (int, error) {
	b, req, err := r.find(req)
	if err != nil {
		return 0, err
	}
	if c, ok := b.(TokenCounter); ok {
		return c.CountTokens(ctx, req)
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
		SupportedGenerationMethods: []string{"generateContent", "streamGenerateContent", "countTokens"}}
}
