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
	Stream   Kind = "stream"   // The stream of a job has more, or has ended.
)

// Hint says that something of a project was stored or has changed.
type Hint struct {
	Project ringback.ID
	Kind    Kind
	ID      ringback.ID
}

// Bus passes hints on. The zero Bus is ready; it may be used by any number of
// goroutines.
type Bus struct {
	listening atomic.Int32
	mu        sync.Mutex
	// listeners are by the project, or the job, that they want to hear of.
	listeners map[ringback.ID]map[*listener]bool
}

type listener struct{ hints chan Hint }

// depth is how many hints wait for a listener before it loses some.
const depth = 256

// Publish passes a hint to those who listen. It never waits.
func (b *Bus) Publish(h Hint) {
	if b.listening.Load() == 0 {
		return
	}
	about := h.Project
	if h.Kind == Stream {
		about = h.ID
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.listeners[about] {
		select {
		case l.hints <- h:
		default: // It polls the store besides.
		}
	}
}

// Listen returns the hints about a project until stop is called. Those about
// streams are not among them.
func (b *Bus) Listen(project ringback.ID) (hints <-chan Hint, stop func()) {
	return b.listen(project, depth)
}

// ListenStream returns the hints about the stream of a job until stop is called.
// One stands for all that came before it was received.
func (b *Bus) ListenStream(job ringback.ID) (hints <-chan Hint, stop func()) { return b.listen(job, 1) }

func (b *Bus) listen(about ringback.ID, depth int) (<-chan Hint, func()) {
	l := &listener{hints: make(chan Hint, depth)}
	b.mu.Lock()
	if b.listeners == nil {
		b.listeners = make(map[ringback.ID]map[*listener]bool)
	}
	if b.listeners[about] == nil {
		b.listeners[about] = make(map[*listener]bool)
	}
	b.listeners[about][l] = true
	b.mu.Unlock()
	b.listening.Add(1)
	return l.hints, func() {
		b.mu.Lock()
		known := b.listeners[about][l]
		delete(b.listeners[about], l)
		if len(b.listeners[about]) == 0 {
			delete(b.listeners, about)
		}
		b.mu.Unlock()
		if known {
			b.listening.Add(-1)
		}
	}
}
