package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// Event is a verified message as actions see it.
type Event struct {
	Source   string
	ID       string // The webhook-id.
	Body     []byte // As it arrived.
	Received time.Time

	env env
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

// newEvent reads a message's body. One that is not a JSON object is an event all
// the same: it has a source and an id.
func newEvent(source, id string, body []byte, received time.Time) *Event {
	e := &Event{Source: source, ID: id, Body: body, Received: received}
	e.env = env{Source: source, ID: id, Body: string(body), Received: received.UTC()}
	value, err := decodeJSON(body)
	if err != nil {
		return e
	}
	e.env.Event = value
	members, ok := value.(map[string]any)
	if !ok {
		return e
	}
	e.env.Type, _ = members["type"].(string)
	e.env.Timestamp, _ = members["timestamp"].(string)
	e.env.Data, e.env.Metadata = members["data"], members["user_metadata"]
	if data, ok := e.env.Data.(map[string]any); ok && e.env.Metadata == nil {
		e.env.Metadata = data["user_metadata"]
	}
	return e
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
