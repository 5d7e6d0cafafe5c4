package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"ringback.dev/inbox"
)

// Event is a verified message as actions see it.
type Event struct {
	Source   string
	ID       string // The webhook-id.
	Body     []byte // As it arrived.
	Received time.Time
	// Type is the event's type, empty if it has none.
	Type string

	read *env // What was read of the body; nil as long as nobody asked.
}

// env is what expressions and templates can name.
type env struct {
	// Source is the name of the source, ID the webhook-id.
	Source string `expr:"source"`
	ID     string `expr:"id"`
	// Type, Timestamp, Data and Metadata are the event's type, timestamp, data and
	// user_metadata; Event is all of it.
	Type      string `expr:"type"`
	Timestamp string `expr:"timestamp"`
	Data      any    `expr:"data"`
	Metadata  any    `expr:"metadata"`
	Event     any    `expr:"event"`
	// Body is the body as it arrived, Received when that was.
	Body     string    `expr:"body"`
	Received time.Time `expr:"received"`
}

// newEvent makes an event of an entry of the inbox.
func newEvent(source, id string, e *inbox.Entry) *Event {
	return &Event{Source: source, ID: id, Body: e.Body, Received: e.Received, Type: e.Type}
}

// env is what the event says. It is read when it is first asked for: many events
// are forwarded, or left alone, without anybody looking into them. A body that is
// not a JSON object is an event all the same: it has a source and an id.
func (e *Event) env() *env {
	if e.read != nil {
		return e.read
	}
	v := &env{Source: e.Source, ID: e.ID, Type: e.Type, Body: string(e.Body), Received: e.Received.UTC()}
	e.read = v
	value, err := decodeJSON(e.Body)
	if err != nil {
		return v
	}
	v.Event = value
	members, ok := value.(map[string]any)
	if !ok {
		return v
	}
	v.Timestamp, _ = members["timestamp"].(string)
	v.Data, v.Metadata = members["data"], members["user_metadata"]
	if data, ok := v.Data.(map[string]any); ok && v.Metadata == nil {
		v.Metadata = data["user_metadata"]
	}
	return v
}

// decodeJSON decodes one JSON value. Whole numbers stay whole: an id of 17 digits
// that becomes a float is another id.
func decodeJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one value")
	}
	return plain(v), nil
}

// plain makes numbers of the texts that the decoder leaves.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int(n)
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String() // Larger than any number here.
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}
