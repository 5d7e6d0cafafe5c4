package edge

import (
	"fmt"
	"path"
	"reflect"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
)

// route says which events its actions are for.
type route struct {
	name      string
	sources   []string // Patterns.
	types     []string
	metadata  map[string]any
	when      *vm.Program // Nil without a condition.
	condition string
	actions   []*action
}

func compileCondition(text string) (*vm.Program, error) { return compile(text, expr.AsBool()) }

// match reports whether an event is the route's. A condition that can't be
// worked out for an event, since it compares what is not there, is not met; the
// error says so.
func (r *route) match(e *Event) (bool, error) {
	if !anyMatch(r.sources, e.Source) || !anyMatch(r.types, e.Type) {
		return false, nil
	}
	if len(r.metadata) > 0 {
		metadata, _ := e.env().Metadata.(map[string]any)
		for name, want := range r.metadata {
			if have, ok := metadata[name]; !ok || !reflect.DeepEqual(have, want) {
				return false, nil
			}
		}
	}
	if r.when == nil {
		return true, nil
	}
	v, err := eval(r.when, e)
	if err != nil {
		return false, fmt.Errorf("route %s: when: %w", r.name, err)
	}
	met, ok := v.(bool) // Compiled to be one, or to fail.
	return ok && met, nil
}

// anyMatch reports whether a name matches a pattern, or there is none.
func anyMatch(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return len(patterns) == 0
}

// plan is what is to be done about an event.
func (s *setup) plan(e *Event) (actions []*action, errs []error) {
	for _, r := range s.routes {
		ok, err := r.match(e)
		if err != nil {
			errs = append(errs, err)
		}
		if ok {
			actions = append(actions, r.actions...)
		}
	}
	return actions, errs
}
