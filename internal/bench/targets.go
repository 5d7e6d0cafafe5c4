package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// watched is a store that measures, for the targets of one group, the time from
// an event's birth to its recorded delivery.
type watched struct {
	store.Store
	group string // How the names of the targets begin.
	done  chan<- string

	mu   sync.Mutex
	born map[ringback.ID]time.Time
	took []float64 // In ms.
}

func (w *watched) AddEvent(ctx context.Context, h *store.Happening) error {
	now := time.Now()
	w.mu.Lock()
	for i := range h.Deliveries {
		if strings.HasPrefix(h.Deliveries[i].Target, w.group) {
			w.born[h.Deliveries[i].ID] = now
		}
	}
	w.mu.Unlock()
	return w.Store.AddEvent(ctx, h)
}

func (w *watched) RecordAttempt(ctx context.Context, lease ringback.Lease, o *store.Outcome) error {
	err := w.Store.RecordAttempt(ctx, lease, o)
	now := time.Now()
	w.mu.Lock()
	born, known := w.born[o.Attempt.Delivery]
	delete(w.born, o.Attempt.Delivery)
	mine := strings.HasPrefix(o.Target, w.group)
	if known && err == nil && o.State == ringback.DeliveryDelivered {
		w.took = append(w.took, float64(now.Sub(born).Microseconds())/1000)
	}
	w.mu.Unlock()
	if mine {
		w.done <- o.Target
	}
	return err
}

// report prints how many deliveries of the group there were, and their p99.
func (w *watched) report(took time.Duration) error {
	w.mu.Lock()
	all := slices.Sorted(slices.Values(w.took))
	w.mu.Unlock()
	if len(all) == 0 {
		return fmt.Errorf("nothing was delivered")
	}
	return reportP99(len(all), took, all[len(all)*99/100])
}

// crowd is a rig with many targets, the watched ones among them.
type crowd struct {
	*rig
	*watched
	done      chan string
	endpoints map[string][]*ringback.Endpoint // By group.
}

func newCrowd(ctx context.Context, o options, watch string, groups map[string]int) (*crowd, error) {
	r, err := newRig(ctx, o)
	if err != nil {
		return nil, err
	}
	c := &crowd{rig: r, done: make(chan string, 4096), endpoints: make(map[string][]*ringback.Endpoint)}
	c.watched = &watched{Store: r.st, group: watch, done: c.done, born: make(map[ringback.ID]time.Time)}
	for group, n := range groups {
		for i := range n {
			id := ringback.ID(fmt.Sprintf("%s-%04d", group, i))
			uri := strings.TrimSuffix(o.Sink, "/hook") + "/" + string(id)
			e, err := r.addEndpoint(ctx, id, uri, "")
			if err != nil {
				return nil, err
			}
			c.endpoints[group] = append(c.endpoints[group], e)
		}
	}
	return c, r.wire(o, c.watched)
}

// during runs the dispatcher while the load functions work, and reports.
func (c *crowd) during(ctx context.Context, loads ...func(context.Context)) error {
	defer c.st.Close()
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.d.Run(running) }()
	var wg sync.WaitGroup
	begin := time.Now()
	for _, load := range loads {
		wg.Go(func() { load(ctx) })
	}
	wg.Wait()
	took := time.Since(begin)
	stop()
	err := <-done
	cut, cancel := context.WithCancel(ctx)
	cancel() // What hangs is cut off.
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for range c.done { // So that nothing waits to be counted.
		}
	}()
	c.d.Stop(cut)
	close(c.done)
	<-drained
	if err != nil {
		return err
	}
	return c.watched.report(took)
}

// steady pings the endpoints in turn, at a rate in all, in bursts of the given size.
func (c *crowd) steady(endpoints []*ringback.Endpoint, rate, burst int, d time.Duration) func(context.Context) {
	return func(ctx context.Context) {
		tick := time.NewTicker(time.Second * time.Duration(burst) / time.Duration(rate))
		defer tick.Stop()
		var wg sync.WaitGroup
		next := 0
		for begin := time.Now(); time.Since(begin) < d; <-tick.C {
			for range burst {
				e := endpoints[next%len(endpoints)]
				next++
				wg.Go(func() { _ = c.e.Ping(ctx, e, time.Now()) }) // An error shows as a missing delivery.
			}
		}
		wg.Wait()
	}
}

// hanging measures 45 healthy targets that get as much as they take, alone or
// beside 5 that never answer, each of which gets 50 events a second.
func hanging(ctx context.Context, o options) error {
	groups := map[string]int{"well": 45}
	if o.Troubled {
		groups[strings.TrimPrefix(hangs, "/")] = 5
	}
	c, err := newCrowd(ctx, o, "well", groups)
	if err != nil {
		return err
	}
	// As many events are between birth and record as are in flight.
	well := c.endpoints["well"]
	loads := []func(context.Context){func(ctx context.Context) {
		var wg sync.WaitGroup
		for i := range o.InFlight {
			wg.Go(func() { _ = c.e.Ping(ctx, well[i%len(well)], time.Now()) })
		}
		n := 0
		for begin := time.Now(); time.Since(begin) < o.Time; n++ {
			<-c.done
			wg.Go(func() { _ = c.e.Ping(ctx, well[n%len(well)], time.Now()) })
		}
		wg.Wait()
	}}
	if o.Troubled {
		loads = append(loads, c.steady(c.endpoints[strings.TrimPrefix(hangs, "/")], 250, 5, o.Time))
	}
	return c.during(ctx, loads...)
}

// uneven measures 999 targets that get 500 events a second between them, beside
// 2,000 a second more: spread over 500 other targets, or all for a single one.
func uneven(ctx context.Context, o options) error {
	groups := map[string]int{"quiet": 999, "other": 500}
	if o.Troubled {
		groups["other"] = 1
	}
	c, err := newCrowd(ctx, o, "quiet", groups)
	if err != nil {
		return err
	}
	counting := func(ctx context.Context) {
		for begin := time.Now(); time.Since(begin) < o.Time; {
			select {
			case <-c.done:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return c.during(ctx, counting, c.steady(c.endpoints["quiet"], 500, 1, o.Time), c.steady(c.endpoints["other"], 2000, 20, o.Time))
}

// replay stores events whose deliveries have failed, replays them all, and
// measures until the last is delivered.
func replay(ctx context.Context, o options) error {
	c, err := newCrowd(ctx, o, "again", map[string]int{"again": 20})
	if err != nil {
		return err
	}
	defer c.st.Close()
	to := c.endpoints["again"]
	for i := 0; i < o.Backlog; {
		var wg sync.WaitGroup
		for range min(256, o.Backlog-i) {
			e := to[i%len(to)]
			i++
			wg.Go(func() { c.fail(ctx, e) })
		}
		wg.Wait()
	}
	now := time.Now()
	r := store.Replay{ID: ringback.NewID("replay", now), Project: project, Created: now}
	if err := c.st.CreateReplay(ctx, r, store.By{Actor: store.Server, At: now}); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- c.d.Run(running) }()
	go func() {
		for more := true; more; {
			if more, err = c.st.AdvanceReplay(ctx, time.Now(), 500); err != nil {
				return
			}
			c.d.Wake()
		}
	}()
	begin := time.Now()
	for n := 0; n < o.Backlog; n++ {
		select {
		case <-c.done:
		case <-time.After(30 * time.Second):
			return fmt.Errorf("%d of %d deliveries", n, o.Backlog)
		}
	}
	took := time.Since(begin)
	stop()
	if err := <-done; err != nil {
		return err
	}
	c.d.Stop(ctx)
	return report(o.Backlog, took)
}

// fail stores an event whose only delivery has failed for good.
func (c *crowd) fail(ctx context.Context, e *ringback.Endpoint) {
	now := time.Now()
	h := &store.Happening{Event: ringback.Event{ID: ringback.NewID("evt", now), Project: project, Type: ringback.InteractionCompleted, Body: []byte(body), Created: now}}
	lease := ringback.Lease{Node: "bench", Token: 1, Until: now.Add(time.Minute)}
	d := ringback.Delivery{ID: ringback.NewID("msg", now), Event: h.Event.ID, Project: project, Target: string(e.ID), Endpoint: e.ID,
		State: ringback.DeliveryPending, Due: lease.Until, Begun: now, Created: now, Updated: now}
	h.Deliveries = []store.NewDelivery{{Delivery: d, Lease: &lease}}
	if c.st.AddEvent(ctx, h) != nil {
		return // It is missed at the end.
	}
	_ = c.st.RecordAttempt(ctx, lease, &store.Outcome{Target: d.Target, State: ringback.DeliveryFailed, At: now, // As above.
		Attempt: ringback.Attempt{Delivery: d.ID, Number: 1, Started: now, Status: 500, Reason: "broken"}})
}
