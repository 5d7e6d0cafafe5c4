package ordered_test

import (
	"encoding/json"
	"testing"

	"ringback.dev/internal/ordered"
)

func TestRoundTrip(t *testing.T) {
	for text, want := range map[string]string{
		`{"z":1,"a":{"y":[1.50,12345678901234567890,{}],"b":null},"c":"<é\u2028"}`: `{"z":1,"a":{"y":[1.50,12345678901234567890,{}],"b":null},"c":"\u003cé\u2028"}`,
		` [ true , false ] `: `[true,false]`, `"x"`: `"x"`, `{}`: `{}`, `[]`: `[]`, `null`: `null`,
	} {
		v, err := ordered.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := ordered.Marshal(v); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, bad := range []string{``, `{`, `{} {}`, `{"a":}`, `nul`} {
		if _, err := ordered.Parse([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestMembers(t *testing.T) {
	v, err := ordered.Parse([]byte(`{"a":1,"b":null,"a":2}`))
	if err != nil {
		t.Fatal(err)
	}
	o := v.(ordered.Object)
	if o.Get("a") != json.Number("2") || o.Get("b") != nil || o.Get("c") != nil || !o.Has("b") || o.Has("c") {
		t.Errorf("got %v", o)
	}
}

// FuzzParse: what is read is written as the same JSON.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"b":[1,{"a":"x"}],"a":1e400}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := ordered.Parse(data)
		if err != nil {
			return
		}
		first, err := ordered.Marshal(v)
		if err != nil {
			t.Fatalf("%q was read but can't be written: %v", data, err)
		}
		if v, err = ordered.Parse(first); err != nil {
			t.Fatalf("%q was written as %q, which can't be read: %v", data, first, err)
		}
		if again, err := ordered.Marshal(v); err != nil || string(again) != string(first) {
			t.Fatalf("%q became %q, %v", first, again, err)
		}
	})
}
