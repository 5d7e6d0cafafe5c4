package emit_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/jsjson"
	"ringback.dev/webhook"
)

// TestSamples: there is one of every event, in the form in which events are sent,
// with the members that its documentation names.
func TestSamples(t *testing.T) {
	members := map[string]string{
		"batch.succeeded": "id output_file_uri file_name batch_stats", "batch.failed": "id error_code error_message batch_stats",
		"batch.expired": "id output_file_uri file_name batch_stats", "batch.cancelled": "id output_file_uri file_name batch_stats",
		"interaction.requires_action": "id", "interaction.completed": "id", "interaction.cancelled": "id", "interaction.incomplete": "id",
		"interaction.failed": "id error_code error_message", "video.generated": "id output_file_uri file_name video_uri",
		"video.failed": "id error_code error_message", "job.stalled": "id kind state create_time", "webhook.disabled": "id name state reason", "ping": "id",
	}
	for _, kind := range append(ringback.EventTypes(), ringback.Ping) {
		body, err := emit.Sample(kind, now, "https://host")
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		e, err := webhook.ParseEvent(body)
		if err != nil || e.Type != string(kind) || e.Version != "v1" || !e.Timestamp.Equal(now) {
			t.Errorf("%s: got %+v, %v", kind, e, err)
		}
		if again, err := jsjson.Normalize(body); err != nil || string(again) != string(body) {
			t.Errorf("%s: JavaScript would print it otherwise: %s", kind, again)
		}
		var data map[string]any
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for name := range strings.FieldsSeq(members[string(kind)]) {
			if data[name] == nil || data[name] == "" {
				t.Errorf("%s: no %s in %s", kind, name, e.Data)
			}
			delete(data, name)
		}
		if len(data) > 0 {
			t.Errorf("%s: also has %v", kind, data)
		}
	}
	if _, err := emit.Sample("batch.exploded", now, ""); ringback.CodeOf(err) != ringback.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

// TestTrigger: what is triggered is an event like any other.
func TestTrigger(t *testing.T) {
	st, p, e, _ := setUp(t)
	p.free = 2
	at := now.Add(time.Minute)
	id, err := e.Trigger(t.Context(), "p", ringback.BatchSucceeded, []byte(`{"type":"batch.succeeded"}`), at)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := st.Event(t.Context(), "p", id)
	if err != nil || ev.Type != ringback.BatchSucceeded || !ev.Created.Equal(at) {
		t.Errorf("got %+v, %v", ev, err)
	}
	if len(p.handed) != 2 || string(p.handed[0].Body) != `{"type":"batch.succeeded"}` {
		t.Errorf("handed over %+v", p.handed)
	}
}
