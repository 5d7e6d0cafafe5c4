package work

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/spare"
)

// A batch whose back-end takes whole batches is handed over after it was planned.
// It then goes through these steps, each of which is noted (handover) before the
// next one begins:
//
//  1. Its good rows are uploaded under the numbers that they have in the input
//     (upload). A file that an earlier run uploaded is found by its name.
//  2. The batch is created there (create). An earlier run may have done it and been
//     cut off before it could note that, so the provider's list is searched first.
//  3. The provider is asked after it until it has ended (follow), at once when it
//     calls, less and less often otherwise.
//  4. Its results are fetched into a blob of ours (fetch); from then on the provider
//     is not needed.
//  5. They are recorded in the journals of the shards (record), as if the rows had
//     been run here; then the output is written, and the job ends, as for any batch.
//
// While it waits, a run keeps its lease and nothing else: neither a place nor a
// file. A cancelled batch is cancelled there, and what it has finished is fetched.
const (
	// upstreamLook is how often the store is asked whether such a batch was cancelled
	// elsewhere; here it is told.
	upstreamLook = 10 * time.Second
	// minAsk is the time between two questions, whoever calls.
	minAsk = 250 * time.Millisecond
	// goneAfter is how long a provider may deny that it knows a batch: its key may
	// have been changed by mistake.
	goneAfter = 10 * time.Minute
	// endWithin is how long a provider may take to cancel a batch.
	endWithin = 5 * time.Minute
	// searches is how often its list is searched: a batch may take a moment to be in
	// it.
	searches = 4
)

// handover is the note of a run that hands a batch over.
type handover struct {
	// File holds the rows, at the provider.
	File string `json:"file,omitempty"`
	// Secret is in the address that the provider calls; empty if it has none.
	Secret string `json:"secret,omitempty"`
	// Batch is its name at the provider, where it is since Created.
	Batch   string    `json:"batch,omitempty"`
	Created time.Time `json:"created,omitzero"`
	// Ended is how it ended there.
	Ended *upstreamEnd `json:"ended,omitempty"`
}

type upstreamEnd struct {
	State   ringback.State    `json:"state"`
	Results string            `json:"results,omitempty"`
	Failure *ringback.Failure `json:"failure,omitempty"`
}

// upstreamRun is a batch that is handed over, under way in this process.
type upstreamRun struct {
	*batchRun
	up    backend.BatchUpstream
	model string // As the provider knows it.
	note  handover
	// resumed: the note is an earlier run's.
	resumed bool
	total   int64 // Rows.
	hints   <-chan struct{}
}

// upstream returns the provider that takes the batches of a model, nil if there is
// none.
func (r *Runner) upstream(model string) (backend.BatchUpstream, string) {
	if u, ok := r.Backend.(backend.Upstreams); ok {
		return u.Upstream(model)
	}
	return nil, ""
}

// upstreamName is what a batch's file of rows is called at the provider.
func upstreamName(id ringback.ID) string { return "rb" + string(id) }

// resultsBlob is the key of the results that were fetched.
func resultsBlob(id ringback.ID) string { return "upstream-" + string(id) }

// runUpstream runs a batch that was planned. ctx ends with errCancelled or
// errExpired when it is to end early. The error is not nil only when the run was cut
// off.
func (x *batchRun) runUpstream(ctx context.Context, up backend.BatchUpstream, model string) (Result, error) {
	u := &upstreamRun{batchRun: x, up: up, model: model}
	if x.job.Checkpoint != nil {
		if err := json.Unmarshal(x.job.Checkpoint, &u.note); err != nil {
			return Result{}, fmt.Errorf("note of batch %s: %w", x.job.ID, err)
		}
		u.resumed = true
	}
	shards, err := x.Store.Shards(context.WithoutCancel(ctx), x.job.ID)
	if err != nil {
		return Result{}, err
	}
	for _, s := range shards {
		u.total += int64(s.Rows)
	}
	// What was begun is brought to its end whoever wants it no more; only a stop whose
	// time is over cuts it off.
	hard, done := context.WithCancel(context.WithoutCancel(ctx))
	defer done()
	defer context.AfterFunc(x.cutOff, done)()

	state := ringback.Completed
	err = u.hand(ctx, hard)
	var refused *backend.Error
	switch early := endsEarly(err); {
	case err == nil:
		state, err = u.follow(ctx, hard)
	case errors.As(err, &refused): // For good.
		u.note.Ended = &upstreamEnd{State: ringback.Failed, Failure: &ringback.Failure{Code: failureCodes[refused.Kind], Message: refused.Message}}
		state, err = ringback.Failed, nil
	case early != "":
		state = early
		if err = u.recall(hard); err == nil && u.note.Batch != "" {
			_, err = u.follow(ctx, hard)
		}
	}
	if err == nil && u.note.Ended != nil && u.note.Ended.Results != "" {
		if err = u.fetch(hard); err == nil {
			err = u.record(hard)
		}
	}
	if err != nil {
		return Result{}, cutOff(hard, err)
	}
	res, err := u.conclude(ctx, state)
	res.Garbage = []string{resultsBlob(x.job.ID)}
	res.after = func() { r, note := x.Runner, u.note; r.remove(up, &note) }
	return res, err
}

// failureCodes are the codes of a batch that a provider refuses.
var failureCodes = map[backend.Kind]string{backend.InvalidRequest: "INVALID_ARGUMENT", backend.ModelNotFound: "NOT_FOUND"}

// endsEarly is the state of a batch that ends for such a reason, "" if it doesn't.
func endsEarly(why error) ringback.State {
	switch {
	case errors.Is(why, errCancelled):
		return ringback.Cancelled
	case errors.Is(why, errExpired):
		return ringback.Expired
	}
	return ""
}

// cutOff is the reason for the end of a run whose context has ended.
func cutOff(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return errStopping
	}
	return err
}

// strand waits with a batch that was handed to a provider that the configuration
// does not know any more: to run its rows here would be to pay for them twice.
func (x *batchRun) strand(ctx context.Context) (Result, error) {
	x.Log.Error("a batch was handed over to a back-end that takes batches no more; it waits until the server is started with backends and models as they were, or the batch is cancelled or expires",
		"batch", x.job.ID, "model", x.job.Model)
	x.give(ringback.KindBatch)
	defer x.retake(ringback.KindBatch)
	select {
	case <-ctx.Done():
	case <-x.halt:
		return Result{}, errStopping
	}
	if early := endsEarly(context.Cause(ctx)); early != "" {
		return x.assemble(context.WithoutCancel(ctx), early)
	}
	return Result{}, context.Cause(ctx)
}

// conclude writes the output, unless nothing came of a batch that failed.
func (u *upstreamRun) conclude(ctx context.Context, state ringback.State) (Result, error) {
	ctx = context.WithoutCancel(ctx)
	if end := u.note.Ended; end != nil && state == end.State && state != ringback.Cancelled {
		if u.failure = end.Failure; state == ringback.Failed && end.Results == "" {
			return Result{State: state, Failure: end.Failure, Rows: ringback.RowCounts{Total: u.total}}, nil
		}
	}
	if err := u.openInput(ctx); err != nil {
		return Result{}, err
	}
	return u.assemble(ctx, state)
}

// save notes how far the run is.
func (u *upstreamRun) save(ctx context.Context) error {
	text, err := json.Marshal(&u.note)
	if err != nil {
		return err
	}
	err = u.untilStored(ctx, "the note of a batch", func() error { return u.Store.Checkpoint(ctx, u.job.ID, u.lease, text, 0) })
	if errors.Is(err, ringback.Stale) {
		return errLost
	}
	return err
}

// hand uploads the rows and has the batch created, as far as that is not done.
func (u *upstreamRun) hand(ctx, hard context.Context) error {
	for u.note.Batch == "" {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		search := u.note.File != ""
		if !search {
			if err := u.upload(ctx); err != nil {
				return err
			}
		}
		err := u.create(ctx, hard, search)
		var refused *backend.Error
		if errors.As(err, &refused) && search && u.resumed {
			// The file may have expired since it was uploaded.
			u.Log.Warn("the provider refuses a batch that an earlier run prepared; its rows are uploaded again", "batch", u.job.ID, "error", err)
			u.note, u.resumed = handover{}, false
			continue
		}
		return err
	}
	return nil
}

// upload brings the good rows to the provider and notes where they are.
func (u *upstreamRun) upload(ctx context.Context) error {
	err := u.patiently(ctx, "the upload of the rows of a batch", func() error {
		r, w := io.Pipe()
		var writing sync.WaitGroup
		var broken error
		writing.Go(func() {
			broken = u.writeRows(ctx, w)
			w.CloseWithError(broken)
		})
		file, err := u.up.UploadRows(ctx, upstreamName(u.job.ID), r)
		_ = r.Close() // It never fails; what is not wanted is not written.
		writing.Wait()
		if err == nil {
			u.note.File = file
		} else if broken != nil && !errors.Is(broken, io.ErrClosedPipe) {
			err = broken
		}
		return err
	})
	if err != nil {
		return err
	}
	crash.At(crash.UpstreamUploaded)
	if u.HookURL != "" {
		u.note.Secret = rand.Text()
	}
	if err := u.save(ctx); err != nil {
		return err
	}
	crash.At(crash.UpstreamPrepared)
	return nil
}

// writeRows writes the good rows of the input for the provider. The bad ones are not
// its affair: record tells of them.
func (u *upstreamRun) writeRows(ctx context.Context, to io.Writer) error {
	w := bufio.NewWriterSize(to, 256<<10)
	lines := newLineReader(io.NewSectionReader(u.input, 0, 1<<62), 0, 0, u.MaxRow)
	var text []byte
	for number := int64(0); ; number++ {
		line, err := lines.next()
		if err == io.EOF {
			return w.Flush()
		}
		if err != nil {
			return fmt.Errorf("input of batch %s: %w", u.job.ID, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		spare.Do(func() {
			r, bad := parseRow(&line, u.job.Model, u.batch)
			if text = text[:0]; bad == nil {
				text, err = u.up.AppendRow(text, &backend.UpstreamRow{Number: number, Generate: r.generate, Embed: r.embed})
			}
		})
		if err == nil {
			_, err = w.Write(text)
		}
		if err != nil {
			return err
		}
	}
}

// displayName is what the batch is called at the provider, and found by.
func (u *upstreamRun) displayName() string { return "ringback " + string(u.job.ID) }

// create has the batch created and notes its name. When it is not known whether it
// was created, it is searched for first.
func (u *upstreamRun) create(ctx, hard context.Context, search bool) error {
	q := &backend.UpstreamBatch{Model: u.model, DisplayName: u.displayName(), File: u.note.File, Embed: u.batch.Embed, Priority: u.batch.Priority}
	if u.note.Secret != "" {
		q.Webhook = u.HookURL + string(u.job.ID) + "/" + u.note.Secret
	}
	for try := 0; ; try++ {
		name, err := "", error(nil)
		if search {
			name, err = u.find(ctx)
		}
		if err == nil && name == "" {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if name, err = u.up.CreateBatch(hard, q); err == nil { // Not cut off: it would not be known what came of it.
				crash.At(crash.UpstreamCreated)
			}
		}
		if err == nil {
			return u.created(hard, name)
		}
		var e *backend.Error
		if !errors.As(err, &e) {
			return err
		}
		switch e.Kind {
		case backend.InvalidRequest:
			if q.Webhook == "" {
				return err
			}
			u.Log.Warn("the provider refuses a batch; it is tried without a webhook", "batch", u.job.ID, "error", err)
			q.Webhook, u.note.Secret = "", ""
			continue
		case backend.ModelNotFound:
			return err
		case backend.RateLimited, backend.Unauthorized:
			search = false // It was refused.
		default:
			search = true
		}
		if err := u.tryAgain(ctx, "the creation of a batch", try, e); err != nil {
			return err
		}
	}
}

// created notes that the batch exists at the provider. If the job was deleted
// meanwhile, nobody else knows of it.
func (u *upstreamRun) created(ctx context.Context, name string) error {
	u.note.Batch, u.note.Created = name, u.Now()
	err := u.save(ctx)
	if errors.Is(err, errLost) {
		if _, e := u.Store.Job(ctx, u.job.Project, u.job.ID); errors.Is(e, ringback.NotFound) {
			u.remove(u.up, &u.note)
		}
	}
	if err != nil {
		return err
	}
	crash.At(crash.UpstreamNoted)
	u.Log.Info("batch handed over", "batch", u.job.ID, "model", u.model, "rows", u.total, "as", name, "webhook", u.note.Secret != "")
	return nil
}

// find searches the provider's list for the batch, several times if it is not in it.
func (u *upstreamRun) find(ctx context.Context) (name string, err error) {
	for n := range searches {
		err = u.patiently(ctx, "the search for a batch", func() (err error) {
			name, err = u.up.FindBatch(ctx, u.displayName(), u.job.Created.Add(-time.Hour)) // Clocks differ.
			return err
		})
		if err != nil || name != "" || n == searches-1 {
			return name, err
		}
		if err := u.rest(ctx, time.Second<<n, nil); err != nil {
			return "", err
		}
	}
	return name, err
}

// recall finds out whether a batch that is to end early was created before that
// could be noted.
func (u *upstreamRun) recall(hard context.Context) error {
	if u.note.File == "" || u.note.Batch != "" {
		return nil
	}
	name, err := u.find(hard)
	var refused *backend.Error
	if errors.As(err, &refused) {
		u.Log.Warn("a provider does not tell whether it has a batch that was cancelled", "batch", u.job.ID, "error", err)
		return nil
	}
	if err != nil || name == "" {
		return err
	}
	return u.created(hard, name)
}

// follow asks the provider after the batch until it has ended there, and notes how.
// It returns the state in which ours ends. When ctx ends because the batch is to end
// early, the provider is told, and what it has finished is waited for.
func (u *upstreamRun) follow(ctx, hard context.Context) (ringback.State, error) {
	if end := u.note.Ended; end != nil {
		if early := endsEarly(context.Cause(ctx)); early != "" {
			return early, nil
		}
		return end.State, nil
	}
	u.closeInput()
	u.listen()
	var (
		early       ringback.State
		until, gone time.Time
		told        bool
	)
	for failures := 0; ; {
		if ctx.Err() != nil && early == "" {
			if early = endsEarly(context.Cause(ctx)); early == "" {
				return "", context.Cause(ctx)
			}
			ctx, until = hard, u.Now().Add(endWithin)
		}
		if early != "" && !told {
			err := u.up.CancelBatch(hard, u.note.Batch)
			if told = err == nil; !told {
				u.Log.Warn("the provider can't be told to cancel a batch; it is tried again", "batch", u.job.ID, "error", err)
			}
		}
		status, err := u.up.BatchStatus(hard, u.note.Batch)
		if hard.Err() != nil {
			return "", errStopping
		}
		now := u.Now()
		wait := u.interval(now.Sub(u.note.Created))
		if early != "" {
			wait = min(wait, time.Second)
		}
		switch {
		case err == nil && status.State.Final():
			u.note.Ended = endedThere(status)
			crash.At(crash.UpstreamEnded)
			if early == "" {
				early = u.note.Ended.State
			}
			return early, u.save(hard)
		case err == nil:
			failures, gone = 0, time.Time{}
			if err := u.tell(hard, &status.Rows, now); err != nil {
				return "", err
			}
		case isGone(err) && (early != "" || !gone.IsZero() && now.Sub(gone) > goneAfter):
			u.note.Ended = &upstreamEnd{State: ringback.Failed, Failure: &ringback.Failure{Code: "NOT_FOUND", Message: "the back-end does not know the batch any more"}}
			if early == "" {
				early = ringback.Failed
			}
			return early, nil
		default:
			if isGone(err) && gone.IsZero() {
				gone = now
			}
			wait = max(min(time.Second<<min(failures, 6), time.Minute), backend.AsError(err).RetryAfter)
			failures++
			u.Log.Warn("a provider can't be asked after a batch; it is asked again", "batch", u.job.ID, "again_in", wait, "error", err)
		}
		if early != "" && now.After(until) {
			u.Log.Error("a provider does not end a batch that was cancelled; what it may have finished is lost", "batch", u.job.ID, "as", u.note.Batch)
			return early, nil
		}
		if err := u.rest(ctx, wait, u.hints); err != nil && endsEarly(err) == "" {
			return "", err
		}
	}
}

// endedThere is how a batch ended at the provider.
func endedThere(s *backend.UpstreamStatus) *upstreamEnd {
	end := &upstreamEnd{State: s.State, Results: s.Results, Failure: s.Failure}
	switch {
	case s.State == ringback.Completed && s.Results == "":
		end.State, end.Failure = ringback.Failed, &ringback.Failure{Code: "INTERNAL", Message: "the back-end has ended the batch without results"}
	case s.State == ringback.Failed && s.Failure == nil:
		end.Failure = &ringback.Failure{Code: "INTERNAL", Message: "the back-end does not say why it failed"}
	}
	return end
}

func isGone(err error) bool {
	var e *backend.Error
	return errors.As(err, &e) && e.Kind == backend.ModelNotFound
}

// interval is how long a batch of some age is left alone: a tenth of its age, for
// the time between its end and ours is then no more than that; or a quarter if the
// provider calls.
func (u *upstreamRun) interval(age time.Duration) time.Duration {
	wait := min(max(age/10, time.Second), time.Minute)
	if u.note.Secret != "" {
		wait = min(max(age/4, 5*time.Second), 5*time.Minute)
	}
	return time.Duration(float64(wait) * (0.9 + mathrand.Float64()/5))
}

// tell keeps how the rows fare. Those that were not sent have failed already.
func (u *upstreamRun) tell(ctx context.Context, there *ringback.RowCounts, now time.Time) error {
	rows := ringback.RowCounts{Total: u.total, Succeeded: there.Succeeded, Failed: there.Failed}
	if there.Total > 0 && there.Total <= u.total {
		rows.Failed += u.total - there.Total
	}
	if rows.Pending() < 0 {
		rows = ringback.RowCounts{Total: u.total}
	}
	err := u.Store.FollowBatch(ctx, u.job.ID, u.lease, rows, now)
	switch {
	case errors.Is(err, ringback.Stale):
		return errLost
	case err != nil:
		u.Log.Error("the counts of a batch can't be stored", "batch", u.job.ID, "error", err)
	}
	return nil
}

// patiently repeats what may go better the next time, for as long as it takes.
func (u *upstreamRun) patiently(ctx context.Context, what string, try func() error) error {
	for n := 0; ; n++ {
		err := try()
		var e *backend.Error
		if err == nil || !errors.As(err, &e) || e.Kind == backend.InvalidRequest || e.Kind == backend.ModelNotFound {
			return err
		}
		if err := u.tryAgain(ctx, what, n, e); err != nil {
			return err
		}
	}
}

// tryAgain waits after a failure: a second, then twice as long, and so on up to a
// minute, or for as long as the provider asks for.
func (u *upstreamRun) tryAgain(ctx context.Context, what string, try int, e *backend.Error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wait := max(min(time.Second<<min(try, 6), time.Minute), e.RetryAfter)
	u.Log.Warn(what+" failed; it is tried again", "batch", u.job.ID, "again_in", wait, "error", e)
	return u.rest(ctx, wait, nil)
}

// rest waits for a while, or until a hint comes, and gives its place to another
// batch meanwhile.
func (u *upstreamRun) rest(ctx context.Context, wait time.Duration, hints <-chan struct{}) error {
	u.give(ringback.KindBatch)
	defer u.retake(ringback.KindBatch)
	deaf := min(wait, minAsk)
	for i, d := range []time.Duration{deaf, wait - deaf} {
		heard := hints
		if i == 0 {
			heard = nil // A hint waits in the channel.
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-heard:
			timer.Stop()
			return nil
		case <-u.halt:
			timer.Stop()
			return errStopping
		case <-ctx.Done():
			timer.Stop()
			return cutOff(ctx, context.Cause(ctx))
		}
	}
	return nil
}

// listen makes the run hear of hints.
func (u *upstreamRun) listen() {
	hints := make(chan struct{}, 1)
	u.mu.Lock()
	defer u.mu.Unlock()
	if under := u.running[u.job.ID]; under != nil {
		under.secret, under.hints = u.note.Secret, hints
	}
	u.hints = hints
}

// Nudge has the provider asked at once after a batch, if the secret is the one that
// it was given. Whatever calls, it is a hint and no more.
func (r *Runner) Nudge(id ringback.ID, secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	under := r.running[id]
	if under == nil || under.secret == "" || subtle.ConstantTimeCompare([]byte(under.secret), []byte(secret)) == 0 {
		return
	}
	select {
	case under.hints <- struct{}{}:
	default:
	}
}

// closeInput frees the input while it is not read.
func (x *batchRun) closeInput() {
	if x.input != nil {
		_ = x.input.Close() // It was only read.
		x.input = nil
	}
}

// openInput opens the input if it is not open.
func (x *batchRun) openInput(ctx context.Context) (err error) {
	if x.input == nil {
		x.input, err = x.Blobs.Open(ctx, x.batch.InputBlob)
	}
	return err
}

// remove cleans up at the provider, as far as that is possible: files expire there by
// themselves, and a batch that has ended costs nothing.
func (r *Runner) remove(up backend.BatchUpstream, note *handover) {
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	defer context.AfterFunc(r.cutOff, done)()
	var err error
	files := []string{note.File}
	switch {
	case note.Ended != nil:
		files = append(files, note.Ended.Results)
	case note.Batch != "":
		err = up.CancelBatch(ctx, note.Batch)
		files = append(files, r.lastResults(ctx, up, note.Batch))
	}
	if note.Batch != "" || note.File != "" {
		err = errors.Join(err, up.RemoveBatch(ctx, note.Batch, files...))
	}
	if err != nil {
		r.Log.Warn("a provider keeps what was left of a batch", "as", note.Batch, "files", files, "error", err)
	}
}

// lastResults waits a little for the end of a batch that was cancelled, and returns
// the file that it left; "" if there is none or it takes too long.
func (r *Runner) lastResults(ctx context.Context, up backend.BatchUpstream, batch string) string {
	for n := range searches {
		s, err := up.BatchStatus(ctx, batch)
		if err != nil {
			return ""
		}
		if s.State.Final() {
			return s.Results
		}
		timer := time.NewTimer(time.Second << n)
		select {
		case <-timer.C:
		case <-r.halt:
			timer.Stop()
			return ""
		}
	}
	return ""
}

// abandon ends a batch at its provider that was deleted here.
func (r *Runner) abandon(j *ringback.Job) {
	up, _ := r.upstream(j.Model)
	var note handover
	if up == nil || j.State.Final() || len(j.Checkpoint) == 0 || json.Unmarshal(j.Checkpoint, &note) != nil {
		return
	}
	r.runs.Go(func() {
		r.remove(up, &note)
		if err := r.Blobs.Delete(context.Background(), resultsBlob(j.ID)); err != nil {
			r.Log.Error("remove the results of a deleted batch", "batch", j.ID, "error", err)
		}
	})
}
