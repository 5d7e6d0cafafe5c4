package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is something wrong with a configuration: where, what, and what would be
// right.
type Problem struct {
	Line int    // 0 if it is nowhere in the file.
	Key  string // Such as sources.gemini.path; empty if it is of no key.
	Text string
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Text
}

// Problems is everything that is wrong with a configuration, as an error.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// file is a configuration with the places of its keys.
type file struct {
	Config
	lines    map[string]int // By key.
	problems Problems
}

// at notes a problem with a key.
func (f *file) at(key, format string, args ...any) {
	f.problems = append(f.problems, Problem{Line: f.line(key), Key: key, Text: fmt.Sprintf(format, args...)})
}

// line finds the place of a key, or of what it is in.
func (f *file) line(key string) int {
	for key != "" {
		if n := f.lines[key]; n > 0 {
			return n
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// maxNodes bounds the values of a file that are looked at, aliases counted each
// time: a few lines of aliases can stand for billions.
const maxNodes = 100_000

// parse reads a file as far as it can be read without looking at anything else.
func parse(data []byte) *file {
	f := &file{lines: make(map[string]int)}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return f
	}
	if err == nil {
		err = doc.Decode(&f.Config)
	}
	var mistyped *yaml.TypeError
	switch {
	case errors.As(err, &mistyped):
		for _, text := range mistyped.Errors {
			f.problems = append(f.problems, typeProblem(text))
		}
	case err != nil:
		f.problems = append(f.problems, typeProblem(strings.TrimPrefix(err.Error(), "yaml: ")))
		return f
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		f.problems = append(f.problems, Problem{Text: "there is more than one document; keep one and remove the ---"})
	}
	left := maxNodes
	f.walk(doc.Content[0], reflect.TypeFor[Config](), "", &left)
	if left < 0 {
		f.problems = append(f.problems, Problem{Text: "the aliases stand for too much"})
	}
	return f
}

// typeProblem makes one of the YAML reader's messages.
func typeProblem(text string) Problem {
	var p Problem
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if n, after, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(n); err == nil {
				p.Line, text = line, after
			}
		}
	}
	text = ownLists.ReplaceAllString(text, " is not a list")
	text = ownTypes.ReplaceAllString(text, " is not a mapping of keys to values")
	p.Text = plainTypes.Replace(text)
	switch {
	case strings.Contains(text, "did not find expected ',' or"):
		p.Text += "; within [ ] and { }, quote texts that hold any of ? , [ ] { }"
	case strings.Contains(text, "found character that cannot start any token"):
		p.Text += "; indent with spaces, not tabs"
	case p.Text == "a mapping is not a text":
		p.Text += `; quote what begins with {{: "{{ … }}"`
	}
	return p
}

// ownTypes and ownLists are types of the configuration in the YAML reader's messages.
var (
	ownLists = regexp.MustCompile(` into \[\]edge\.\w+`)
	ownTypes = regexp.MustCompile(` into (map\[string\])?(edge|yaml)\.\w+`)
)

// plainTypes says what Go's types and YAML's tags mean to who writes the file.
var plainTypes = strings.NewReplacer("cannot unmarshal ", "", "!!str ", "the text ", "!!int ", "the number ", "!!float ", "the number ", "!!bool ", "",
	"!!map", "a mapping", "!!seq", "a list", "!!null", "nothing", "!!timestamp ", "the time ",
	" into time.Duration", " is not a duration such as 30s or 24h", " into []time.Duration", " is not a list of durations such as [5s, 1m]",
	" into map[string]string", " is not a mapping of names to texts", " into []string", " is not a list of texts",
	" into bool", " is not true or false", " into string", " is not a text", " into int", " is not a whole number", " into []uint16", " is not a list of ports",
	" into uint16", " is not a port")

// walk looks for keys that don't exist, and notes where those are that do.
func (f *file) walk(n *yaml.Node, typ reflect.Type, key string, left *int) {
	if *left--; *left < 0 {
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if f.lines[key] == 0 {
		f.lines[key] = n.Line
	}
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch {
	case typ == reflect.TypeFor[yaml.Node]():
	case typ.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		keys := keysOf(typ)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if n.Content[i].ShortTag() == "!!merge" {
				f.walk(n.Content[i+1], typ, key, left)
				continue
			}
			field, ok := keys[name]
			if !ok {
				f.problems = append(f.problems, Problem{Line: n.Content[i].Line, Key: join(key, name), Text: unknown(name, keys)})
				continue
			}
			f.lines[join(key, name)] = n.Content[i].Line
			f.walk(n.Content[i+1], field, join(key, name), left)
		}
	case typ.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := join(key, n.Content[i].Value)
			f.lines[name] = n.Content[i].Line
			f.walk(n.Content[i+1], typ.Elem(), name, left)
		}
	case typ.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for i, item := range n.Content {
			f.walk(item, typ.Elem(), fmt.Sprintf("%s[%d]", key, i), left)
		}
	}
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// keysOf are the keys of a struct with their types.
func keysOf(typ reflect.Type) map[string]reflect.Type {
	keys := make(map[string]reflect.Type)
	for field := range typ.Fields() {
		keys[field.Tag.Get("yaml")] = field.Type
	}
	return keys
}

// unknown says that a key does not exist, and which is the likely one.
func unknown(name string, keys map[string]reflect.Type) string {
	names := make([]string, 0, len(keys))
	best, least := "", 3
	for k := range keys {
		names = append(names, k)
		if d := distance(name, k); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("there is no such key; did you mean %s?", best)
	}
	slices.Sort(names)
	return "there is no such key; here are " + strings.Join(names, ", ")
}

// distance counts the characters to change, add or take away (Levenshtein's).
func distance(a, b string) int {
	if len(a) > 40 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
