package jsjson_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"ringback.dev/internal/jsjson"
)

func TestSet(t *testing.T) {
	const body = `{"type":"a","data":{"id":"x","n":1,"list":[{"k":true},2]},"z":null}`
	for _, x := range []struct{ path, value, want string }{
		{"data.id", `"y"`, `{"type":"a","data":{"id":"y","n":1,"list":[{"k":true},2]},"z":null}`},
		{"data.n", `1.50`, `{"type":"a","data":{"id":"x","n":1.5,"list":[{"k":true},2]},"z":null}`},
		{"data.list.0.k", `{"a": []}`, `{"type":"a","data":{"id":"x","n":1,"list":[{"k":{"a":[]}},2]},"z":null}`},
		{"data.list.2", `3`, `{"type":"a","data":{"id":"x","n":1,"list":[{"k":true},2,3]},"z":null}`},
		{"data.list.2.new", `3`, `{"type":"a","data":{"id":"x","n":1,"list":[{"k":true},2,{"new":3}]},"z":null}`},
		{"user_metadata.team.name", `"t"`, `{"type":"a","data":{"id":"x","n":1,"list":[{"k":true},2]},"z":null,"user_metadata":{"team":{"name":"t"}}}`},
		{"7", `1`, `{"7":1,"type":"a","data":{"id":"x","n":1,"list":[{"k":true},2]},"z":null}`}, // As JavaScript orders it.
		{"data", `{}`, `{"type":"a","data":{},"z":null}`},
	} {
		got, err := jsjson.Set([]byte(body), x.path, []byte(x.value))
		if err != nil || string(got) != x.want {
			t.Errorf("%s=%s: got %s, %v", x.path, x.value, got, err)
		}
	}
	for path, hint := range map[string]string{"data.id.x": `data.id is "x", which has no member "x"`, "z.a": "z is null", "data.list.4": "the list has 2 elements", "data.list.x": `"x" is not the number`,
		"": "not a path", "data..id": "not a path", ".": "not a path", strings.Repeat("a.", 200) + "a": "more than"} {
		if got, err := jsjson.Set([]byte(body), path, []byte("1")); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: got %s, %v", path, got, err)
		}
	}
	if _, err := jsjson.Set([]byte(body), "data.id", []byte("{")); err == nil || !strings.Contains(err.Error(), "data.id: the value is not JSON") {
		t.Errorf("got %v", err)
	}
	if _, err := jsjson.Set([]byte("1"), "a", []byte("1")); err == nil {
		t.Error("a number got a member")
	}
}

// FuzzSet: what was set is there, and the whole is what JavaScript would print.
func FuzzSet(f *testing.F) {
	f.Add([]byte(`{"type":"a","data":{"id":"x"}}`), "data.id", []byte(`"y"`))
	f.Add([]byte(`{"a":[1,{"b":null}]}`), "a.1.b", []byte(`[1e3]`))
	f.Add([]byte(`[]`), "0", []byte(`1`))
	f.Fuzz(func(t *testing.T, object []byte, path string, value []byte) {
		out, err := jsjson.Set(object, path, value)
		if err != nil {
			return
		}
		again, err := jsjson.Normalize(out)
		if err != nil || string(again) != string(out) {
			t.Fatalf("not normal: %s, %v", out, err)
		}
		var all map[string]json.RawMessage
		if strings.Contains(path, ".") || !utf8.ValidString(path) || json.Unmarshal(out, &all) != nil {
			return
		}
		if want, err := jsjson.Normalize(value); err != nil || string(all[path]) != string(want) {
			t.Fatalf("%s: got %s, want %s, %v", path, all[path], want, err)
		}
	})
}
