package work

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/spare"
	"ringback.dev/internal/store"
)

// A batch goes through three steps, each of which can be cut off anywhere:
//
//  1. Its input is read through and split into shards (plan). Nothing has run yet.
//  2. Shards are claimed and their rows run (feed). A finished row is recorded in
//     the journal of its shard; it is not run again from then on.
//  3. When no shard is left, or the batch was cancelled or has expired, the output
//     is written in the order of the input (assemble), and the job ends.
const (
	// shardRows and shardBytes bound a shard.
	shardRows  = 500
	shardBytes = 4 << 20
	// claimAhead is how many shards are claimed at a time.
	claimAhead = 4
	// openRows and openBytes bound the rows of a batch that are begun and not yet
	// recorded: what a crash may have to run again, and what is in memory.
	openRows  = 256
	openBytes = 64 << 20
	// look is how often the store is asked whether a batch was cancelled.
	look = time.Second
)

var errExpired = errors.New("the batch has expired")

// batchRun is a batch under way in this process.
type batchRun struct {
	*Runner
	job   *ringback.Job
	lease ringback.Lease
	batch *ringback.Batch
	input blob.Reader
	look  time.Duration // How often the store is asked whether it was cancelled.
	// failure is why the batch fails as a whole, or expires, if a provider says so.
	failure *ringback.Failure

	priority atomic.Int64
	journal  *journal
	bytes    *semaphore.Weighted // Of rows that are open.
	rows     sync.WaitGroup
}

// runBatch runs a batch. The error is not nil only when the run was cut off.
func (r *Runner) runBatch(ctx context.Context, j *ringback.Job, lease ringback.Lease) (Result, error) {
	b, err := r.Store.Batch(ctx, j.Project, j.ID)
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := &batchRun{Runner: r, job: j, lease: lease, batch: b, look: look, bytes: semaphore.NewWeighted(openBytes)}
	up, model := r.upstream(j.Model)
	handed := j.Checkpoint != nil // To a provider, by an earlier run.
	if !handed && b.Rows.Succeeded+b.Rows.Failed > 0 {
		up = nil // Rows were run here.
	}
	if handed || up != nil {
		x.look = upstreamLook
	}
	x.priority.Store(b.Priority)
	x.input, err = r.Blobs.Open(ctx, b.InputBlob)
	if errors.Is(err, ringback.NotFound) {
		return failure("NOT_FOUND", "the input file is gone"), nil
	}
	if err != nil {
		return Result{}, err
	}
	defer x.closeInput()

	var watching sync.WaitGroup
	defer watching.Wait()
	watched, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	if !b.Cancelled.IsZero() {
		cancel(errCancelled) // Before anything is begun.
	}
	watching.Go(func() { x.watch(watched, cancel) })

	if !b.Planned && b.Cancelled.IsZero() {
		failed, err := x.plan(ctx)
		if err != nil && ctx.Err() == nil {
			return Result{}, err
		}
		if failed != nil {
			return Result{State: ringback.Failed, Failure: failed}, nil
		}
	}
	switch {
	case up != nil:
		return x.runUpstream(ctx, up, model)
	case handed:
		return x.strand(ctx)
	}
	err = x.runShards(ctx, cancel)
	state := ringback.Completed
	switch {
	case err == nil:
	case errors.Is(err, errCancelled):
		state = ringback.Cancelled
	case errors.Is(err, errExpired):
		state = ringback.Expired
	default:
		return Result{}, err
	}
	// Whatever ended the run, its results are paid for.
	return x.assemble(context.WithoutCancel(ctx), state)
}

// watch cancels the run when the client asked for it or its time is over, and
// follows the batch's priority.
func (x *batchRun) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	if !x.batch.Cancelled.IsZero() {
		cancel(errCancelled)
		return
	}
	tick := time.NewTicker(x.look)
	defer tick.Stop()
	for {
		if !x.Now().Before(x.batch.Expires) {
			cancel(errExpired)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b, err := x.Store.Batch(ctx, x.job.Project, x.job.ID)
		switch {
		case errors.Is(err, ringback.NotFound):
			cancel(errLost) // It was deleted.
			return
		case err != nil:
			continue // The next look will tell.
		case !b.Cancelled.IsZero():
			cancel(errCancelled)
			return
		}
		x.priority.Store(b.Priority)
	}
}

// plan reads and checks the whole input and splits it into shards. A bad line is
// its row's error, to be told when it is its turn; an input without one good line
// is the batch's.
func (x *batchRun) plan(ctx context.Context) (*ringback.Failure, error) {
	if _, err := x.input.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var p planned
	checks, checking := errgroup.WithContext(ctx)
	checks.SetLimit(runtime.GOMAXPROCS(0))
	lines := newLineReader(x.input, 0, 0, x.MaxRow)
	var shards []ringback.Shard
	var cur *ringback.Shard
	var block []inputLine // Lines to be checked together.
	size := 0
	check := func() {
		lines := block
		block, size = nil, 0
		checks.Go(func() error {
			p.check(x, lines)
			return context.Cause(checking)
		})
	}
	var readErr error
	for checking.Err() == nil {
		line, err := lines.next()
		if err != nil {
			if err != io.EOF {
				readErr = fmt.Errorf("input of batch %s: %w", x.job.ID, err)
			}
			break
		}
		if cur == nil || cur.Rows == shardRows || line.offset+line.length-cur.Offset > shardBytes {
			first := int64(0)
			if cur != nil {
				first = cur.First + int64(cur.Rows)
			}
			shards = append(shards, ringback.Shard{Number: len(shards), First: first, Line: line.number, Offset: line.offset})
			cur = &shards[len(shards)-1]
		}
		cur.Rows++
		cur.Length = line.offset + line.length - cur.Offset
		line.text = bytes.Clone(line.text)
		block = append(block, line)
		if size += len(line.text); size > 256<<10 {
			check()
		}
	}
	check()
	if err := errors.Join(checks.Wait(), readErr); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if cur == nil {
		p.bad = errNoRows
	}
	if p.good == 0 {
		return &ringback.Failure{Code: "INVALID_ARGUMENT", Message: fmt.Sprintf("the input has no valid request; %v", p.bad)}, nil
	}
	if p.bad != nil {
		x.Log.Warn("the input of a batch has bad lines; each is told in its row's result", "batch", x.job.ID, "good", p.good, "bad", cur.First+int64(cur.Rows)-p.good, "first", p.bad)
	}
	err := x.untilStored(ctx, "the plan of a batch", func() error { return x.Store.PlanBatch(ctx, x.job.ID, x.lease, shards) })
	crash.At(crash.BatchPlanned)
	return nil, err
}

// planned is what the check of an input found.
type planned struct {
	mu   sync.Mutex
	good int64
	bad  error // That of the first bad line.
	line int64 // Its number.
}

func (p *planned) check(x *batchRun, lines []inputLine) {
	good := int64(0)
	for i := range lines {
		_, err := x.parseSpare(&lines[i])
		if err == nil {
			good++
			continue
		}
		p.mu.Lock()
		if p.bad == nil || lines[i].number < p.line {
			p.bad, p.line = err, lines[i].number
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	p.good += good
	p.mu.Unlock()
}

func (x *batchRun) untilStored(ctx context.Context, what string, write func() error) error {
	return x.Runner.untilStored(ctx, what, x.job.ID, write)
}

// runShards claims shards and runs their rows until none is left. It returns why
// it was cut off, if it was; what was finished is recorded in any case.
func (x *batchRun) runShards(ctx context.Context, cancel context.CancelCauseFunc) error {
	x.journal = newJournal(x)
	var journal sync.WaitGroup
	journal.Go(func() { x.journal.run(context.WithoutCancel(ctx), cancel) })
	err := x.feed(ctx)
	x.rows.Wait()
	x.journal.close()
	journal.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx) // What failed since, failed because of that.
	}
	if held := x.journal.held(); len(held) > 0 {
		if e := x.Store.RenewShards(context.WithoutCancel(ctx), x.job.ID, held, x.Now()); e != nil {
			x.Log.Error("give back shards", "batch", x.job.ID, "error", e) // Their leases run out.
		}
	}
	return err
}

// feed starts rows, in the order of the input, as fast as they may run. It returns
// when every shard is done.
func (x *batchRun) feed(ctx context.Context) error {
	renew := time.NewTicker(x.Lease / 3)
	defer renew.Stop()
	for {
		now := x.Now()
		var shards []store.ClaimedShard
		err := x.untilStored(ctx, "the claim of a shard", func() (err error) {
			shards, err = x.Store.ClaimShards(ctx, x.job.ID, x.Node, now, now.Add(x.Lease), claimAhead)
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return err
		}
		for i := range shards {
			x.journal.open(&shards[i])
		}
		for i := range shards {
			if err := x.shard(ctx, &shards[i], renew.C); err != nil {
				return err
			}
		}
		if len(shards) > 0 {
			continue
		}
		left, err := x.left(ctx)
		if err != nil || !left {
			return err
		}
		// Rows are still under way, here or elsewhere.
		select {
		case <-x.journal.shardDone:
		case <-renew.C:
			x.renewShards(ctx)
		case <-time.After(poll):
		case <-x.halt:
			return errStopping
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// left reports whether a shard is not done.
func (x *batchRun) left(ctx context.Context) (bool, error) {
	all, err := x.Store.Shards(ctx, x.job.ID)
	if err != nil {
		return true, err
	}
	for _, s := range all {
		if !s.Done {
			return true, nil
		}
	}
	return false, nil
}

func (x *batchRun) renewShards(ctx context.Context) {
	if err := x.Store.RenewShards(ctx, x.job.ID, x.journal.held(), x.Now().Add(x.Lease)); err != nil && ctx.Err() == nil {
		x.Log.Error("renew the leases of shards", "batch", x.job.ID, "error", err)
	}
}

// shard starts the rows of a shard that have no result yet.
func (x *batchRun) shard(ctx context.Context, s *store.ClaimedShard, renew <-chan time.Time) error {
	have, err := x.Store.ShardRows(ctx, x.job.ID, s.Number)
	if err != nil {
		return err
	}
	recorded, err := readGroups(have)
	if err != nil {
		return fmt.Errorf("journal of batch %s: %w", x.job.ID, err)
	}
	if len(recorded) == s.Rows {
		return nil // It can't be: the last group marks the shard as done.
	}
	x.journal.expect(s.Number, s.Rows-len(recorded))
	section := io.NewSectionReader(x.input, s.Offset, s.Length)
	lines := newLineReader(section, s.Offset, s.Line-1, x.MaxRow)
	for i := range s.Rows {
		line, err := lines.next()
		if err != nil {
			return fmt.Errorf("input of batch %s, row %d of shard %d: %w", x.job.ID, i, s.Number, err)
		}
		if _, ok := recorded[i]; ok {
			continue
		}
		weight := min(int64(len(line.text))+1, openBytes)
		if err := x.begin(ctx, weight, renew); err != nil {
			return err
		}
		r, bad := x.parseSpare(&line)
		x.rows.Go(func() { x.row(ctx, s.Number, i, weight, r, bad) })
	}
	return nil
}

// parseSpare parses a row when a processor can be spared.
func (x *batchRun) parseSpare(line *inputLine) (r *row, err error) {
	spare.Do(func() { r, err = parseRow(line, x.job.Model, x.batch) })
	return r, err
}

// begin waits until a further row may be open.
func (x *batchRun) begin(ctx context.Context, weight int64, renew <-chan time.Time) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-x.halt:
			return errStopping
		default:
		}
		select {
		case x.journal.places <- struct{}{}:
			if err := x.bytes.Acquire(ctx, weight); err != nil {
				<-x.journal.places
				return context.Cause(ctx)
			}
			return nil
		case <-renew:
			x.renewShards(ctx)
		case <-x.halt:
			return errStopping
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// row runs one row and gives its result to the journal.
func (x *batchRun) row(ctx context.Context, shard, number int, weight int64, r *row, bad error) {
	turn := func() backend.Turn { return backend.Turn{Batch: string(x.job.ID), Priority: x.priority.Load()} }
	line, failed, err := x.answer(ctx, r, bad, turn)
	if err != nil {
		x.journal.drop(weight) // Cut off: the next run does it again.
		return
	}
	x.journal.add(shard, number, line, failed, weight)
}

// answer gets the line of a row: its response or its error.
func (x *batchRun) answer(ctx context.Context, r *row, bad error, turn func() backend.Turn) ([]byte, bool, error) {
	if bad != nil {
		line, err := r.result(nil, &genai.RowError{Code: grpcInvalidArgument, Message: bad.Error()})
		return line, true, err
	}
	response, failed, err := r.run(ctx, x.Backend, x.job.Project, x.job.Model, turn, x.RowWait)
	if err != nil {
		return nil, false, err
	}
	var line []byte
	spare.Do(func() { line, err = r.result(response, failed) })
	return line, failed != nil, err
}
