package genai_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/genai"
)

// The worked examples of wire contract §5.5 go through the types unharmed.
func TestInteractionExamples(t *testing.T) {
	for name, example := range map[string]string{
		"text": `{"id":"v1_abc","object":"interaction","status":"completed","created":"2026-01-22T12:00:00Z","updated":"2026-01-22T12:00:01Z","role":"model","model":"gemini-3.6-flash","service_tier":"standard",` +
			`"steps":[{"type":"thought","signature":"c2ln","summary":[{"type":"text","text":"thinking"}]},{"type":"model_output","content":[{"type":"text","text":"Hello there"}]}],` +
			`"usage":{"total_tokens":10,"total_input_tokens":4,"input_tokens_by_modality":[{"modality":"text","tokens":4}],"total_cached_tokens":0,"total_output_tokens":6,"total_tool_use_tokens":0,"total_thought_tokens":0}}`,
		"function call": `{"id":"v1_fc1","object":"interaction","status":"requires_action","created":"2026-01-22T12:00:00Z","updated":"2026-01-22T12:00:01Z","model":"gemini-3.6-flash",` +
			`"steps":[{"type":"thought","signature":"c2ln"},{"type":"function_call","id":"fc1","name":"get_weather","arguments":{"city":"Paris"},"signature":"c2ln"}]}`,
		"in progress": `{"id":"v1_bg1","object":"interaction","status":"in_progress","created":"2026-07-23T10:21:43Z","updated":"2026-07-23T10:21:43Z","model":"gemini-3.6-flash","service_tier":"standard"}`,
	} {
		var i genai.Interaction
		if err := genai.Decode([]byte(example), &i); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(example, string(again)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestCreateInteractionTakesBothCasings(t *testing.T) {
	const snake = `{"model":"m","input":[{"type":"function_result","call_id":"c","is_error":true,"result":{"camelKey":1,"snake_key":2}}],
		"system_instruction":"s","previous_interaction_id":"v1_p","response_mime_type":"a/b","service_tier":"flex",
		"generation_config":{"max_output_tokens":5,"top_p":0.5,"stop_sequences":["a_b"],"tool_choice":{"allowed_tools":{"mode":"any"}}},
		"tools":[{"type":"function","name":"f","parameters":{"properties":{"my_key":{},"myKey":{}}}}],"labels":{"my_label":"x","myLabel":"y"},"store":false}`
	const camel = `{"model":"m","input":[{"type":"function_result","call_id":"c","is_error":true,"result":{"camelKey":1,"snake_key":2}}],
		"systemInstruction":"s","previousInteractionId":"v1_p","responseMimeType":"a/b","serviceTier":"flex",
		"generationConfig":{"maxOutputTokens":5,"topP":0.5,"stopSequences":["a_b"],"toolChoice":{"allowed_tools":{"mode":"any"}}},
		"tools":[{"type":"function","name":"f","parameters":{"properties":{"my_key":{},"myKey":{}}}}],"labels":{"my_label":"x","myLabel":"y"},"store":false}`
	var a, b genai.CreateInteraction
	if err := genai.Decode([]byte(snake), &a); err != nil {
		t.Fatal(err)
	}
	if err := genai.Decode([]byte(camel), &b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("snake_case and camelCase differ (-snake +camel):\n%s", d)
	}
	if a.GenerationConfig == nil || *a.GenerationConfig.MaxOutputTokens != 5 || a.Store == nil || *a.Store || a.PreviousInteractionID != "v1_p" {
		t.Errorf("read as %+v", a)
	}
	if len(a.Labels) != 2 || string(a.Tools[0].Parameters) != `{"properties":{"my_key":{},"myKey":{}}}` {
		t.Errorf("free-form keys were changed: %v %s", a.Labels, a.Tools[0].Parameters)
	}
	var step genai.Step
	if err := genai.Decode([]byte(`{"type":"function_result","callId":"c","isError":true,"result":1}`), &step); err != nil || step.CallID != "c" || !step.IsError {
		t.Errorf("a step in camelCase: %+v, %v", step, err)
	}
}

// FuzzDecodeStep checks that a step that was read is read the same again after
// it was stored.
func FuzzDecodeStep(f *testing.F) {
	f.Add([]byte(`{"type":"function_call","id":"c","name":"f","arguments":{"a_b":1},"signature":"s"}`))
	f.Add([]byte(`{"type":"model_output","content":[{"type":"image","mimeType":"image/png","data":"AA=="}],"error":{"code":13,"message":"m"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second genai.Step
		if genai.Decode(body, &first) != nil {
			return
		}
		stored, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("%q was read but can't be written: %v", body, err)
		}
		if err := json.Unmarshal(stored, &second); err != nil {
			t.Fatalf("%q was stored as %q, which can't be read: %v", body, stored, err)
		}
		again, err := json.Marshal(second)
		if err != nil || string(again) != string(stored) {
			t.Fatalf("%q was stored as %q, then as %q, %v", body, stored, again, err)
		}
	})
}
