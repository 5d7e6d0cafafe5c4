package edge

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func sample(body string) *Event {
	var e struct{ Type string }
	_ = json.Unmarshal([]byte(body), &e) // What can't be read has no type.
	return &Event{Source: "s", ID: "msg_1", Type: e.Type, Body: []byte(body), Received: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)}
}

func TestTemplate(t *testing.T) {
	e := sample(`{"type":"a.b","data":{"id":"x","n":9007199254740993,"f":1e3,"t":true,"list":[1,"<&>"],"nested":{"a":{"b":"c"}},"null":null}}`)
	for text, want := range map[string]string{
		"":                                          "",
		"plain } }} {":                              "plain } }} {",
		"{{ id }}":                                  "msg_1",
		"{{id}}-{{ source }}":                       "msg_1-s",
		"{{ data.n }} {{ data.f }} {{ data.t }}":    "9007199254740993 1000 true",
		"{{ data.list }}":                           `[1,"<&>"]`,
		"{{ data.nested.a.b }}":                     "c",
		`{{ {"a": {"b": id}} }}!`:                   `{"a":{"b":"msg_1"}}!`,
		`{{ "{{" }}x{{ "}}" }}`:                     "{{x}}",
		"{{ data.none ?? 'default' }}":              "default",
		"{{ upper(type) }}":                         "A.B",
		"{{ received }}":                            "2026-10-01T12:00:00Z",
		"{{ data?.none?.deep ?? 0 }}":               "0",
		`{{ join(map(data.list, string(#)), "|")}}`: "1|<&>",
	} {
		tm, err := parseTemplate(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := tm.render(e, nil)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"{{":                   "has no }}",
		"{{ id":                "has no }}",
		"{{ }}":                "unexpected token EOF",
		"{{ nope }}":           "unknown name nope",
		"{{ id }} {{ 1 + }}":   "unexpected token EOF",
		"{{ now() }}":          "unknown name now",
		"{{ data.none }}":      "it is null; give a default with ??",
		"{{ data.none.deep }}": "cannot fetch deep from <nil>",
		"{{ data.id + 1 }}":    "invalid operation",
	} {
		tm, err := parseTemplate(text)
		if err == nil {
			_, err = tm.render(e, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestMatch(t *testing.T) {
	const body = `{"type":"batch.succeeded","data":{"n":2,"user_metadata":{"team":"x","n":1,"on":true,"day":"2026-01-01","days":["2026-01-01",1]}}}`
	for text, want := range map[string]string{
		"{}":                                       "yes",
		"{source: s}":                              "yes",
		"{source: [t, s]}":                         "yes",
		"{type: batch.succeeded}":                  "yes",
		`{type: "batch.*"}`:                        "yes",
		`{type: ["*.failed", "video.*"]}`:          "no",
		"{metadata: {team: x, n: 1, on: true}}":    "yes",
		"{metadata: {team: y}}":                    "no",
		"{metadata: {day: 2026-01-01}}":            "yes",
		"{metadata: {days: [2026-01-01, 1]}}":      "yes",
		"{metadata: {day: 2026-01-02}}":            "no",
		"{metadata: {n: '1'}}":                     "no",
		"{metadata: {none: null}}":                 "no",
		"{when: data.n == 2 && metadata.n < 2}":    "yes",
		"{when: data.n == 3}":                      "no",
		"{when: data.none == nil}":                 "yes",
		"{when: data.none > 1}":                    "route r: when: invalid operation: <nil> > int (1:11)",
		"{when: data.n}":                           "route r: when: invalid operation: bool(int) (1:1)",
		"{type: other, when: data.none > 1}":       "no",
		`{when: 'event.type startsWith "batch."'}`: "yes",
	} {
		f := parse([]byte("sources: {s: {path: /s, public_keys: whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=}, t: {path: /t, public_keys: whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=}}\n" +
			"routes: [" + strings.Replace(text, "{", "{name: r, actions: [{exec: {command: [/bin/true]}}], ", 1) + "]"))
		s := f.ready()
		if len(f.problems) > 0 {
			t.Fatalf("%s: %v", text, f.problems)
		}
		s.close()
		ok, err := s.routes[0].match(sample(body))
		got := map[bool]string{true: "yes", false: "no"}[ok]
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestOddBodies: whatever was verified is an event.
func TestOddBodies(t *testing.T) {
	for _, body := range []string{"", "x", "7", "null", "[]", `{"type":7,"data":"x"}`, `{"data":{}} {}`, `{"data":` + strings.Repeat("[", 20_000), "\xff\xfe", `{"data":1e999}`} {
		e := sample(body)
		for _, text := range []string{"{{ type }}{{ body }}", "{{ data?.id ?? 1 }}", "{{ event }}"} {
			tm, err := parseTemplate(text)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = tm.render(e, nil) // It may be an error, not a panic.
		}
		if e.env().Body != body {
			t.Errorf("%q became %q", body, e.env().Body)
		}
	}
}

// FuzzTemplate: no template and no event breaks the JSON around it, leads out of a
// folder, or ends a header.
func FuzzTemplate(f *testing.F) {
	f.Add("{{ data.id }}", `{"type":"x","data":{"id":"../../etc/passwd"}}`)
	f.Add("a{{ data }}b", `{"data":{"id":"\r\nX: y"}}`)
	f.Add(`{{ {"a": {"b": id}} }}`, `{}`)
	f.Add(".", `{}`)
	f.Add("{{ metadata.x ?? '..' }}/{{ data.y }}", `{"data":{"y":".."},"user_metadata":{"x":"\u0000"}}`)
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, text, body string) {
		tm, err := parseTemplate(text)
		if err != nil {
			return
		}
		e := sample(body)
		if name, err := (&download{file: tm}).fileName(e); err == nil {
			full := filepath.Join(folder, name)
			if !strings.HasPrefix(full, folder+string(os.PathSeparator)) || strings.ContainsRune(name, 0) {
				t.Errorf("the name %q leads out", name)
			}
		}
		if value, err := tm.render(e, headerValue); err == nil && tm.clean() && strings.ContainsAny(value, "\r\n\x00") {
			t.Errorf("the header %q", value)
		}
		var n yaml.Node
		n.SetString(text)
		left := 100
		v, err := parseValue(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{&n, &n}}, &left, 0)
		if err != nil {
			return
		}
		if out, err := v.appendJSON(nil, e); err == nil && !json.Valid(out) {
			t.Errorf("%q and %q make %q", text, body, out)
		}
	})
}

// clean reports whether the template's own text has no control characters.
func (t *template) clean() bool {
	for _, p := range t.parts {
		if strings.ContainsAny(p.text, "\r\n\x00") {
			return false
		}
	}
	return true
}
