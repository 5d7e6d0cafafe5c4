package genai_test

import (
	"encoding/json"
	"testing"

	"ringback.dev/internal/genai"
)

// TestToJSONSchema holds what becomes of the dialect, in the order of the original.
func TestToJSONSchema(t *testing.T) {
	for schema, want := range map[string]string{
		`{"type":"OBJECT","properties":{"type":{"type":"STRING","nullable":true},"l":{"type":"ARRAY","items":{"type":"NUMBER"}}},"required":["l"]}`: `{"type":"object","properties":{"type":{"type":["string","null"]},"l":{"type":"array","items":{"type":"number"}}},"required":["l"]}`,
		`{"properties":{"b":{},"c":{},"d":{},"a":{}},"propertyOrdering":["a","d","unknown",1]}`:                                                     `{"properties":{"a":{},"d":{},"b":{},"c":{}}}`,
		`{"property_ordering":["a","b"],"properties":{"b":{"properties":{"y":{},"x":{}}},"a":{}}}`:                                                  `{"properties":{"a":{},"b":{"properties":{"y":{},"x":{}}}}}`,
		`{"type":"STRING","enum":["a","b"],"nullable":true}`:                                                                                        `{"type":["string","null"],"enum":["a","b",null]}`,
		`{"any_of":[{"type":"STRING"},{"type":"INTEGER"}],"nullable":true}`:                                                                         `{"anyOf":[{"type":"string"},{"type":"integer"},{"type":"null"}]}`,
		`{"type":"ARRAY","minItems":"2","max_items":5,"items":{"type":"STRING","maxLength":"x"}}`:                                                   `{"type":"array","minItems":2,"maxItems":5,"items":{"type":"string","maxLength":"x"}}`,
		`{"$defs":{"n":{"type":"NUMBER"}},"additionalProperties":{"type":"BOOLEAN"},"maximum":12345678901234567890}`:                                `{"$defs":{"n":{"type":"number"}},"additionalProperties":{"type":"boolean"},"maximum":12345678901234567890}`,
	} {
		if got, err := genai.ToJSONSchema(json.RawMessage(schema)); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", schema, got, err, want)
		}
	}
	for _, bad := range []string{`[]`, `"x"`, `{`, `null`} {
		if got, err := genai.ToJSONSchema(json.RawMessage(bad)); err == nil {
			t.Errorf("%s became %s", bad, got)
		}
	}
	if got, err := genai.ToJSONSchema(nil); got != nil || err != nil {
		t.Errorf("nothing became %s, %v", got, err)
	}
}
