package edge

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/inbox"
	"ringback.dev/internal/reconcile"
	"ringback.dev/webhook"
)

// A sender gives up after a day or two, and some events are never sent: nobody was
// subscribed, or the sender lost them. So the edge can look from time to time, at
// the server itself, for what has ended and did not arrive. What a ringback server
// has given up it sends again. What has no delivery goes into the inbox as if its
// source had sent it, under an id that is the same each time it is found.

// settled is how long after an end its callback may still be on its way.
const settled = 5 * time.Minute

// reconciler is an entry of reconcile.
type reconciler struct {
	name, source string
	uri          string // Of the deliveries that are the source's; empty for all.
	every, since time.Duration
	from         reconcile.Source
	// ledger, of Google's API alone, has the batches whose ends have arrived. It is kept
	// in file.
	ledger *reconcile.Ledger
	file   string
}

// reconcilers reads the section reconcile.
func (k *kit) reconcilers() {
	for i := range k.Reconcile {
		c, key := &k.Reconcile[i], fmt.Sprintf("reconcile[%d]", i)
		for _, d := range []struct {
			value    *time.Duration
			standard time.Duration
			name     string
		}{{&c.Every, 15 * time.Minute, "every"}, {&c.Since, 72 * time.Hour, "since"}} {
			if *d.value == 0 {
				*d.value = d.standard
			}
			k.between(key+"."+d.name, *d.value, time.Second, 30*24*time.Hour)
		}
		r := &reconciler{name: c.Server, source: c.Source, uri: c.URI, every: c.Every, since: c.Since}
		if _, ok := k.Sources[c.Source]; !ok {
			k.at(key+".source", "%q is not among sources; name the one whose events the server sends", c.Source)
		}
		s := k.servers[c.Server]
		if s == nil {
			k.at(key+".server", "%q is not among servers", c.Server)
			continue
		}
		if u, err := url.Parse(c.URI); c.URI != "" && (err != nil || u.Host == "") {
			k.at(key+".uri", "%q is not an address such as https://edge.example.com/ringback", c.URI)
		} else if c.URI != "" && c.Kind == "gemini" {
			k.at(key+".uri", "Google's API does not tell where callbacks go; leave it out")
		}
		client := *s.client.Client
		client.Timeout = time.Minute
		switch c.Kind {
		case "", "ringback":
			r.from = reconcile.Through(&client, reconcile.Ringback(s.base.String(), s.key))
		case "gemini":
			r.from = reconcile.Through(&client, reconcile.Gemini(s.base.String(), s.key))
			r.file = filepath.Join(k.Data, "collected-"+c.Source)
			var err error
			if r.ledger, err = reconcile.OpenLedger(r.file); err != nil {
				k.at(key, "its ledger can't be read: %v", err)
			}
		default:
			k.at(key+".kind", "%q is neither ringback nor gemini", c.Kind)
		}
		k.setup.reconcile = append(k.setup.reconcile, r)
	}
}

// ends are the events after which no other comes about a batch.
var ends = []ringback.EventType{ringback.BatchSucceeded, ringback.BatchFailed, ringback.BatchCancelled, ringback.BatchExpired}

// ledgers are those in which an event belongs, since it tells of the end of a batch.
func (s *setup) ledgers(e *Event) (all []*reconcile.Ledger, batch string) {
	for _, r := range s.reconcile {
		if r.ledger == nil || r.source != e.Source || !slices.Contains(ends, ringback.EventType(e.Type)) {
			continue
		}
		data, _ := e.env().Data.(map[string]any)
		batch, _ = data["id"].(string)
		if len(strings.Fields(batch)) == 1 && strings.Fields(batch)[0] == batch { // Others name none.
			all = append(all, r.ledger)
		}
	}
	return all, batch
}

// collected notes in the ledgers of a source that a batch's end has arrived.
func (s *setup) collected(e *Event) error {
	ledgers, batch := s.ledgers(e)
	for _, l := range ledgers {
		if !l.Has(batch) {
			if err := l.Add(batch, e.Type); err != nil {
				return fmt.Errorf("the ledger of %s: %w", e.Source, err)
			}
		}
	}
	return nil
}

// takenIn reports whether an event tells what has been taken in before, under another
// id, since the server had been asked: its sender tried on.
func (r *runner) takenIn(ctx context.Context, s *setup, e *Event) (bool, error) {
	ledgers, batch := s.ledgers(e)
	id := reconcile.MessageID(ringback.EventType(e.Type), batch)
	if len(ledgers) == 0 || id == e.ID {
		return false, nil
	}
	_, err := r.store.Entry(ctx, e.Source, id)
	if errors.Is(err, inbox.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// look finds what did not arrive and has it come, or takes it in. It returns how much
// that was.
func (r *reconciler) look(ctx context.Context, now time.Time, in *inbox.Receiver) (found int, err error) {
	o := reconcile.Options{Since: now.Add(-r.since)}
	if r.ledger != nil {
		// Read anew: other edges on this folder write to it too.
		if o.Ledger, err = reconcile.OpenLedger(r.file); err != nil {
			return 0, fmt.Errorf("the ledger: %w", err)
		}
	}
	report, err := r.from.Find(ctx, o)
	if err != nil {
		return 0, err
	}
	var errs []error
	deaf := make(map[string]bool) // Addresses that still accept nothing. The next look tries them again.
	for i := range report.Gaps {
		g := &report.Gaps[i]
		if g.Ended.After(now.Add(-settled)) || g.Delivery != "" && (deaf[g.URI] || r.uri != "" && r.uri != g.URI) {
			continue
		}
		news, err := r.from.Close(ctx, g)
		if errors.Is(err, reconcile.ErrPost) {
			// Who sent it is known: we asked. It is no forgery, though it has no signature.
			news, err = in.Accept(ctx, webhook.Message{ID: g.ID, Timestamp: now, Scheme: "reconciled", Body: []byte(g.Body)})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g.Job, err))
			deaf[g.URI] = true
			continue
		}
		if news {
			found++
		}
	}
	return found, errors.Join(errs...)
}

// reconcile looks for gaps by each entry of the configuration when its time has
// come, until ctx ends.
func (e *Edge) reconcile(ctx context.Context) error {
	const step = time.Second
	tick := time.NewTicker(step)
	defer tick.Stop()
	looked := make(map[string]time.Time) // By server and source, also across reloads.
	for {
		now := e.now()
		e.Reconcile(ctx, now, func(server, source string, every time.Duration) bool {
			key := server + " " + source
			due := now.Sub(looked[key]) >= every
			if due {
				looked[key] = now
			}
			return due
		})
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Reconcile looks for what did not arrive, as of a time, by the entries of the
// configuration that due picks; nil picks all. It returns how much it was. What
// fails is logged.
func (e *Edge) Reconcile(ctx context.Context, now time.Time, due func(server, source string, every time.Duration) bool) (found int) {
	d := e.doors.Load()
	if d == nil {
		return 0
	}
	for _, r := range d.setup.reconcile {
		if due != nil && !due(r.name, r.source, r.every) {
			continue
		}
		n, err := r.look(ctx, now, d.receiver(r.source))
		e.metrics.look(r.source, n, err)
		if found += n; n > 0 {
			e.log.Warn("events that did not arrive", "server", r.name, "source", r.source, "count", n)
		}
		if err != nil && ctx.Err() == nil {
			e.log.Error("reconcile", "server", r.name, "source", r.source, "error", err)
		}
	}
	return found
}

// receiver is that of a source.
func (d *doors) receiver(source string) *inbox.Receiver {
	for path, s := range d.sources {
		if s.name == source {
			return d.receivers[path]
		}
	}
	return nil // The configuration was refused: a source is there.
}
