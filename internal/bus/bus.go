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

// Bus passes hints on. The zero Bus is ready; it may be used by any number of
// goroutines.
type Bus struct {
	listening atomic.Int32
	mu        sync.Mutex
	listeners map[*listener]bool
}

type listener struct {
	project ringback.ID
	hints   chan Hint
}

// depth is how many hints wait for a listener before it loses some.
const depth = 256

// Publish passes a hint to those who listen. It never waits.
func (b *Bus) Publish(h Hint) {
	if b.listening.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.listeners {
		if l.project != h.Project {
			continue
		}
		select {
		case l.hints <- h:
		default: // It polls the store besides.
		}
	}
}

// Listen returns the hints about a project until stop is called.
func (b *Bus) Listen(project ringback.ID) (hints <-chan Hint, stop func()) {
	l := &listener{project: project, hints: make(chan Hint, depth)}
	b.mu.Lock()
	if b.listeners == nil {
		b.listeners = make(map[*listener]bool)
	}
	b.listeners[l] = true
	b.mu.Unlock()
	b.listening.Add(1)
	return l.hints, func() {
		b.mu.Lock()
		known := b.listeners[l]
		delete(b.listeners, l)
		b.mu.Unlock()
		if known {
			b.listening.Add(-1)
		}
	}
}
