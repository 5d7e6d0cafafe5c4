package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
	"go.yaml.in/yaml/v3"
)

// compile reads an expression (expr-lang.org) over an event. What depends on
// anything else than the event is left out: an action that is tried again must do
// the same.
func compile(text string, more ...expr.Option) (*vm.Program, error) {
	p, err := expr.Compile(text, append([]expr.Option{expr.Env(env{}), expr.DisableBuiltin("now")}, more...)...)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n") // What follows draws the place.
		return nil, fmt.Errorf("%s; names are source, id, type, timestamp, data, metadata, event, body, received", first)
	}
	return p, nil
}

// eval is the value of an expression.
func eval(p *vm.Program, e *Event) (any, error) {
	v, err := expr.Run(p, *e.env())
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, errors.New(first)
	}
	return v, nil
}

// template is text with expressions between {{ and }}.
type template struct {
	source string
	parts  []part
}

// part is text, or an expression.
type part struct {
	text    string
	program *vm.Program
	source  string
}

// maxEnds bounds how many }} are tried as an expression's end: those of nested
// maps belong to it.
const maxEnds = 16

// parseTemplate reads a template.
func parseTemplate(text string) (*template, error) {
	t := &template{source: text}
	for text != "" {
		before, rest, found := strings.Cut(text, "{{")
		if before != "" {
			t.parts = append(t.parts, part{text: before})
		}
		if !found {
			break
		}
		p, after, err := parsePart(rest)
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, p)
		text = after
	}
	return t, nil
}

// parsePart reads an expression up to the first }} with which it is one.
func parsePart(text string) (part, string, error) {
	var first error
	for end, n := 0, 0; n < maxEnds; n++ {
		i := strings.Index(text[end:], "}}")
		if i < 0 {
			break
		}
		end += i
		source := strings.TrimSpace(text[:end])
		program, err := compile(source)
		if err == nil {
			return part{program: program, source: source}, text[end+2:], nil
		}
		if first == nil {
			first = fmt.Errorf("in {{ %s }}: %w", source, err)
		}
		end++
	}
	if first == nil {
		first = errors.New("a {{ has no }}; to print {{ write {{ \"{{\" }}")
	}
	return part{}, "", first
}

// fixed reports whether the template has no expression.
func (t *template) fixed() bool {
	for _, p := range t.parts {
		if p.program != nil {
			return false
		}
	}
	return true
}

// render fills in the values of an event. escape, if not nil, is applied to them.
// A value that is null is an error, since half a name or address is worse than none.
func (t *template) render(e *Event, escape func(string) string) (string, error) {
	return t.fill(e, escape, false)
}

// show is render for people: what is null is left out.
func (t *template) show(e *Event, escape func(string) string) (string, error) {
	return t.fill(e, escape, true)
}

func (t *template) fill(e *Event, escape func(string) string, lenient bool) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.program == nil {
			b.WriteString(p.text)
			continue
		}
		v, err := eval(p.program, e)
		if err == nil && v == nil && !lenient {
			err = errors.New("it is null; give a default with ??")
		}
		var text string
		if err == nil {
			text, err = asText(v)
		}
		if err != nil {
			return "", fmt.Errorf("{{ %s }}: %w", p.source, err)
		}
		if escape != nil {
			text = escape(text)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// asText prints a value: lists and maps as JSON.
func asText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int:
		return strconv.Itoa(v), nil
	case float64:
		if math.Abs(v) < 1e21 {
			return strconv.FormatFloat(v, 'f', -1, 64), nil
		}
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	case time.Duration:
		return v.String(), nil
	}
	text, err := asJSON(v)
	return string(text), err
}

// asJSON encodes a value without escaping what is harmless outside of HTML.
func asJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("it can't be written as JSON: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// value is a JSON value in which strings are templates. A string that is nothing
// but one expression becomes its value, whatever its type, so that no event can
// break the JSON around it.
type value struct {
	literal []byte // JSON; nil if it is none of the following.
	text    *template
	members []member
	items   []value
	list    bool
}

type member struct {
	name  *template
	value value
}

// maxDepth bounds how deep values are nested; aliases of YAML could repeat
// themselves for ever.
const maxDepth = 64

// parseValue reads a value from YAML, in its order.
func parseValue(n *yaml.Node, left *int, depth int) (value, error) {
	if *left--; *left < 0 || depth > maxDepth {
		return value{}, errors.New("it is too large, or nested too deeply")
	}
	wrong := func(format string, args ...any) (value, error) {
		return value{}, fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...))
	}
	switch n.Kind {
	case yaml.AliasNode:
		return parseValue(n.Alias, left, depth+1)
	case yaml.MappingNode:
		v, seen := value{members: []member{}}, make(map[string]bool)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" {
				return wrong("names must be texts")
			}
			if seen[k.Value] {
				return wrong("%s is there twice; keep one of them", k.Value)
			}
			seen[k.Value] = true
			name, err := parseTemplate(k.Value)
			if err != nil {
				return wrong("%s", err)
			}
			child, err := parseValue(n.Content[i+1], left, depth+1)
			if err != nil {
				return value{}, err
			}
			v.members = append(v.members, member{name, child})
		}
		return v, nil
	case yaml.SequenceNode:
		v := value{list: true}
		for _, item := range n.Content {
			child, err := parseValue(item, left, depth+1)
			if err != nil {
				return value{}, err
			}
			v.items = append(v.items, child)
		}
		return v, nil
	}
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool", "!!null":
		var plain any
		if err := n.Decode(&plain); err != nil {
			return wrong("%q can't be read", n.Value)
		}
		text, err := asJSON(plain)
		if err != nil {
			return wrong("%q has no form in JSON", n.Value)
		}
		return value{literal: text}, nil
	}
	t, err := parseTemplate(n.Value)
	if err != nil {
		return wrong("%s", err)
	}
	return value{text: t}, nil
}

// appendJSON appends the value for an event.
func (v *value) appendJSON(to []byte, e *Event) ([]byte, error) {
	switch {
	case v.literal != nil:
		return append(to, v.literal...), nil
	case v.text != nil && len(v.text.parts) == 1 && v.text.parts[0].program != nil:
		p := v.text.parts[0]
		x, err := eval(p.program, e)
		var text []byte
		if err == nil {
			text, err = asJSON(x)
		}
		if err != nil {
			return nil, fmt.Errorf("{{ %s }}: %w", p.source, err)
		}
		return append(to, text...), nil
	case v.text != nil:
		return appendString(to, v.text, e)
	case v.list:
		to = append(to, '[')
		for i := range v.items {
			if i > 0 {
				to = append(to, ',')
			}
			var err error
			if to, err = v.items[i].appendJSON(to, e); err != nil {
				return nil, err
			}
		}
		return append(to, ']'), nil
	}
	to = append(to, '{')
	for i := range v.members {
		if i > 0 {
			to = append(to, ',')
		}
		var err error
		if to, err = appendString(to, v.members[i].name, e); err != nil {
			return nil, err
		}
		if to, err = v.members[i].value.appendJSON(append(to, ':'), e); err != nil {
			return nil, err
		}
	}
	return append(to, '}'), nil
}

func appendString(to []byte, t *template, e *Event) ([]byte, error) {
	text, err := t.render(e, nil)
	if err != nil {
		return nil, err
	}
	quoted, err := asJSON(text)
	return append(to, quoted...), err
}

// member is a member of a mapping by its fixed name, nil if there is none.
func (v *value) member(name string) *value {
	for i := range v.members {
		if m := &v.members[i]; m.name.fixed() && m.name.source == name {
			return &m.value
		}
	}
	return nil
}
