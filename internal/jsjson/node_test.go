package jsjson_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"ringback.dev/internal/jsjson"
)

// TestNode compares with what Node.js 20 printed for the same texts (see
// testdata/golden.mjs): numbers at each switch of notation and at the ends of
// their range, every character with a rule of its own, keys that JavaScript
// moves, and values made up of all of these.
func TestNode(t *testing.T) {
	in, out := lines(t, "testdata/corpus.txt"), lines(t, "testdata/expected.txt")
	if len(in) != len(out) || len(in) < 50 {
		t.Fatalf("%d texts, %d results", len(in), len(out))
	}
	for i := range in {
		got, err := jsjson.Normalize([]byte(in[i]))
		if err != nil || string(got) != out[i] {
			t.Errorf("line %d: %s\n got %s, %v\nwant %s", i+1, in[i], got, err, out[i])
		}
		// What a receiver verifies is what was signed.
		if again, err := jsjson.Normalize(got); err != nil || string(again) != string(got) {
			t.Errorf("line %d changes again: %s, %v", i+1, again, err)
		}
	}
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// TestUnpairedSurrogates: JavaScript would print them as escapes, which a body
// must not have (wire contract §2.2).
func TestUnpairedSurrogates(t *testing.T) {
	for in, want := range map[string]string{
		`"\ud800"`: `"` + "\uFFFD" + `"`, `"a\udc00b"`: `"a` + "\uFFFD" + `b"`, `"\ud800\ud800\udc00"`: `"` + "\uFFFD\U00010000" + `"`,
		"\"\xff\"": `"` + "\uFFFD" + `"`, `{"\ud800":1,"\udfff":2}`: `{"` + "\uFFFD" + `":2}`,
	} {
		if got, err := jsjson.Normalize([]byte(in)); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
}

// FuzzNormalizeTakesJSON: exactly what is JSON is taken, however deep it may be
// allowed to nest.
func FuzzNormalizeTakesJSON(f *testing.F) {
	for _, c := range corpus {
		f.Add([]byte(c.in))
	}
	for _, almost := range []string{`[1 2]`, `[,1]`, `{"a" 1}`, `{"a":1 "b":2}`, `{,}`, `{"a":1,}`, `01`, `[1}`, `{"a":1]`, `]`, `,1`, "\"\n\""} {
		f.Add([]byte(almost))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		_, err := jsjson.Normalize(in)
		if err != nil && strings.Contains(err.Error(), "nested deeper") {
			return
		}
		if (err == nil) != json.Valid(in) {
			t.Fatalf("%q: is JSON: %v, error: %v", in, json.Valid(in), err)
		}
	})
}
