package genai_test

import (
	"strings"
	"testing"

	next "github.com/go-json-experiment/json/v1"
	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/genai"
)

func TestDecodeTakesBothCasings(t *testing.T) {
	const camel = `{"contents":[{"parts":[{"functionCall":{"name":"f","args":{"snake_key":1,"camelKey":{"x_y":2}}}},{"inlineData":{"mimeType":"image/png","data":"AA=="}}]}],
		"systemInstruction":{"parts":[{"text":"a_b"}]},"generationConfig":{"maxOutputTokens":5,"responseJsonSchema":{"my_key":{}}},"toolConfig":{"functionCallingConfig":{"allowedFunctionNames":["a_b"]}}}`
	const snake = `{"contents":[{"parts":[{"function_call":{"name":"f","args":{"snake_key":1,"camelKey":{"x_y":2}}}},{"inline_data":{"mime_type":"image/png","data":"AA=="}}]}],
		"system_instruction":{"parts":[{"text":"a_b"}]},"generation_config":{"max_output_tokens":5,"response_json_schema":{"my_key":{}}},"tool_config":{"function_calling_config":{"allowed_function_names":["a_b"]}},"unknown_field":[{"x_y":1}]}`
	var a, b genai.GenerateContentRequest
	if err := genai.Decode([]byte(camel), &a); err != nil {
		t.Fatal(err)
	}
	if err := genai.Decode([]byte(snake), &b); err != nil {
		t.Fatal(err)
	}
	if got := string(b.Unknown); got != `{"unknown_field":[{"x_y":1}]}` {
		t.Errorf("what is not known: %s", got)
	}
	b.Unknown = nil
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("camelCase and snake_case differ (-camel +snake):\n%s", d)
	}
	if got := string(a.Contents[0].Parts[0].FunctionCall.Args); got != `{"snake_key":1,"camelKey":{"x_y":2}}` {
		t.Errorf("free-form keys were changed: %s", got)
	}
}

func TestDecodeTakesNullForAbsent(t *testing.T) {
	var r genai.GenerateContentRequest
	if err := genai.Decode([]byte(`{"generationConfig":{"responseSchema":null,"temperature":null},"tools":[{"googleSearch":null}],"contents":[{"parts":[{"functionCall":{"name":"f","args":{"a":null}}}]}]}`), &r); err != nil {
		t.Fatal(err)
	}
	if r.GenerationConfig.ResponseSchema != nil || r.Tools[0].GoogleSearch != nil {
		t.Errorf("a null counts as given: %+v", r)
	}
	if got := string(r.Contents[0].Parts[0].FunctionCall.Args); got != `{"a":null}` {
		t.Errorf("a null of the caller's own was touched: %s", got)
	}
}

func TestDecodeErrors(t *testing.T) {
	for body, hint := range map[string]string{
		``: "empty", `{`: "too early", `{"contents":}`: "byte 13", `[]`: "an object", `{"contents":{}}`: "contents: expected a list",
		`{"contents":[{"parts":[{"text":1}]}]}`: "text: expected a string, got number", `{} {}`: "after",
		`{"generation_config":{"max_output_tokens":"x"}}`: "maxOutputTokens: expected a whole number",
	} {
		err := genai.Decode([]byte(body), new(genai.GenerateContentRequest))
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: got %v, want a word of %q", body, err, hint)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"contents":[{"parts":[{"text":"hi","inline_data":{"mime_type":"a"}}]}],"tools":[{"function_declarations":[{"name":"f"}]}]}`))
	f.Add([]byte(`{"_":{"_":[1]},"contents":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r genai.GenerateContentRequest
		if genai.Decode(body, &r) != nil {
			return
		}
		again, err := next.Marshal(&r)
		if err != nil {
			t.Fatalf("%q was read but can't be written: %v", body, err)
		}
		if err := genai.Decode(again, new(genai.GenerateContentRequest)); err != nil {
			t.Fatalf("%q was written as %q, which can't be read: %v", body, again, err)
		}
	})
}
