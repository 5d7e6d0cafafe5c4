// Package bus carries hints inside a process: that something was stored which
// somebody may want to look at. Losing a hint costs latency only, so a slow
// listener loses them; whoever listens also polls the store.
package bus

import (
	"sync"
	"sync/atomic"

	"ringback.dev"
)

// Kind tells what sort of thing a hint is about.
type Kind string

// The kinds of hints.
const (
	Event    Kind = "event"
	Delivery Kind = "delivery" // An attempt was recorded.
	Job      Kind = "job"      // A job was created or began.
)

// Hint says that something of a project was stored or has changed.
type Hint struct {
	Project ringback.ID
	Kind    Kind
	ID      ringback.ID
}

// Part is events that were added to the stream of a job and are durable. A part
// without events tells to look at the store: the job may have ended.
type Part struct {
	First, Last int64
	Data        []byte
}

// Bus passes hints on. The zero Bus is ready; it may be used by any number of
// goroutines.
type Bus struct {
	hints topics[Hint]
	parts topics[Part]
}

const (
	// hintDepth is how many hints wait for a listener before it loses some, partDepth
	// how many parts.
	hintDepth = 256
	partDepth = 16
)

// Publish passes a hint to those who listen. It never waits.
func (b *Bus) Publish(h Hint) { b.hints.publish(h.Project, h) }

// Listen returns the hints about a project until stop is called.
func (b *Bus) Listen(project ringback.ID) (hints <-chan Hint, stop func()) {
	return b.hints.listen(project, hintDepth)
}

// PublishPart passes a part of a job's stream to those who listen. It never waits.
func (b *Bus) PublishPart(job ringback.ID, p Part) { b.parts.publish(job, p) }

// ListenParts returns what is added to the stream of a job until stop is called.
// Who listens sees by the numbers when it has lost a part.
func (b *Bus) ListenParts(job ringback.ID) (parts <-chan Part, stop func()) {
	return b.parts.listen(job, partDepth)
}

// topics are listeners by what they want to hear of.
type topics[T any] struct {
	listening atomic.Int32
	mu        sync.Mutex
	listeners map[ringback.ID]map[*listener[T]]bool
}

type listener[T any] struct{ heard chan T }

func (t *topics[T]) publish(about ringback.ID, news T) {
	if t.listening.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.listeners[about] {
		select {
		case l.heard <- news:
		default: // It polls the store besides.
		}
	}
}

func (t *topics[T]) listen(about ringback.ID, depth int) (<-chan T, func()) {
	l := &listener[T]{heard: make(chan T, depth)}
	t.mu.Lock()
	if t.listeners == nil {
		t.listeners = make(map[ringback.ID]map[*listener[T]]bool)
	}
	if t.listeners[about] == nil {
		t.listeners[about] = make(map[*listener[T]]bool)
	}
	t.listeners[about][l] = true
	t.mu.Unlock()
	t.listening.Add(1)
	return l.heard, func() {
		t.mu.Lock()
		known := t.listeners[about][l]
		delete(t.listeners[about], l)
		if len(t.listeners[about]) == 0 {
			delete(t.listeners, about)
		}
		t.mu.Unlock()
		if known {
			t.listening.Add(-1)
		}
	}
}
