package openai

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestStrictSchema holds which schemas are asked for strictly. What is not stays as
// it was.
func TestStrictSchema(t *testing.T) {
	for schema, want := range map[string]string{
		`{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"array","items":{"type":"integer"}}},"required":["a","b"]}`:             `{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"array","items":{"type":"integer"}}},"required":["a","b"],"additionalProperties":false}`,
		`{"type":"object","properties":{"a":{"anyOf":[{"type":"object","properties":{},"required":[]},{"type":"null"}]}},"required":["a"]}`:       `{"type":"object","properties":{"a":{"anyOf":[{"type":"object","properties":{},"required":[],"additionalProperties":false},{"type":"null"}]}},"required":["a"],"additionalProperties":false}`,
		`{"$defs":{"n":{"type":"number"}},"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"],"additionalProperties":false}`: `{"$defs":{"n":{"type":"number"}},"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"],"additionalProperties":false}`,
		`{"type":"object","properties":{"a":{"type":["string","null"],"format":"date-time","enum":["x",null]}},"required":["a"]}`:                 `{"type":"object","properties":{"a":{"type":["string","null"],"format":"date-time","enum":["x",null]}},"required":["a"],"additionalProperties":false}`,
		`{"type":"string"}`: "", `{"type":"object"}`: "", `[]`: "", `{`: "",
		`{"type":"object","properties":{"a":{"type":"string"}}}`:                                                                  "", // It may be left out.
		`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":true}`:                     "",
		`{"type":"object","properties":{"a":{"type":"object"}},"required":["a"]}`:                                                 "", // Any object.
		`{"type":"object","properties":{"a":{"type":"string","minLength":1}},"required":["a"]}`:                                   "",
		`{"type":"object","properties":{"a":{"type":"string","format":"enum"}},"required":["a"]}`:                                 "",
		`{"type":"object","properties":{"a":{}},"required":["a"]}`:                                                                "",
		`{"type":"object","properties":{"a":true},"required":["a"]}`:                                                              "",
		`{"type":"object","anyOf":[],"properties":{}}`:                                                                            "",
		`{"type":"object","properties":{"a":{"oneOf":[{"type":"string"}]}},"required":["a"]}`:                                     "",
		`{"type":"object","properties":{"a":{"anyOf":{}}},"required":["a"]}`:                                                      "",
		`{"type":"object","properties":{"a":{"type":"array","items":[]}},"required":["a"]}`:                                       "",
		`{"type":"object","properties":[],"required":["a"]}`:                                                                      "",
		`{"type":"object","properties":{"a":{"enum":1}},"required":["a"]}`:                                                        "",
		strings.Repeat(`{"type":"object","required":["a"],"properties":{"a":`, 12) + `{"type":"null"}` + strings.Repeat(`}}`, 12): "",
	} {
		got, strict := strictSchema(json.RawMessage(schema))
		if want == "" && (strict || string(got) != schema) || want != "" && (!strict || string(got) != want) {
			t.Errorf("%s: got %v, %s, want %s", schema, strict, got, want)
		}
	}
}
