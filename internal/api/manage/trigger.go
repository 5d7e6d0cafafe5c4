package manage

import (
	"encoding/json"

	"ringback.dev"
	"ringback.dev/internal/jsjson"
)

// maxTriggered bounds the body of an event that is triggered: real ones are far
// smaller.
const maxTriggered = 64 << 10

// trigger makes an event happen that nothing caused, so that receivers can be
// tried: it is stored, sent, signed, retried and logged like any other.
func (m *manage) trigger(c *call) (any, error) {
	var q struct {
		Type string          `json:"type"`
		Body json.RawMessage `json:"body"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if m.Trigger == nil {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: "only a development server triggers events: start one with ringback dev, or send to an address with ringback trigger --to"}
	}
	kinds, err := types([]string{q.Type})
	if err != nil {
		return nil, err
	}
	body := []byte(q.Body)
	if body != nil {
		var e struct {
			Type *string `json:"type"`
		}
		if json.Unmarshal(body, &e) != nil || e.Type == nil || *e.Type != q.Type {
			return nil, invalid("body: it must be an object whose type is %q", q.Type)
		}
		if body, err = jsjson.Normalize(body); err != nil {
			return nil, invalid("body: %v", err)
		}
		if len(body) > maxTriggered {
			return nil, invalid("body: it is larger than %d bytes", maxTriggered)
		}
	}
	id, err := m.Trigger(c.Context(), c.project, kinds[0], body, c.now)
	if err != nil {
		return nil, err
	}
	return m.event(c, id)
}
