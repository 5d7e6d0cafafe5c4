package jsjson_test

import (
	"encoding/json"
	"testing"

	"ringback.dev/internal/jsjson"
)

// The expected texts are what node prints for JSON.stringify(JSON.parse(in)).
var corpus = []struct{ in, out string }{
	{`{"b":1,"a":2}`, `{"b":1,"a":2}`},
	{` { "x" : [ 1 , 2.0 , -0 , 1e2 ] } `, `{"x":[1,2,0,100]}`},
	{`{"b":1,"10":1,"9":2,"a":3,"01":4,"4294967295":5,"4294967294":6}`, `{"9":2,"10":1,"4294967294":6,"b":1,"a":3,"01":4,"4294967295":5}`},
	{`{"a":1,"b":2,"a":3}`, `{"a":3,"b":2}`},
	{`"<>&\u2028\u2029é\ud83d\ude00"`, "\"<>&\u2028\u2029é😀\""},
	{`"\u0000\u001f\b\f\n\r\t\/\"\\\u007f"`, "\"\\u0000\\u001f\\b\\f\\n\\r\\t/\\\"\\\\\u007f\""},
	{`[1e21,1e-7,123456789012345678901234567890,0.1,9007199254740993,1e999,0.000001]`, `[1e+21,1e-7,1.2345678901234568e+29,0.1,9007199254740992,null,0.000001]`},
	{`[true,false,null,"",{},[]]`, `[true,false,null,"",{},[]]`},
}

func TestNormalize(t *testing.T) {
	for _, c := range corpus {
		got, err := jsjson.Normalize([]byte(c.in))
		if err != nil || string(got) != c.out {
			t.Errorf("%s: got %s, %v, want %s", c.in, got, err, c.out)
		}
	}
}

func TestNormalizeRefuses(t *testing.T) {
	for _, in := range []string{"", "{", `{"a":}`, "1 2", "[1,]", `{a:1}`, "nul"} {
		if got, err := jsjson.Normalize([]byte(in)); err == nil {
			t.Errorf("%q was accepted: %s", in, got)
		}
	}
}

func TestMarshalKeepsOrder(t *testing.T) {
	got, err := jsjson.Marshal(struct {
		Z string          `json:"z"`
		A json.RawMessage `json:"a"`
	}{"<\u2028", json.RawMessage(`{ "2": 1.0, "1": 2 }`)})
	if want := "{\"z\":\"<\u2028\",\"a\":{\"1\":2,\"2\":1}}"; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func FuzzNormalize(f *testing.F) {
	for _, c := range corpus {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		once, err := jsjson.Normalize(in)
		if err != nil {
			return
		}
		if !json.Valid(once) {
			t.Fatalf("%q became %q, which is not JSON", in, once)
		}
		twice, err := jsjson.Normalize(once)
		if err != nil || string(twice) != string(once) {
			t.Fatalf("%q became %q, then %q, %v", in, once, twice, err)
		}
	})
}
