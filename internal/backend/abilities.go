package backend

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"ringback.dev/internal/genai"
)

// Describer describes a model that it would take, whether it lists it or not; the
// error is an *Error of kind ModelNotFound.
type Describer interface {
	Describe(ctx context.Context, model string) (genai.Model, error)
}

// Describe returns what can be said of a model that is known by name only. What can
// be done with it is left to the Router, which knows the back-end.
func Describe(name string) genai.Model {
	return genai.Model{Name: "models/" + name, BaseModelID: name, Version: "001", DisplayName: name}
}

// embedders are the targets that make embeddings of the same model.
func (r *Route) embedders(asked string) []*target {
	var all []*target
	for _, t := range r.targets {
		if _, ok := t.Backend.(Embedder); ok && (len(all) == 0 || t.model(asked) == all[0].model(asked)) {
			all = append(all, t)
		}
	}
	return all
}

// videoMakers are the targets that make a model's videos.
func (r *Route) videoMakers(asked string) []*target {
	return slices.DeleteFunc(slices.Clone(r.targets), func(t *target) bool {
		_, ok := t.Backend.(VideoMaker)
		return !ok
	})
}

// methods are what can be done with a model of the route: any back-end generates,
// other abilities are optional interfaces.
func (r *Route) methods(asked string) []string {
	all := []string{"generateContent", "streamGenerateContent", "countTokens", "batchGenerateContent"}
	if len(r.embedders(asked)) > 0 {
		all = append(all, "embedContent", "asyncBatchEmbedContent")
	}
	if len(r.videoMakers(asked)) > 0 {
		all = append(all, "predictLongRunning")
	}
	return all
}

// describe describes a model of the route by what the configuration says of it.
func (r *Route) describe(name string) genai.Model {
	m := Describe(name)
	if r.As != "" && r.As != name {
		m.Description = "Another name of " + r.As + "."
	}
	return r.complete(m)
}

// complete adds the methods, unless the back-end itself knows them for each model.
func (r *Route) complete(m genai.Model) genai.Model {
	if m.SupportedGenerationMethods == nil {
		m.SupportedGenerationMethods = r.methods(strings.TrimPrefix(m.Name, "models/"))
	}
	return m
}

// listing is how long back-ends have to list their models.
const listing = 10 * time.Second

// list asks the route's back-end for its models; if it can't tell, the fallbacks that
// know the models by the same names are asked. It is nil if nobody lists any.
func (r *Route) list(ctx context.Context, ask func(context.Context, Backend) ([]genai.Model, error)) (models []genai.Model, err error) {
	for _, t := range r.targets {
		if _, ok := t.Backend.(ModelLister); !ok || !t.first && t.As != "" {
			continue
		}
		var failed error
		if models, failed = ask(ctx, t.Backend); failed == nil {
			return models, nil
		}
		if err == nil {
			err = failed
		}
	}
	return nil, err
}

func askList(ctx context.Context, b Backend) ([]genai.Model, error) {
	return b.(ModelLister).Models(ctx)
}

// Models implements ModelLister: the names in the routes, and what the back-ends
// behind patterns list, in the order of the routes. A back-end that can't tell now
// doesn't keep the others from being listed; the error is not nil only if there is
// nothing to list because of one.
func (r *Router) Models(ctx context.Context) ([]genai.Model, error) {
	ctx, cancel := context.WithTimeout(ctx, listing)
	defer cancel()
	type answer struct {
		models []genai.Model
		err    error
	}
	var (
		mu     sync.Mutex
		asked  = make(map[Backend]func() ([]genai.Model, error)) // Each back-end is asked once.
		lists  = make([]answer, len(r.routes))
		routes sync.WaitGroup
	)
	ask := func(ctx context.Context, b Backend) ([]genai.Model, error) {
		mu.Lock()
		once := asked[b]
		if once == nil {
			once = sync.OnceValues(func() ([]genai.Model, error) { return askList(ctx, b) })
			asked[b] = once
		}
		mu.Unlock()
		return once()
	}
	for i := range r.routes {
		if !r.routes[i].named() {
			routes.Go(func() { lists[i].models, lists[i].err = r.routes[i].list(ctx, ask) })
		}
	}
	routes.Wait()
	var (
		all    []genai.Model
		failed error
		seen   = make(map[string]bool)
	)
	add := func(m genai.Model) {
		if !seen[m.Name] {
			seen[m.Name] = true
			all = append(all, m)
		}
	}
	for i := range r.routes {
		route := &r.routes[i]
		if route.named() {
			add(route.describe(route.Match))
			continue
		}
		if err := lists[i].err; err != nil {
			if failed == nil {
				failed = err
			}
			if r.Log != nil && ctx.Err() == nil {
				r.Log.Warn("models can't be listed", "match", route.Match, "backend", route.Name, "error", err)
			}
		}
		for _, m := range lists[i].models {
			// What an earlier route takes is not this back-end's.
			if at, _, err := r.find(strings.TrimPrefix(m.Name, "models/")); err == nil && at == route {
				add(route.complete(m))
			}
		}
	}
	if len(all) == 0 && failed != nil {
		return nil, failed
	}
	return all, nil
}

// Describe implements Describer. A back-end behind a pattern is asked, but what it
// does not list, or can't tell now, may be used all the same.
func (r *Router) Describe(ctx context.Context, model string) (genai.Model, error) {
	route, _, err := r.find(model)
	if err != nil {
		return genai.Model{}, err
	}
	if route.named() {
		return route.describe(model), nil
	}
	ctx, cancel := context.WithTimeout(ctx, listing)
	defer cancel()
	models, _ := route.list(ctx, askList)
	for _, m := range models {
		if m.Name == "models/"+model {
			return route.complete(m), nil
		}
	}
	return route.describe(model), nil
}
