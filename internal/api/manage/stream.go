package manage

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/store"
)

const (
	// streamPoll bounds what losing a hint costs, heartbeat how long a stream is
	// silent, writeWait how long a client may take nothing.
	streamPoll = time.Second
	heartbeat  = 15 * time.Second
	writeWait  = 10 * time.Second
	streamPage = 100
)

// stream sends the feed as server-sent events (the HTML standard §9.2), and
// besides, as hints that can't be resumed, deliveries and jobs that change. Only
// events have an id, so that resuming by Last-Event-ID is exact.
func (m *manage) stream(c *call) (any, error) {
	q, err := c.query("after", "types", "from")
	if err != nil {
		return nil, err
	}
	f, err := eventFilter(q)
	if err != nil {
		return nil, err
	}
	from := c.Header.Get("Last-Event-ID")
	if from == "" {
		from = q.Get("after")
	}
	var after int64
	if from == "" || from == "now" {
		after, err = m.lastEvent(c)
	} else {
		after, err = numbered("after", "events", begun(from))
	}
	if err != nil {
		return nil, err
	}
	hints, stop := m.Bus.Listen(c.project)
	defer stop()
	out := &sse{w: c.w, control: http.NewResponseController(c.w)}
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("Cache-Control", "no-store")
	c.w.WriteHeader(http.StatusOK)
	if out.write("retry: 1000\n\n") != nil {
		return nil, nil
	}
	poll, beat := time.NewTicker(streamPoll), time.NewTicker(heartbeat)
	defer poll.Stop()
	defer beat.Stop()
	for {
		if after, err = m.catchUp(c, out, f, after); err != nil {
			return nil, nil // The client has gone, or the store: it comes again and resumes.
		}
		select {
		case <-c.Context().Done():
			return nil, nil
		case <-m.Closing:
			return nil, nil
		case <-beat.C:
			err = out.write(": still here\n\n")
		case <-poll.C:
		case h := <-hints:
			err = m.hint(c, out, h)
		}
		if err != nil {
			return nil, nil
		}
	}
}

// catchUp sends the events after a position and returns the new one.
func (m *manage) catchUp(c *call, out *sse, f store.EventFilter, after int64) (int64, error) {
	for {
		events, err := m.Store.EventsAfter(c.Context(), c.project, f, after, streamPage)
		if err != nil {
			return after, err
		}
		for i := range events {
			data, err := marshal(renderEvent(&events[i]))
			if err != nil {
				return after, err
			}
			if err := out.write("id: " + eventCursor(events[i].Seq) + "\nevent: event\ndata: " + string(data) + "\n\n"); err != nil {
				return after, err
			}
			after = events[i].Seq
		}
		if len(events) < streamPage {
			return after, nil
		}
	}
}

// hint sends what changed.
func (m *manage) hint(c *call, out *sse, h bus.Hint) error {
	var v any
	switch h.Kind {
	case bus.Delivery:
		d, err := m.Store.Delivery(c.Context(), c.project, h.ID)
		if err != nil {
			return gone(err)
		}
		if v, err = m.renderDelivery(c, &d, nil); err != nil {
			return err
		}
	case bus.Job:
		j, err := m.Store.Job(c.Context(), c.project, h.ID)
		if err != nil {
			return gone(err)
		}
		v = renderJob(j)
	default:
		return nil // An event: catchUp sends it.
	}
	data, err := marshal(v)
	if err != nil {
		return err
	}
	return out.write(fmt.Sprintf("event: %s\ndata: %s\n\n", h.Kind, data))
}

// gone forgives that what a hint was about exists no more.
func gone(err error) error {
	if ringback.CodeOf(err) == ringback.NotFound {
		return nil
	}
	return err
}

// sse writes server-sent events.
type sse struct {
	w       io.Writer
	control *http.ResponseController
}

func (s *sse) write(text string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeWait)) // Not every writer has deadlines.
	if _, err := io.Copy(s.w, strings.NewReader(text)); err != nil {
		return err
	}
	return s.control.Flush()
}
