// Package work runs jobs: it claims them from the store, runs each by its kind
// on a back-end, and records its end. One file per kind says what a job of that
// kind does; this file knows none of it.
package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

// Config is what a Runner needs. Store, Emit, Backend, Node and Log must be set.
type Config struct {
	Store   store.Store
	Emit    *emit.Emitter
	Backend backend.Backend
	// Node names this process in leases.
	Node string
	// Blobs keeps the inputs and outputs of batches, and videos.
	Blobs blob.Store
	// MaxRunning bounds the background interactions that run at once, zero means
	// 256; MaxBatches the batches, zero means 32; MaxVideos the videos, zero means 16.
	MaxRunning, MaxBatches, MaxVideos int
	// MaxRow bounds a row of a batch in bytes; zero means 20 MiB.
	MaxRow int
	// RowWait is how long a row of a batch rests after its first failure; zero means
	// a second.
	RowWait time.Duration
	// ResultTTL is how long the results of a batch are kept; zero means 30 days.
	ResultTTL time.Duration
	// VideoTTL is how long videos are kept; zero means 48 h. MaxVideoBytes bounds
	// each; zero means 2 GiB. VideoWait is how long a video job rests after the first
	// time that its back-end could not be used; zero means 5 s.
	VideoTTL      time.Duration
	MaxVideoBytes int64
	VideoWait     time.Duration
	// Lease is how long a job stays claimed after its worker died; it is renewed
	// three times in that time. Zero means 30 s.
	Lease time.Duration
	// StallAfter is how long after its creation a job that has not ended is told of
	// as stalled; zero means an hour.
	StallAfter time.Duration
	// HookURL is the beginning of the addresses at which providers that run whole
	// batches call when one has ended; the job's id, a slash and a secret follow, with
	// which Nudge is called. Empty if they can't reach this server.
	HookURL string
	// Hints, if not nil, are told of jobs that are created.
	Hints *bus.Bus
	Log   *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// poll is how often the store is asked although nothing hinted at work.
	poll = time.Second
	// stallPoll is how often jobs are looked for that don't move.
	stallPoll = 15 * time.Second
	// maxRuns is after how many cut-off runs a job is given up: it may be the job
	// that brings the process down.
	maxRuns = 20
)

// Result is how the run of a job ended. State is final.
type Result struct {
	State   ringback.State
	Output  json.RawMessage
	Failure *ringback.Failure
	// Files, Blob, Rows and Garbage: see store.End.
	Files []ringback.File
	Blob  string
	Rows  ringback.RowCounts

	Garbage []string
	// after, if not nil, is called when the end is stored.
	after func()
}

// Reasons for which the context of a run ends.
var (
	errStopping  = &ringback.Error{Code: ringback.Unavailable, Message: "the server is stopping; try again"}
	errCancelled = errors.New("the job was cancelled")
	errLost      = errors.New("the lease was lost")
)

// Runner runs jobs. Make one with New, start it with Run.
type Runner struct {
	Config
	wake chan struct{} // Holds one element; sent to without blocking; never closed.
	jump chan struct{} // The same: the clock was set forward.
	runs sync.WaitGroup
	// halt is closed when Stop begins: batches start no more rows. cutOff ends when
	// Stop gives up what is still under way.
	halt   chan struct{}
	cutOff context.Context
	cut    context.CancelFunc

	mu      sync.Mutex
	open    bool
	taken   map[ringback.Kind]int // Places that are taken.
	running map[ringback.ID]*underWay
}

// underWay is a job under way in this process.
type underWay struct {
	token  int64
	cancel context.CancelCauseFunc
	birth  *birth
	// hints is told when somebody who knows secret calls (Nudge).
	secret string
	hints  chan<- struct{}
}

// New returns a Runner that claims nothing before Run.
func New(c Config) *Runner {
	if c.MaxRunning == 0 {
		c.MaxRunning = 256
	}
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	if c.StallAfter == 0 {
		c.StallAfter = time.Hour
	}
	if c.Hints == nil {
		c.Hints = &bus.Bus{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxBatches == 0 {
		c.MaxBatches = 32
	}
	if c.MaxRow == 0 {
		c.MaxRow = 20 << 20
	}
	if c.RowWait == 0 {
		c.RowWait = time.Second
	}
	if c.ResultTTL == 0 {
		c.ResultTTL = 30 * 24 * time.Hour
	}
	if c.MaxVideos == 0 {
		c.MaxVideos = 16
	}
	if c.VideoTTL == 0 {
		c.VideoTTL = 48 * time.Hour
	}
	if c.MaxVideoBytes == 0 {
		c.MaxVideoBytes = 2 << 30
	}
	if c.VideoWait == 0 {
		c.VideoWait = 5 * time.Second
	}
	r := &Runner{Config: c, wake: make(chan struct{}, 1), jump: make(chan struct{}, 1), halt: make(chan struct{}), taken: make(map[ringback.Kind]int), running: make(map[ringback.ID]*underWay)}
	r.cutOff, r.cut = context.WithCancel(context.Background())
	return r
}

// kinds are the kinds of job that are run in the background.
var kinds = [...]ringback.Kind{ringback.KindInteraction, ringback.KindBatch, ringback.KindVideo}

// places is how many jobs of a kind may run at once.
func (r *Runner) places(k ringback.Kind) int {
	switch k {
	case ringback.KindBatch:
		return r.MaxBatches
	case ringback.KindVideo:
		return r.MaxVideos
	}
	return r.MaxRunning
}

// Run claims and runs jobs, and renews their leases, until ctx ends. Jobs under
// way go on until they are done or Stop gives them up.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.open = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.open = false
		r.mu.Unlock()
	}()
	claim, renew, stalls := time.NewTimer(0), time.NewTicker(r.Lease/3), time.NewTicker(min(r.StallAfter, stallPoll))
	defer claim.Stop()
	defer renew.Stop()
	defer stalls.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-renew.C:
			r.renew(ctx)
			continue
		case <-stalls.C:
			r.tellStalls(ctx)
			continue
		case <-r.jump:
			r.renew(ctx)
			r.tellStalls(ctx)
		case <-r.wake:
		case <-claim.C:
		}
		r.claim(ctx)
		claim.Reset(poll)
	}
}

// Stop waits for the jobs under way, after Run has returned, and keeps their
// leases alive. When ctx ends first, they are cut off and given back.
func (r *Runner) Stop(ctx context.Context) {
	close(r.halt)
	defer r.cut()
	done := make(chan struct{})
	go func() { r.runs.Wait(); close(done) }()
	renew := time.NewTicker(r.Lease / 3)
	defer renew.Stop()
	for {
		select {
		case <-done:
			return
		case <-renew.C:
			r.renew(ctx)
		case <-ctx.Done():
			r.cut()
			r.mu.Lock()
			for _, j := range r.running {
				j.cancel(errStopping)
			}
			r.mu.Unlock()
			<-done
			return
		}
	}
}

// Submit stores a background job and starts it at once if there is a place. On
// return the job is durable: it will be run, and its end will be told.
func (r *Runner) Submit(ctx context.Context, j *ringback.Job) error {
	return r.submit(j, func(lease *ringback.Lease) error { return r.Store.CreateJob(ctx, j, lease) })
}

// SubmitBatch does the same for a batch.
func (r *Runner) SubmitBatch(ctx context.Context, j *ringback.Job, b *ringback.Batch) error {
	return r.submit(j, func(lease *ringback.Lease) error { return r.Store.CreateBatch(ctx, j, b, lease) })
}

func (r *Runner) submit(j *ringback.Job, create func(*ringback.Lease) error) error {
	now := r.Now()
	j.Created, j.Updated, j.State = now, now, ringback.Pending
	var lease *ringback.Lease
	if r.take(j.Kind) {
		first := r.born(j, now)
		lease = &first
	}
	if err := create(lease); err != nil {
		if lease != nil {
			r.give(j.Kind)
		}
		return err
	}
	r.Hints.Publish(bus.Hint{Project: j.Project, Kind: bus.Job, ID: j.ID})
	if lease == nil {
		r.hint()
		return nil
	}
	own := *j // The caller goes on reading j.
	r.start(store.ClaimedJob{Job: &own, Lease: *lease})
	return nil
}

// Begin stores a foreground job and starts it. Nobody's place is taken for it, since
// a client waits; and for the same reason it runs while it is being stored, though
// nothing of it is told before it is. If the process dies it is run again like a
// background job.
func (r *Runner) Begin(ctx context.Context, j *ringback.Job) error {
	now := r.Now()
	j.Created, j.Updated = now, now
	lease := r.born(j, now)
	b := &birth{done: make(chan struct{})}
	own := *j // The caller goes on reading j.
	r.runs.Go(func() { r.run(store.ClaimedJob{Job: &own, Lease: lease}, b) })
	if b.err = r.Store.CreateJob(ctx, j, &lease); b.err != nil {
		r.stop(j.ID, errLost)
	}
	close(b.done)
	return b.err
}

// birth is the storing of a job that runs already. A nil birth is over.
type birth struct {
	done chan struct{}
	err  error // Set before done is closed.
}

func (b *birth) wait() error {
	if b == nil {
		return nil
	}
	<-b.done
	return b.err
}

func (b *birth) over() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// birth is that of a job under way.
func (r *Runner) birth(id ringback.ID) *birth {
	r.mu.Lock()
	defer r.mu.Unlock()
	if under := r.running[id]; under != nil {
		return under.birth
	}
	return nil
}

// Do stores a foreground job, runs it in the caller's goroutine and returns it
// as it ended. When ctx ends first the job is cancelled: nobody waits for it.
func (r *Runner) Do(ctx context.Context, j *ringback.Job) (*ringback.Job, error) {
	now := r.Now()
	j.Created, j.Updated = now, now
	lease := r.born(j, now)
	if err := r.Store.CreateJob(ctx, j, &lease); err != nil {
		return nil, err
	}
	runCtx, done := r.enter(ctx, j.ID, lease.Token, nil)
	defer done()
	res, err := r.execute(runCtx, j, lease)
	if err != nil {
		if !errors.Is(context.Cause(runCtx), context.Canceled) {
			r.release(j, lease, err)
			return nil, fmt.Errorf("run job %s: %w", j.ID, err)
		}
		res = Result{State: ringback.Cancelled}
	}
	r.end(context.WithoutCancel(ctx), j, lease, res)
	return r.Store.Job(context.WithoutCancel(ctx), j.Project, j.ID)
}

// DoUnstored runs an interaction that leaves nothing behind: no row, no event. If
// it is a stream, tell is called with the events of its steps; an error of tell
// ends the run.
func (r *Runner) DoUnstored(ctx context.Context, j *ringback.Job, tell func(*genai.InteractionEvent) error) (*ringback.Job, error) {
	now := r.Now()
	j.Created, j.Started = now, now
	res, err := r.guarded(j, func() (Result, error) { return r.runInteraction(ctx, j, ringback.Lease{}, tell) })
	if err != nil {
		return nil, err
	}
	j.Ended = r.Now()
	j.Updated, j.State, j.Output, j.Failure = j.Ended, res.State, res.Output, res.Failure
	return j, nil
}

// Cancel ends a job as cancelled, wherever it runs, and returns it. Errors:
// NotFound; FailedPrecondition when it has ended already.
func (r *Runner) Cancel(ctx context.Context, project, id ringback.ID) (*ringback.Job, error) {
	j, err := r.Store.Job(ctx, project, id)
	if err != nil {
		return nil, err
	}
	end := &store.End{State: ringback.Cancelled, At: r.Now()}
	if j.Kind == ringback.KindVideo { // Its event is video.failed, which should say why.
		end.Failure = &ringback.Failure{Code: "CANCELLED", Message: "the video was cancelled"}
	}
	if err := r.Emit.EndJob(ctx, j, nil, end); err != nil {
		return nil, err
	}
	r.stop(id, errCancelled)
	r.ended(id)
	return r.Store.Job(ctx, project, id)
}

// CancelBatch asks a batch to end, wherever it runs; what is finished by then is
// kept. It may have ended already.
func (r *Runner) CancelBatch(ctx context.Context, project, id ringback.ID) error {
	if err := r.Store.CancelBatch(ctx, project, id, r.Now()); err != nil {
		return err
	}
	r.stop(id, errCancelled)
	r.hint()
	return nil
}

// Delete removes a job and stops it if it runs.
func (r *Runner) Delete(ctx context.Context, project, id ringback.ID) error {
	j, err := r.Store.Job(ctx, project, id)
	if err != nil {
		return err
	}
	if err := r.Store.DeleteJob(ctx, project, id); err != nil {
		return err
	}
	r.stop(id, errLost)
	r.ended(id)
	r.abandon(j)
	return nil
}

// ended tells those who follow a job's stream that there may be no more of it.
func (r *Runner) ended(job ringback.ID) { r.Hints.PublishPart(job, bus.Part{}) }

// stop cuts off a run in this process, if there is one.
func (r *Runner) stop(id ringback.ID, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if under := r.running[id]; under != nil {
		under.cancel(why)
	}
}

// born marks a job as created with its first lease.
func (r *Runner) born(j *ringback.Job, now time.Time) ringback.Lease {
	j.State, j.Started, j.Runs = ringback.Running, now, 1
	return ringback.Lease{Node: r.Node, Token: 1, Until: now.Add(r.Lease)}
}

// take reserves a place to run a background job.
func (r *Runner) take(k ringback.Kind) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.open || r.taken[k] >= r.places(k) {
		return false
	}
	r.taken[k]++
	return true
}

// give returns a place, and looks for a waiting job if all were taken.
func (r *Runner) give(k ringback.Kind) {
	r.mu.Lock()
	full := r.taken[k] >= r.places(k)
	r.taken[k]--
	r.mu.Unlock()
	if full {
		r.hint()
	}
}

// retake takes a place for a job that had one and gave it while it waited. For a
// moment a few more may run.
func (r *Runner) retake(k ringback.Kind) {
	r.mu.Lock()
	r.taken[k]++
	r.mu.Unlock()
}

// Jump has the runner look at once for all that a clock brings, after Now was set
// forward.
func (r *Runner) Jump() {
	select {
	case r.jump <- struct{}{}:
	default:
	}
}

func (r *Runner) hint() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// claim starts due jobs, as many as there are free places when it begins. Jobs
// that are submitted meanwhile keep the fast path, so for a moment a few more
// may run.
func (r *Runner) claim(ctx context.Context) {
	for _, k := range kinds {
		r.mu.Lock()
		places := r.places(k) - r.taken[k]
		r.mu.Unlock()
		if places <= 0 {
			continue
		}
		now := r.Now()
		claimed, err := r.Store.ClaimJobs(ctx, k, r.Node, now, now.Add(r.Lease), places)
		if err != nil {
			if ctx.Err() == nil {
				r.Log.Error("claim jobs", "kind", k, "error", err)
			}
			continue
		}
		r.mu.Lock()
		r.taken[k] += len(claimed)
		r.mu.Unlock()
		for _, c := range claimed {
			r.start(c)
		}
	}
}

// tellStalls records for each job that has been under way for too long that it
// does not move, once. The job goes on: it may still end.
func (r *Runner) tellStalls(ctx context.Context) {
	const some = 100
	for {
		now := r.Now()
		stalled, err := r.Store.StalledJobs(ctx, now.Add(-r.StallAfter), some)
		for _, j := range stalled {
			if err = r.Emit.Stalled(ctx, j, now); err == nil {
				r.Log.Warn("job stalled", "job", j.ID, "kind", j.Kind, "state", j.State, "created", j.Created)
			} else if code := ringback.CodeOf(err); code == ringback.NotFound || code == ringback.FailedPrecondition {
				err = nil // It ended or was deleted just now.
			} else {
				break
			}
		}
		if err != nil && ctx.Err() == nil {
			r.Log.Error("tell of stalled jobs", "error", err)
		}
		if err != nil || len(stalled) < some {
			return
		}
	}
}

// renew prolongs the leases of everything that runs here and stops what is no
// longer ours.
func (r *Runner) renew(ctx context.Context) {
	r.mu.Lock()
	held := make([]store.Held, 0, len(r.running))
	for id, j := range r.running {
		if j.birth == nil || j.birth.over() {
			held = append(held, store.Held{ID: id, Token: j.token})
		}
	}
	r.mu.Unlock()
	if len(held) == 0 {
		return
	}
	lost, err := r.Store.RenewJobs(ctx, held, r.Now().Add(r.Lease))
	if err != nil {
		if ctx.Err() == nil {
			r.Log.Error("renew the leases of jobs", "error", err)
		}
		return
	}
	r.mu.Lock()
	for _, id := range lost {
		if j := r.running[id]; j != nil {
			j.cancel(errLost)
		}
	}
	r.mu.Unlock()
}

// start runs a claimed job, for which a place was taken, in a goroutine.
func (r *Runner) start(c store.ClaimedJob) {
	r.runs.Go(func() {
		defer r.give(c.Kind)
		r.run(c, nil)
	})
}

// run runs a claimed job to its end, or until it is cut off.
func (r *Runner) run(c store.ClaimedJob, b *birth) {
	ctx, done := r.enter(context.Background(), c.ID, c.Lease.Token, b)
	defer done()
	crash.At(crash.JobClaimed)
	res, err := r.execute(ctx, c.Job, c.Lease)
	if b.wait() != nil {
		return // There is no such job; its client was told.
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // What failed since, failed because of that.
		}
		r.release(c.Job, c.Lease, err)
		return
	}
	if r.end(r.cutOff, c.Job, c.Lease, res) && res.after != nil {
		res.after()
	}
}

// enter lists a run, so that it is renewed and can be cancelled.
func (r *Runner) enter(parent context.Context, id ringback.ID, token int64, b *birth) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	r.mu.Lock()
	r.running[id] = &underWay{token: token, cancel: cancel, birth: b}
	r.mu.Unlock()
	return ctx, func() {
		r.mu.Lock()
		delete(r.running, id)
		r.mu.Unlock()
		cancel(nil)
	}
}

// execute runs a job by its kind. An error means that the run was cut off and
// says nothing about the job.
func (r *Runner) execute(ctx context.Context, j *ringback.Job, lease ringback.Lease) (Result, error) {
	return r.guarded(j, func() (Result, error) { return r.byKind(ctx, j, lease) })
}

// guarded makes a failure of a panic.
func (r *Runner) guarded(j *ringback.Job, run func() (Result, error)) (res Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.Log.Error("panic in a job", "job", j.ID, "panic", p, "stack", string(debug.Stack()))
			res, err = failure(brokenCode(j.Kind), "an internal error ended the job"), nil
		}
	}()
	return run()
}

func (r *Runner) byKind(ctx context.Context, j *ringback.Job, lease ringback.Lease) (Result, error) {
	if j.Runs > maxRuns {
		return failure(brokenCode(j.Kind), fmt.Sprintf("given up after %d runs that were cut off", maxRuns)), nil
	}
	switch j.Kind {
	case ringback.KindInteraction:
		return r.runInteraction(ctx, j, lease, nil)
	case ringback.KindBatch:
		return r.runBatch(ctx, j, lease)
	case ringback.KindVideo:
		return r.runVideo(ctx, j, lease)
	default:
		return failure("api_error", fmt.Sprintf("this version can't run jobs of kind %q", j.Kind)), nil
	}
}

// brokenCode is the code of a failure that is ours, in the vocabulary of a kind's
// surface.
func brokenCode(k ringback.Kind) string {
	if k == ringback.KindInteraction {
		return "api_error"
	}
	return "INTERNAL"
}

func failure(code, message string) Result {
	return Result{State: ringback.Failed, Failure: &ringback.Failure{Code: code, Message: message}}
}

// end records how a job ended. What the job produced was paid for: while the
// store can't take it (a full disk), it is kept in memory and tried again, under
// a lease that goes on being renewed. It reports whether the end is stored.
func (r *Runner) end(ctx context.Context, j *ringback.Job, lease ringback.Lease, res Result) bool {
	e := &store.End{State: res.State, Output: res.Output, Failure: res.Failure, Files: res.Files, Blob: res.Blob, Rows: res.Rows, Garbage: res.Garbage, At: r.Now()}
	var err error
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err = r.Emit.EndJob(context.WithoutCancel(ctx), j, &lease, e)
		if code := ringback.CodeOf(err); code != ringback.StorageFull && code != ringback.Unavailable {
			break
		}
		r.Log.Error("the end of a job can't be stored yet; it is kept and tried again", "job", j.ID, "again_in", wait, "error", err)
		select {
		case <-time.After(wait):
			continue
		case <-ctx.Done():
		}
		break
	}
	r.ended(j.ID)
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("job", string(j.ID)), slog.String("kind", string(j.Kind)), slog.String("model", j.Model),
		slog.String("state", string(res.State)), slog.Int("run", j.Runs), slog.Duration("took", e.At.Sub(j.Started)),
	}
	if res.Rows.Total > 0 {
		attrs = append(attrs, slog.Int64("rows", res.Rows.Total), slog.Int64("failed_rows", res.Rows.Failed), slog.Int64("rows_not_run", res.Rows.Pending()))
	}
	if res.Failure != nil {
		attrs = append(attrs, slog.String("code", res.Failure.Code), slog.String("message", res.Failure.Message))
	}
	switch ringback.CodeOf(err) {
	case "":
		if err != nil {
			level, attrs = slog.LevelError, append(attrs, slog.Any("not_recorded", err))
		}
	case ringback.Stale, ringback.FailedPrecondition, ringback.NotFound:
		// Cancelled, deleted or claimed by another meanwhile: not ours to end.
		if errors.Is(err, ringback.NotFound) {
			r.discard(&res)
		}
		attrs = append(attrs, slog.String("dropped", err.Error()))
	default:
		level, attrs = slog.LevelError, append(attrs, slog.Any("not_recorded", err))
	}
	r.Log.LogAttrs(ctx, level, "job", attrs...)
	return err == nil
}

// discard removes what a job made that was deleted meanwhile.
func (r *Runner) discard(res *Result) {
	var keys []string
	if res.Blob != "" {
		keys = append(keys, res.Blob)
	}
	for i := range res.Files {
		keys = append(keys, res.Files[i].Blob)
	}
	for _, key := range keys {
		if err := r.Blobs.Delete(context.Background(), key); err != nil {
			r.Log.Error("remove the output of a deleted job", "error", err)
		}
	}
}

// again is how long a job rests after a run that met a broken machine.
const again = 5 * time.Second

// release gives a job back after a run that was cut off. A stop of ours doesn't
// count as a run.
func (r *Runner) release(j *ringback.Job, lease ringback.Lease, why error) {
	due, uncount := r.Now(), true
	var wait *later
	if errors.As(why, &wait) {
		due = wait.due
	} else if !errors.Is(why, errStopping) && !errors.Is(why, errLost) && !errors.Is(why, errCancelled) {
		due, uncount = due.Add(again), false
		r.Log.Error("a job could not be run; it is tried again", "job", j.ID, "kind", j.Kind, "run", j.Runs, "again_in", again, "error", why)
	}
	held := []store.Held{{ID: j.ID, Token: lease.Token}}
	if err := r.Store.ReleaseJobs(context.Background(), held, due, uncount); err != nil {
		r.Log.Error("give back job", "job", j.ID, "error", err)
	}
}

// untilStored repeats a write that the store can't take just now.
func (r *Runner) untilStored(ctx context.Context, what string, job ringback.ID, write func() error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := write()
		if code := ringback.CodeOf(err); code != ringback.StorageFull && code != ringback.Unavailable {
			return err
		}
		r.Log.Error(what+" can't be stored yet; it is kept and tried again", "job", job, "again_in", wait, "error", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
