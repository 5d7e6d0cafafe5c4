package manage

import (
	"time"

	"ringback.dev"
)

// clock is the server's clock as it is shown.
type clock struct {
	Now string `json:"now"`
	// Ahead is how far it is ahead of the machine's.
	Ahead int64 `json:"ahead_seconds"`
}

// maxAdvance bounds one step of the clock.
const maxAdvance = 366 * 24 * time.Hour

func (m *manage) getClock(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	if m.Ahead == nil {
		return &clock{Now: wireTime(m.Now())}, nil
	}
	return &clock{Now: wireTime(m.Now()), Ahead: int64(m.Ahead() / time.Second)}, nil
}

// advanceClock lets time pass: retries, expiry and rotation that take hours take
// seconds then.
func (m *manage) advanceClock(c *call) (any, error) {
	var q struct {
		Seconds int64 `json:"seconds"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if m.Advance == nil {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: "only a development server's clock can be set forward: start one with ringback dev"}
	}
	if q.Seconds < 1 || q.Seconds > int64(maxAdvance/time.Second) {
		return nil, invalid("seconds: %d is not between 1 and %d", q.Seconds, int64(maxAdvance/time.Second))
	}
	ahead, err := m.Advance(c.Context(), time.Duration(q.Seconds)*time.Second)
	if err != nil {
		return nil, err
	}
	return &clock{Now: wireTime(m.Now()), Ahead: int64(ahead / time.Second)}, nil
}
