package genai_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	next "github.com/go-json-experiment/json/v1"
	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/genai"
)

// request has every field of a request (wire contract §8.2) and keys in both
// casings wherever keys are free.
const request = `{"model":"models/m","contents":[{"role":"user","parts":[{"text":"hi"},{"inlineData":{"mimeType":"image/png","data":"AA=="}},{"fileData":{"mimeType":"a/b","fileUri":"u"}}]},` +
	`{"role":"model","parts":[{"text":"hm","thought":true,"thoughtSignature":"c2ln"},{"functionCall":{"id":"fc1","name":"f","args":{"a_b":{"c_d":[{"e_f":1}]},"gH":2}}},` +
	`{"executableCode":{"x_y":1}},{"codeExecutionResult":{"x_y":2}}]},{"role":"user","parts":[{"functionResponse":{"id":"fc1","name":"f","response":{"r_s":"t_u"}}}]}],` +
	`"systemInstruction":{"role":"user","parts":[{"text":"s_t"}]},` +
	`"tools":[{"functionDeclarations":[{"name":"f_g","description":"d","parameters":{"type":"OBJECT","properties":{"a_b":{"type":"STRING"}}}},{"name":"h","parametersJsonSchema":{"x_y":1}}]},` +
	`{"googleSearch":{"x_y":1}},{"codeExecution":{}},{"urlContext":{}}],` +
	`"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["f_g"]}},` +
	`"safetySettings":[{"category":"HARM_CATEGORY_HATE_SPEECH","threshold":"BLOCK_NONE"}],` +
	`"generationConfig":{"temperature":0,"topP":0.5,"topK":40,"candidateCount":1,"maxOutputTokens":0,"stopSequences":["x_y"],"seed":-1,"presencePenalty":0.1,"frequencyPenalty":0.2,` +
	`"responseMimeType":"application/json","responseSchema":{"any_of":[]},"responseJsonSchema":{"x_y":1},"responseModalities":["TEXT"],"thinkingConfig":{"thinkingBudget":0}},` +
	`"cachedContent":"cachedContents/c_d"}`

// The worked examples of wire contract §8 and §9.2, as far as ringback has their
// fields: what was sent as zero or empty must not vanish.
func TestClassicExamples(t *testing.T) {
	for _, c := range []struct {
		into    any
		example string
	}{
		{new(genai.GenerateContentRequest), request},
		{new(genai.GenerateContentResponse), `{"candidates":[{"content":{"role":"model","parts":[{"text":"Hello"}]},"finishReason":"STOP","index":0}],` +
			`"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5,"promptTokensDetails":[{"modality":"TEXT","tokenCount":3}]},"modelVersion":"gemini-2.5-flash","responseId":"r1"}`},
		{new(genai.GenerateContentResponse), `{"candidates":[{"content":{"role":"model","parts":[{"text":""}]},"finishReason":"STOP","index":1}]}`},
		{new(genai.GenerateContentResponse), `{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":3,"totalTokenCount":3}}`},
		{new(genai.CountTokensRequest), `{"generateContentRequest":{"model":"models/m","contents":[{"parts":[{"text":"hi"}]}]}}`},
		{new(genai.CountTokensResponse), `{"totalTokens":5,"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}]}`},
		{new(genai.Model), `{"name":"models/m","baseModelId":"m","version":"001","displayName":"Gemini","description":"d","inputTokenLimit":1048576,"outputTokenLimit":65536,"supportedGenerationMethods":["generateContent"]}`},
		{new(genai.Status), `{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"@type":"t","reason":"API_KEY_INVALID"}]}}`},
	} {
		if err := genai.Decode([]byte(c.example), c.into); err != nil {
			t.Errorf("%s: %v", c.example, err)
			continue
		}
		again, err := json.Marshal(c.into)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.example, string(again)); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// TestUnknownMembersPass: what is not known is written again as it was read, at
// every level of a request and of an answer.
func TestUnknownMembersPass(t *testing.T) {
	for _, c := range []struct {
		into    any
		example string
	}{
		{new(genai.GenerateContentRequest), `{"contents":[{"parts":[{"fileData":{"fileUri":"u","new_1":1},"videoMetadata":{"fps":2}},{"inlineData":{"data":"AA==","displayName":"d"},"mediaResolution":{"level":"HIGH"}},` +
			`{"functionCall":{"name":"f","partialArgs":[{"x":1.0}]}},{"functionResponse":{"name":"f","willContinue":true}}],"new2":null}],` +
			`"tools":[{"functionDeclarations":[{"name":"f","behavior":"BLOCKING","response":{"type":"OBJECT"}}],"enterpriseWebSearch":{}}],` +
			`"toolConfig":{"functionCallingConfig":{"mode":"ANY","streamFunctionCallArguments":true},"retrievalConfig":{"latLng":{"latitude":48.85}}},"safetySettings":[{"category":"C","threshold":"OFF"}],` +
			`"generationConfig":{"thinkingConfig":{"thinkingBudget":0,"includeThoughts":true},"speechConfig":{"voiceConfig":{"prebuiltVoiceConfig":{"voiceName":"Kore"}}},"imageConfig":{"aspectRatio":"1:1"},` +
			`"mediaResolution":"MEDIA_RESOLUTION_LOW","responseLogprobs":true,"logprobs":3},"serviceTier":"flex","labels":{"a_b":"<c> é"},"store":false,"continuationToken":"t"}`},
		{new(genai.GenerateContentResponse), `{"candidates":[{"content":{"role":"model","parts":[{"text":"a","partMetadata":{}}]},"finishReason":"STOP","index":0,"safetyRatings":[{"category":"C","probability":"NEGLIGIBLE","blocked":false}],` +
			`"citationMetadata":{"citationSources":[{"uri":"https://a.example/?b&c"}]},"groundingMetadata":{"webSearchQueries":["q"]},"avgLogprobs":-0.25,"logprobsResult":{"topCandidates":[]},"urlContextMetadata":{}}],` +
			`"usageMetadata":{"promptTokenCount":1,"totalTokenCount":2,"candidatesTokensDetails":[{"modality":"TEXT","tokenCount":1}],"trafficType":"ON_DEMAND"},"responseId":"r","modelStatus":{"modelStage":"STABLE"}}`},
		{new(genai.GenerateContentResponse), `{"promptFeedback":{"blockReason":"SAFETY","safetyRatings":[]},"createTime":"2026-10-01T12:00:00Z"}`},
		{new(genai.EmbedContentRequest), `{"content":{"parts":[{"text":"a"}]},"taskType":"RETRIEVAL_QUERY","embedContentConfig":{"autoTruncate":true}}`},
		{new(genai.Model), `{"name":"models/m","temperature":1,"topK":64,"thinking":true}`},
	} {
		if err := genai.Decode([]byte(c.example), c.into); err != nil {
			t.Errorf("%s: %v", c.example, err)
			continue
		}
		var b bytes.Buffer
		e := next.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(c.into); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.example+"\n", b.String()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// TestDecodeEveryFieldInSnakeCase spells each key of the messages in snake_case
// and expects the same request.
func TestDecodeEveryFieldInSnakeCase(t *testing.T) {
	free := map[string]bool{"args": true, "response": true, "parameters": true, "parametersJsonSchema": true, "responseSchema": true, "responseJsonSchema": true,
		"executableCode": true, "codeExecutionResult": true, "googleSearch": true, "thinkingConfig": true}
	var tree any
	if err := json.Unmarshal([]byte(request), &tree); err != nil {
		t.Fatal(err)
	}
	snake, err := json.Marshal(spell(tree, free))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(snake, []byte("maxOutputTokens")) || !bytes.Contains(snake, []byte("max_output_tokens")) {
		t.Fatalf("nothing was spelled: %s", snake)
	}
	var want, got genai.GenerateContentRequest
	if err := genai.Decode([]byte(request), &want); err != nil {
		t.Fatal(err)
	}
	if err := genai.Decode(snake, &got); err != nil {
		t.Fatal(err)
	}
	same := cmp.Transformer("tree", func(raw json.RawMessage) (v any) {
		_ = json.Unmarshal(raw, &v) // It was decoded from JSON.
		return v
	})
	if d := cmp.Diff(want, got, same); d != "" {
		t.Errorf("(-camelCase +snake_case):\n%s", d)
	}
}

func spell(v any, free map[string]bool) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = spell(v[i], free)
		}
	case map[string]any:
		out := make(map[string]any)
		for key, value := range v {
			if !free[key] {
				value = spell(value, free)
			}
			var name strings.Builder
			for _, r := range key {
				if unicode.IsUpper(r) {
					name.WriteByte('_')
				}
				name.WriteRune(unicode.ToLower(r))
			}
			out[name.String()] = value
		}
		return out
	}
	return v
}

func TestDecodeSameFieldTwice(t *testing.T) {
	for body, want := range map[string]int{
		`{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":2}}`: 2,
		`{"generationConfig":{"max_output_tokens":2,"maxOutputTokens":1}}`: 1,
	} {
		var r genai.GenerateContentRequest
		if err := genai.Decode([]byte(body), &r); err != nil || *r.GenerationConfig.MaxOutputTokens != want {
			t.Errorf("%s: got %+v, %v, want the last, %d", body, r.GenerationConfig, err, want)
		}
	}
}

func TestJSONMode(t *testing.T) {
	for config, want := range map[string]string{
		`{}`:                                "false ",
		`{"responseMimeType":"text/plain"}`: "false ",
		`{"responseMimeType":"application/json"}`:                                     "true ",
		`{"responseSchema":{"type":"OBJECT"}}`:                                        `true {"type":"object"}`,
		`{"responseJsonSchema":{"type":"object"}}`:                                    `true {"type":"object"}`,
		`{"responseSchema":{"type":"STRING"},"responseJsonSchema":{"type":"number"}}`: `true {"type":"number"}`,
	} {
		var g genai.GenerationConfig
		if err := genai.Decode([]byte(config), &g); err != nil {
			t.Fatal(err)
		}
		is, schema, err := g.JSONMode()
		got := "false " + string(schema)
		if is {
			got = "true " + string(schema)
		}
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", config, got, err, want)
		}
	}
	if is, _, err := (*genai.GenerationConfig)(nil).JSONMode(); is || err != nil {
		t.Errorf("no configuration: %v, %v", is, err)
	}
}

func TestFunctionSchema(t *testing.T) {
	for declaration, want := range map[string]string{
		`{"name":"f"}`: "",
		`{"name":"f","parameters":{"type":"OBJECT"}}`:                                          `{"type":"object"}`,
		`{"name":"f","parametersJsonSchema":{"type":"object","$id":"x"}}`:                      `{"type":"object","$id":"x"}`,
		`{"name":"f","parameters":{"type":"STRING"},"parametersJsonSchema":{"type":"number"}}`: `{"type":"number"}`,
	} {
		var f genai.FunctionDeclaration
		if err := genai.Decode([]byte(declaration), &f); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Schema(); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", declaration, got, err, want)
		}
	}
}

// TestToJSONSchemaNested: types are lowered wherever a schema can stand, and
// nowhere else: a property may be called "type", an enum may hold "STRING".
func TestToJSONSchemaNested(t *testing.T) {
	for in, want := range map[string]string{
		`{"anyOf":[{"type":"STRING"},{"type":"ARRAY","items":{"type":"INTEGER","nullable":true}}]}`: `{"anyOf":[{"type":"string"},{"type":"array","items":{"type":["integer","null"]}}]}`,
		`{"any_of":[{"type":"STRING"}]}`:                                                                          `{"anyOf":[{"type":"string"}]}`,
		`{"type":"OBJECT","additionalProperties":{"type":"NUMBER"}}`:                                              `{"type":"object","additionalProperties":{"type":"number"}}`,
		`{"type":"OBJECT","additionalProperties":false}`:                                                          `{"type":"object","additionalProperties":false}`,
		`{"$defs":{"A":{"type":"BOOLEAN"}},"type":"OBJECT","properties":{"a":{"$ref":"#/$defs/A"}}}`:              `{"$defs":{"A":{"type":"boolean"}},"type":"object","properties":{"a":{"$ref":"#/$defs/A"}}}`,
		`{"type":"STRING","enum":["STRING","A"],"description":"OBJECT","format":"enum","default":"STRING"}`:       `{"type":"string","enum":["STRING","A"],"description":"OBJECT","format":"enum","default":"STRING"}`,
		`{"type":"OBJECT","properties":{"nullable":{"type":"BOOLEAN"},"items":{"type":"STRING"}}}`:                `{"type":"object","properties":{"nullable":{"type":"boolean"},"items":{"type":"string"}}}`,
		`{"type":"ARRAY","minItems":"1","max_items":2,"items":{"type":"STRING","maxLength":"9","minLength":"x"}}`: `{"type":"array","minItems":1,"maxItems":2,"items":{"type":"string","maxLength":9,"minLength":"x"}}`,
		`{"type":["string","null"],"items":true,"anyOf":[true]}`:                                                  `{"type":["string","null"],"items":true,"anyOf":[true]}`,
	} {
		got, err := genai.ToJSONSchema(json.RawMessage(in))
		if err != nil || string(got) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", in, got, err, want)
		}
	}
	if got, err := genai.ToJSONSchema(nil); got != nil || err != nil {
		t.Errorf("no schema: %s, %v", got, err)
	}
	for _, in := range []string{`"STRING"`, `[]`, `1`, `{`, ``} {
		if got, err := genai.ToJSONSchema(json.RawMessage(in)); err == nil {
			t.Errorf("%q was accepted: %s", in, got)
		}
	}
}

// FuzzToJSONSchema: the result is a JSON object, and ordinary JSON schema stays
// as it is.
func FuzzToJSONSchema(f *testing.F) {
	f.Add([]byte(`{"type":"OBJECT","nullable":true,"properties":{"type":{"type":"STRING","nullable":true},"l":{"anyOf":[{"type":"ARRAY","items":{"type":"NUMBER"}}]}},"propertyOrdering":["l"]}`))
	f.Add([]byte(`{"properties":[],"items":[],"anyOf":{},"$defs":1,"type":null,"additionalProperties":"x"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		once, err := genai.ToJSONSchema(in)
		if err != nil || once == nil {
			return
		}
		if !json.Valid(once) || once[0] != '{' {
			t.Fatalf("%q became %q", in, once)
		}
		twice, err := genai.ToJSONSchema(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%q became %q, then %q, %v", in, once, twice, err)
		}
	})
}
