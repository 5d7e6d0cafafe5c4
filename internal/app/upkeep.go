package app

import (
	"context"
	"maps"
	"sync"
	"time"

	"ringback.dev"
)

const (
	// upkeepEvery is how often the work is done that nobody waits for.
	upkeepEvery = time.Minute
	// sweepPage and replayPage bound the events of one step, and so how long
	// others wait for it.
	sweepPage, replayPage = 500, 500
)

// keysUsed notes when API keys were last used, in memory until upkeep stores it.
type keysUsed struct {
	mu   sync.Mutex
	last map[ringback.ID]time.Time
}

func (k *keysUsed) note(id ringback.ID, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		k.last = make(map[ringback.ID]time.Time)
	}
	k.last[id] = at
}

func (k *keysUsed) take() map[ringback.ID]time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	used := maps.Clone(k.last)
	clear(k.last)
	return used
}

// upkeep does what must be done from time to time: it stores when keys were used,
// removes expired secrets, old events and old jobs, and replaces old signing keys. What
// fails is logged and done the next time.
func (a *App) upkeep(ctx context.Context) error {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for { // The first time at once: making the first keys takes a moment.
		now := a.clock.now()
		a.storeKeysUsed(ctx)
		if err := a.store.DropExpired(ctx, now); err != nil && ctx.Err() == nil {
			a.log.Error("remove expired secrets", "error", err)
		}
		if err := a.signing.keep(ctx, now); err != nil && ctx.Err() == nil {
			a.log.Error("look after the signing keys", "error", err)
		}
		a.sweep(ctx, now)
		if err := a.sweepJobs(ctx, now); err != nil && ctx.Err() == nil {
			a.log.Error("remove old jobs", "error", err)
		}
		if err := a.sweepBatches(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("remove the rows of ended batches", "error", err)
		}
		if err := a.sweepFiles(ctx, now); err != nil && ctx.Err() == nil {
			a.log.Error("remove files", "error", err)
		}
		select {
		case <-ctx.Done():
			a.storeKeysUsed(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
		case <-a.jump:
		}
	}
}

func (a *App) storeKeysUsed(ctx context.Context) {
	used := a.used.take()
	if len(used) == 0 {
		return
	}
	if err := a.store.TouchKeys(ctx, used); err != nil && ctx.Err() == nil {
		a.log.Error("note the use of keys", "error", err)
	}
}

// sweep removes what is older than the retention, page by page, so that others
// get between.
func (a *App) sweep(ctx context.Context, now time.Time) {
	removed, lost := 0, 0
	for ctx.Err() == nil {
		events, unended, err := a.store.Sweep(ctx, now.Add(-a.config.Retention), sweepPage)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Error("remove old events", "error", err)
			}
			break
		}
		removed, lost = removed+events, lost+unended
		if events < sweepPage {
			break
		}
	}
	if removed > 0 {
		a.log.Info("old events removed", "events", removed, "deliveries_not_ended", lost, "older_than", a.config.Retention)
	}
}

// sweepJobs removes jobs that ended long ago, page by page.
func (a *App) sweepJobs(ctx context.Context, now time.Time) error {
	removed := 0
	for _, k := range []ringback.Kind{ringback.KindInteraction, ringback.KindBatch, ringback.KindVideo} {
		for n := sweepPage; n == sweepPage; {
			var err error
			if n, err = a.store.SweepJobs(ctx, k, now.Add(-a.config.JobTTL), sweepPage); err != nil {
				return err
			}
			removed += n
		}
	}
	if removed > 0 {
		a.log.Info("old jobs removed", "jobs", removed, "ended_before", a.config.JobTTL)
	}
	return nil
}

// sweepBatches removes what batches that have ended left in the store: their
// results are in their output. Some groups of rows at a time, so that others get
// between.
func (a *App) sweepBatches(ctx context.Context) error {
	for {
		more, err := a.store.SweepBatches(ctx, 16)
		if err != nil || !more || ctx.Err() != nil {
			return err
		}
	}
}

// staleUpload is after how long an upload is given up to which nothing is added.
const staleUpload = 48 * time.Hour

// sweepFiles removes files that have expired, uploads that were given up, and the
// bytes of all that nothing refers to any more. The bytes go last: a crash
// before leaves them in the list of garbage.
func (a *App) sweepFiles(ctx context.Context, now time.Time) error {
	removed := 0
	for {
		n, err := a.store.ExpireFiles(ctx, now, now.Add(-staleUpload), sweepPage)
		if err != nil {
			return err
		}
		if removed += n; n == 0 {
			break
		}
	}
	for {
		garbage, err := a.store.Garbage(ctx, sweepPage)
		if err != nil {
			return err
		}
		for _, key := range garbage {
			if err := a.blobs.Delete(ctx, key); err != nil {
				return err
			}
		}
		if err := a.store.ForgetGarbage(ctx, garbage); err != nil {
			return err
		}
		if len(garbage) < sweepPage {
			break
		}
	}
	// What has no row: begun right before a crash. Its age is that of files on the
	// disk, which know nothing of a clock that was set forward.
	halves, err := a.blobs.Sweep(ctx, time.Now().Add(-2*staleUpload))
	if removed+halves > 0 {
		a.log.Info("expired files removed", "files_and_uploads", removed, "unfinished", halves)
	}
	return err
}

// replays goes on with replays until there is none, looking once a second for a
// new one.
func (a *App) replays(ctx context.Context) error {
	for {
		more, err := a.store.AdvanceReplay(ctx, a.clock.now(), replayPage)
		if err != nil && ctx.Err() == nil {
			a.log.Error("advance a replay", "error", err)
		}
		if more {
			a.dispatcher.Wake()
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
