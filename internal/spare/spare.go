// Package spare keeps work that nobody waits for, such as the rows of batches, from
// making those wait who do. Go's scheduler knows no priorities, and with all
// processors busy it looks only every 10 ms at what came from the network; the
// operating system, too, makes others wait for a process that is always busy.
package spare

import (
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// attentive is how long after somebody asked such work holds back.
	attentive = time.Second
	// rest is the work after which a place rests; timers are not finer.
	rest = time.Millisecond
)

var (
	begin = time.Now()
	asked atomic.Int64 // Until when to hold back, since begin.
	// places are all processors but one.
	places = newPlaces()
)

// place is the right to use a processor.
type place struct{ worked time.Duration }

func newPlaces() chan *place {
	n := max(1, runtime.GOMAXPROCS(0)-1)
	c := make(chan *place, n)
	for range n {
		c <- new(place)
	}
	return c
}

// Asked tells that somebody waits for an answer.
func Asked() { asked.Store(int64(time.Since(begin) + attentive)) }

// Do runs f, a short piece of work. If somebody asked lately, f waits for one of
// the places, all of which rest as long as they work: together they take less
// than half of the machine.
func Do(f func()) {
	if int64(time.Since(begin)) > asked.Load() {
		f()
		return
	}
	p := <-places
	defer func() { places <- p }()
	start := time.Now()
	f()
	if p.worked += time.Since(start); p.worked > rest {
		time.Sleep(p.worked)
		p.worked = 0
	}
}
