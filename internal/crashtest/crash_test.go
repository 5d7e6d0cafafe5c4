// Package crashtest kills a real server process with SIGKILL at every step of an
// event's life, starts it again on the same data, and proves that every callback
// of an acknowledged job arrives, that doubles carry the same webhook-id, and
// that every signature verifies. See docs/architecture.md for the steps.
package crashtest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"ringback.dev/internal/crash"
)

const (
	killsPerStep = 26
	randomKills  = 12
	jobsPerRun   = 4
)

// TestKillAtEveryStep runs the steps one after the other on one data folder,
// which thus sees all the kills.
func TestKillAtEveryStep(t *testing.T) {
	binary := build(t)
	w := newWorld(t, binary, "--emulator")
	kills := 0
	for _, step := range crash.Steps() {
		for n := range killsPerStep {
			// The n-th time that the step is reached, so that other work is in other
			// steps when the process dies.
			w.start(fmt.Sprintf("%s:%d", step, 1+n%jobsPerRun))
			w.submit(jobsPerRun)
			w.killedAt(step)
			kills++
			if n%10 == 9 {
				w.drain() // A job is given up after 20 runs that were cut off.
			}
		}
		w.drain()
	}
	for range randomKills {
		w.start("")
		done := make(chan struct{})
		go func() { defer close(done); w.submit(20) }()
		// Kill at a random one of the callbacks that arrive.
		w.receiver.after(1 + rand.IntN(10))
		w.kill()
		<-done
		kills++
	}
	w.drain()
	jobs, doubles := w.receiver.check(t, w.acknowledged)
	fmt.Printf("crash: %d kills, %d jobs acknowledged, 0 lost, %d delivered more than once, all under the same webhook-id\n", kills, jobs, doubles)
}

// drain runs the server undisturbed until all callbacks have arrived.
func (w *world) drain() {
	w.t.Helper()
	w.start("")
	w.submit(1)
	w.everyCallback()
	w.stop()
}
