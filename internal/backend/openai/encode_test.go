package openai_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// request reads a classic body.
func request(t *testing.T, body string) *backend.Request {
	t.Helper()
	q := &backend.Request{Model: "m", Body: &genai.GenerateContentRequest{}}
	if err := genai.Decode([]byte(body), q.Body); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return q
}

// TestEncode holds what is sent for a classic body, less the model.
func TestEncode(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"roles": {`{"systemInstruction":{"parts":[{"text":"a"},{"text":"b"}]},"contents":[{"parts":[{"text":"q"}]},{"role":"model","parts":[{"text":"x","thought":true},{"text":"y"},{"text":"z"}]},{"role":"user","parts":[{"text":"r"}]}]}`,
			`{"messages":[{"role":"system","content":"a\nb"},{"role":"user","content":"q"},{"role":"assistant","content":"yz"},{"role":"user","content":"r"}]}`},
		"image": {`{"contents":[{"parts":[{"text":"what?"},{"inlineData":{"mimeType":"image/png","data":"AA=="}}]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"text","text":"what?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}]}`},
		"calls": {`{"contents":[{"parts":[{"text":"q"}]},{"role":"model","parts":[{"text":"t"},{"functionCall":{"id":"c1","name":"f","args":{"a":1}}},{"functionCall":{"id":"c2","name":"g"}}]},` +
			`{"role":"user","parts":[{"functionResponse":{"id":"c2","name":"g","response":{"y":2}}},{"functionResponse":{"id":"c1","name":"f","response":{"x":1}}},{"text":"go on"}]}]}`,
			`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"t","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"c2","type":"function","function":{"name":"g","arguments":"{}"}}]},` +
				`{"role":"tool","content":"{\"y\":2}","tool_call_id":"c2"},{"role":"tool","content":"{\"x\":1}","tool_call_id":"c1"},{"role":"user","content":"go on"}]}`},
		"a call without text or id": {`{"contents":[{"parts":[{"text":"q"}]},{"role":"model","parts":[{"functionCall":{"name":"f","args":{}}}]},{"role":"function","parts":[{"functionResponse":{"name":"f","response":{}}}]}]}`,
			`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"id":"call_f","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"{}","tool_call_id":"call_f"}]}`},
		"two calls of one function without ids": {`{"contents":[{"role":"model","parts":[{"functionCall":{"name":"f"}},{"functionCall":{"name":"f"}}]},{"parts":[{"functionResponse":{"name":"f","response":{"x":1}}},{"functionResponse":{"name":"f","response":{"x":2}}}]}]}`,
			`{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"call_f","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"call_f_2","type":"function","function":{"name":"f","arguments":"{}"}}]},` +
				`{"role":"tool","content":"{\"x\":1}","tool_call_id":"call_f"},{"role":"tool","content":"{\"x\":2}","tool_call_id":"call_f_2"}]}`},
		"some functions are allowed": {`{"contents":[{"parts":[{"text":"q"}]}],"tools":[{"functionDeclarations":[{"name":"f"},{"name":"g"},{"name":"h"}]}],"toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["f","h"]}}}`,
			`{"messages":[{"role":"user","content":"q"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}},{"type":"function","function":{"name":"h","parameters":{"type":"object","properties":{}}}}],"tool_choice":"required"}`},
		"functions": {`{"contents":[{"parts":[{"text":"q"}]}],"tools":[{"functionDeclarations":[{"name":"f","description":"d","parameters":{"type":"OBJECT"}},{"name":"g"}]},{"functionDeclarations":[{"name":"h","parametersJsonSchema":{"type":"object"}}]}]}`,
			`{"messages":[{"role":"user","content":"q"}],"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}},{"type":"function","function":{"name":"g","parameters":{"type":"object","properties":{}}}},` +
				`{"type":"function","function":{"name":"h","parameters":{"type":"object"}}}]}`},
		"settings": {`{"contents":[{"parts":[{"text":"q"}]}],"safetySettings":[{}],"generationConfig":{"temperature":0,"topP":0.5,"topK":40,"candidateCount":2,"maxOutputTokens":7,"stopSequences":["x"],"seed":0,"presencePenalty":1,"frequencyPenalty":-1,"responseModalities":["TEXT"]}}`,
			`{"messages":[{"role":"user","content":"q"}],"temperature":0,"top_p":0.5,"top_k":40,"n":2,"max_tokens":7,"stop":["x"],"seed":0,"presence_penalty":1,"frequency_penalty":-1}`},
		"audio": {`{"contents":[{"parts":[{"text":"what?"},{"inlineData":{"mimeType":"audio/wav","data":"_-8"}},{"inlineData":{"mimeType":"audio/mpeg","data":"AAAA"}},{"inlineData":{"mimeType":"audio/ogg; codecs=opus","data":"AA=="}}]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"text","text":"what?"},{"type":"input_audio","input_audio":{"data":"/+8=","format":"wav"}},` +
				`{"type":"input_audio","input_audio":{"data":"AAAA","format":"mp3"}},{"type":"input_audio","input_audio":{"data":"AA==","format":"ogg"}}]}]}`},
		"video": {`{"contents":[{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"}}]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"data:video/mp4;base64,AAAA"}}]}]}`},
		"documents": {`{"contents":[{"parts":[{"inlineData":{"mimeType":"application/pdf","data":"JVBERg=="}},{"inlineData":{"mimeType":"text/csv; charset=utf-8","data":"YSxiCjEsw6k="}},{"inlineData":{"mimeType":"application/json","data":"e30="}}]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"file","file":{"filename":"document.pdf","file_data":"data:application/pdf;base64,JVBERg=="}},{"type":"text","text":"a,b\n1,é"},{"type":"text","text":"{}"}]}]}`},
		"a document alone": {`{"contents":[{"parts":[{"inlineData":{"mimeType":"text/plain","data":"aGk="}}]}]}`, `{"messages":[{"role":"user","content":"hi"}]}`},
		"speech": {`{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"responseModalities":["AUDIO"],"speechConfig":{"voiceConfig":{"prebuiltVoiceConfig":{"voiceName":"coral"}}}}}`,
			`{"messages":[{"role":"user","content":"q"}],"modalities":["text","audio"],"audio":{"voice":"coral","format":"wav"}}`},
		"images": {`{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"responseModalities":["TEXT","image","IMAGE"]}}`,
			`{"messages":[{"role":"user","content":"q"}],"modalities":["text","image"]}`},
		"thinking": {`{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"thinkingConfig":{"thinking_level":"HIGH","includeThoughts":true}}}`,
			`{"messages":[{"role":"user","content":"q"}],"reasoning_effort":"high"}`},
		"no level of thinking": {`{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"thinkingConfig":{"thinkingLevel":"THINKING_LEVEL_UNSPECIFIED"}}}`,
			`{"messages":[{"role":"user","content":"q"}]}`},
		"JSON": {`{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"responseMimeType":"application/json"}}`,
			`{"messages":[{"role":"user","content":"q"}],"response_format":{"type":"json_object"}}`},
		"JSON with schema": {`{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"responseMimeType":"application/json","responseSchema":{"type":"STRING"}}}`,
			`{"messages":[{"role":"user","content":"q"}],"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"string"}}}}`},
		"JSON with a strict schema": {`{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"responseSchema":{"type":"OBJECT","properties":{"z":{"type":"STRING"},"a":{"type":"INTEGER"}},"required":["a","z"],"propertyOrdering":["z","a"]}}}`,
			`{"messages":[{"role":"user","content":"q"}],"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":` +
				`{"type":"object","properties":{"z":{"type":"string"},"a":{"type":"integer"}},"required":["a","z"],"additionalProperties":false},"strict":true}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := connect(t, func(r *http.Request) (*http.Response, error) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return nil, err
				}
				got, rest, _ := strings.Cut(string(body), `"model":"m",`)
				if d := cmp.Diff(c.want, got+rest); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				return reply(200, good), nil
			})
			if _, err := b.Generate(t.Context(), request(t, c.body)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestToolChoice(t *testing.T) {
	const tools = `"contents":[{"parts":[{"text":"q"}]}],"tools":[{"functionDeclarations":[{"name":"f"},{"name":"g"}]}]`
	for config, want := range map[string]string{
		`{}`:                           "",
		`{"functionCallingConfig":{}}`: "",
		`{"functionCallingConfig":{"mode":"AUTO"}}`:                             "",
		`{"functionCallingConfig":{"mode":"none"}}`:                             `"none"`,
		`{"functionCallingConfig":{"mode":"ANY"}}`:                              `"required"`,
		`{"functionCallingConfig":{"mode":"any","allowedFunctionNames":["g"]}}`: `{"function":{"name":"g"},"type":"function"}`,
	} {
		b := connect(t, func(r *http.Request) (*http.Response, error) {
			var sent struct {
				ToolChoice json.RawMessage `json:"tool_choice"`
			}
			if err := json.NewDecoder(r.Body).Decode(&sent); err != nil || string(sent.ToolChoice) != want {
				t.Errorf("%s: got %s, %v, want %s", config, sent.ToolChoice, err, want)
			}
			return reply(200, good), nil
		})
		if _, err := b.Generate(t.Context(), request(t, `{`+tools+`,"toolConfig":`+config+`}`)); err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// TestRefusals: what would change the meaning is refused by name, before
// anything is sent and in a stream as well.
func TestRefusals(t *testing.T) {
	b := connect(t, func(*http.Request) (*http.Response, error) {
		t.Error("a request that can't be said was sent")
		return reply(200, good), nil
	})
	for body, field := range map[string]string{
		`{"systemInstruction":{"parts":[{"inlineData":{"mimeType":"image/png","data":""}}]}}`:                 "systemInstruction",
		`{"contents":[{"parts":[{"text":"a"}]},{"parts":[{"text":"b"},{"fileData":{"fileUri":"files/x"}}]}]}`: "contents[1].parts[1].fileData: this model's back-end can't fetch it; upload",
		`{"contents":[{"parts":[{"inlineData":{"mimeType":"application/zip","data":""}}]}]}`:                  `contents[0].parts[0].inlineData of type "application/zip" is not supported`,
		`{"contents":[{"parts":[{"inlineData":{"mimeType":"audio/midi","data":""}}]}]}`:                       "send it as audio/wav or audio/mp3",
		`{"contents":[{"parts":[{"inlineData":{"mimeType":"audio/L16;rate=24000","data":""}}]}]}`:             "audio/L16",
		`{"contents":[{"parts":[{"inlineData":{"mimeType":"","data":""}}]}]}`:                                 "contents[0].parts[0].inlineData.mimeType",
		`{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"A A="}}]}]}`:                    "contents[0].parts[0].inlineData.data: it is not base64",
		`{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAAA"}}]}]}`:                   "it is not base64",
		`{"contents":[{"parts":[{"inlineData":{"mimeType":"text/plain","data":"/w=="}}]}]}`:                   "must be text in UTF-8",
		`{"contents":[{"role":"model","parts":[{"inlineData":{"mimeType":"image/png","data":"AA=="}}]}]}`:     "in a turn of the model",
		`{"contents":[{"parts":[{"executableCode":{}}]}]}`:                                                    "code execution",
		`{"contents":[{"parts":[{"codeExecutionResult":{}}]}]}`:                                               "code execution",
		`{"tools":[{"functionDeclarations":[{"name":"f"}]},{"codeExecution":{}}]}`:                            "tools[1].codeExecution",
		`{"tools":[{"urlContext":{}}]}`: "tools[0].urlContext",
		`{"tools":[{"functionDeclarations":[{"name":"f"},{"name":"g","parameters":[]}]}]}`:                    "tools[0].functionDeclarations[1].parameters",
		`{"generationConfig":{"responseModalities":["TEXT","VIDEO"]}}`:                                        "VIDEO",
		`{"generationConfig":{"responseModalities":["AUDIO"],"speechConfig":{"multiSpeakerVoiceConfig":{}}}}`: "multiSpeakerVoiceConfig",
		`{"generationConfig":{"responseModalities":["AUDIO"],"speechConfig":[]}}`:                             "speechConfig",
		`{"generationConfig":{"responseSchema":"x"}}`:                                                         "responseSchema",
		`{"cachedContent":"cachedContents/x"}`:                                                                "cachedContent",
		`{"contents":[{"parts":[{"text":"a"},{"toolCall":{"x":1}}]}]}`:                                        "contents[0].parts[1]",
		`{"tools":[{"googleSearchRetrieval":{}}]}`:                                                            "googleSearchRetrieval",
		`{"tools":[{"googleMaps":{}}]}`:                                                                       "googleMaps",
		`{"tools":[{"file_search":{}}]}`:                                                                      "fileSearch",
		`{"tools":[{"computerUse":{}}]}`:                                                                      "computerUse",
		`{"tools":[{"mcpServers":[{}]}]}`:                                                                     "mcpServers",
		`{"generationConfig":{"thinkingConfig":[]}}`:                                                          "thinkingConfig",
	} {
		q := request(t, body)
		_, err := b.Generate(t.Context(), q)
		for _, streamed := range b.Stream(t.Context(), q) {
			if streamed == nil || err == nil || streamed.Error() != err.Error() {
				t.Errorf("%s: in a stream %v, otherwise %v", body, streamed, err)
			}
		}
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != backend.InvalidRequest || !strings.Contains(e.Message, field) {
			t.Errorf("%s: got %v, want a word of %s", body, err, field)
		}
	}
}

// TestStreamOfSeveral: the pieces of several candidates would run into one.
func TestStreamOfSeveral(t *testing.T) {
	b := connect(t, func(*http.Request) (*http.Response, error) {
		t.Error("it was sent")
		return reply(200, good), nil
	})
	for _, err := range b.Stream(t.Context(), request(t, `{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"candidateCount":2}}`)) {
		if err == nil || backend.AsError(err).Kind != backend.InvalidRequest {
			t.Errorf("got %v", err)
		}
	}
}
