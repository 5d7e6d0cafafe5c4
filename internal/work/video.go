package work

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/genai"
)

// A video takes minutes and is paid for, so a run that is cut off must not begin
// anew: what the back-end notes on its way is stored before it goes on, and handed
// to it in the next run. What it makes goes to blobs that are this run's alone. They
// become files in the step that ends the job; of a run that does not come to that
// nothing stays (store.NoteBlob).
const (
	// videoTries is how often a back-end that can't be used is asked for a video
	// that it has not begun, notedTries for one that it is making: that one is paid
	// for. With the waits between, the former takes ten minutes, the latter two hours.
	videoTries, notedTries = 8, 30
	// maxVideoWait bounds the wait before a further try, maxRetryAfter that which a
	// back-end may ask for.
	maxVideoWait, maxRetryAfter = 5 * time.Minute, time.Hour
	// tellProgress is how often progress is stored at most.
	tellProgress = time.Second
)

// filtered is the code of a video job of which all was held back for safety.
const filtered = "FILTERED"

// runVideo runs a video job. The error is not nil only when the run was cut off.
func (r *Runner) runVideo(ctx context.Context, j *ringback.Job, lease ringback.Lease) (Result, error) {
	var spec genai.VideoSpec
	if err := json.Unmarshal(j.Spec, &spec); err != nil {
		return Result{}, fmt.Errorf("spec of video %s: %w", j.ID, err)
	}
	made, err := r.makeVideos(ctx, j, lease, videoRequest(&spec, j.Model))
	if err != nil {
		return Result{}, err
	}
	if made.failed != nil {
		return failure(statusName(made.failed.Kind), made.failed.Message), nil
	}
	out := genai.VideoOutput{Filtered: made.held.Filtered, FilteredReasons: made.held.FilteredReasons}
	for i := range made.files {
		out.Files = append(out.Files, "files/"+string(made.files[i].ID))
	}
	res := Result{State: ringback.Completed, Files: made.files}
	if len(made.files) == 0 {
		res = failure(filtered, strings.Join(append([]string{"all that was made was held back for safety"}, made.held.FilteredReasons...), "; "))
	}
	if res.Output, err = json.Marshal(out); err != nil {
		return Result{}, err
	}
	return res, nil
}

// videoRequest is a spec in the form of back-ends.
func videoRequest(s *genai.VideoSpec, model string) *backend.VideoRequest {
	req := &backend.VideoRequest{Model: model, Prompt: s.Prompt, NegativePrompt: s.NegativePrompt, Image: s.Image, LastFrame: s.LastFrame, Video: s.Video,
		Count: s.Count, DurationSeconds: s.DurationSeconds, AspectRatio: s.AspectRatio, Resolution: s.Resolution, PersonGeneration: s.PersonGeneration,
		EnhancePrompt: s.EnhancePrompt, Seed: s.Seed}
	for _, ref := range s.References {
		req.References = append(req.References, backend.VideoReference{Image: ref.Image, Type: ref.Type})
	}
	return req
}

// statusName is the name of a google.rpc.Code, as events have it.
func statusName(k backend.Kind) string {
	switch k {
	case backend.InvalidRequest:
		return "INVALID_ARGUMENT"
	case backend.ModelNotFound:
		return "NOT_FOUND"
	case backend.RateLimited, backend.OutOfBudget:
		return "RESOURCE_EXHAUSTED"
	case backend.Unauthorized:
		return "PERMISSION_DENIED"
	case backend.Unavailable:
		return "UNAVAILABLE"
	case backend.Timeout:
		return "DEADLINE_EXCEEDED"
	}
	return "INTERNAL"
}

// videosMade is what came of making videos: files, or nothing because all was held
// back, or a failure.
type videosMade struct {
	files  []ringback.File // For Result.Files, in the order in which they were closed.
	held   backend.VideoResult
	failed *backend.Error
}

// makeVideos has the back-end make videos for a stored job of any kind. The error
// is not nil only when the run was cut off, or is to be tried again (later): then
// the caller returns it, and the job's next run comes here with the checkpoint,
// which is this function's alone. Nothing is left of what was made unless the job's
// Result holds the files.
func (r *Runner) makeVideos(ctx context.Context, j *ringback.Job, lease ringback.Lease, req *backend.VideoRequest) (made videosMade, err error) {
	maker, ok := r.Backend.(backend.VideoMaker)
	if !ok {
		made.failed = &backend.Error{Kind: backend.InvalidRequest, Message: fmt.Sprintf("the back-end of model %q makes no videos", req.Model)}
		return made, nil
	}
	o := &videoOutput{Runner: r, job: j, lease: lease, percent: j.Progress}
	o.note.read(j.Checkpoint)
	o.within = func(f func(context.Context) error) error {
		err := f(ctx)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	defer func() { o.drop(context.WithoutCancel(ctx), made.files) }()
	own := *req
	own.Checkpoint = o.note.Note
	held, err := maker.MakeVideos(ctx, &own, o)
	crash.At(crash.VideosMade)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil && ctx.Err() != nil:
		return made, context.Cause(ctx)
	case ringback.CodeOf(o.err) == ringback.Stale:
		return made, errLost
	case o.err != nil:
		return made, o.err
	case err != nil:
		made.failed, err = o.again(backend.AsError(err))
		return made, err
	}
	if held != nil {
		made.held = *held
	}
	if len(o.done) == 0 && made.held.Filtered == 0 {
		made.failed = &backend.Error{Kind: backend.Internal, Message: "the back-end made no video and did not say why"}
		return made, nil
	}
	made.files = o.files(req.Prompt)
	return made, nil
}

// later is why a run ends whose job is to be run again at a time.
type later struct {
	due time.Time
	why error
}

func (l *later) Error() string { return l.why.Error() }
func (l *later) Unwrap() error { return l.why }

// videoNote is the checkpoint of making videos.
type videoNote struct {
	// Tries counts the runs that met a back-end that could not be used.
	Tries int `json:"tries,omitempty"`
	// Note is the back-end's.
	Note []byte `json:"note,omitempty"`
}

// read reads a stored note. One that can't be read says nothing.
func (n *videoNote) read(checkpoint []byte) {
	if json.Unmarshal(checkpoint, n) != nil {
		*n = videoNote{}
	}
}

// videoOutput implements backend.VideoOutput for one run.
type videoOutput struct {
	*Runner
	job   *ringback.Job
	lease ringback.Lease
	// within calls a function with the context of the run; if that ended, the error
	// is why.
	within func(func(context.Context) error) error

	mu      sync.Mutex
	note    videoNote
	percent int
	told    time.Time // When progress was stored.
	all     []*video
	done    []*video // Those that were closed.
	err     error    // The first that is not the back-end's but ours.
}

// stored does a write, again and again while the disk is full: what the back-end
// makes is paid for.
func (o *videoOutput) stored(what string, write func(context.Context) error) error {
	return o.within(func(ctx context.Context) error {
		return o.untilStored(ctx, what, o.job.ID, func() error { return write(ctx) })
	})
}

// ours notes an error as the run's own, and returns it.
func (o *videoOutput) ours(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	return err
}

// Create implements backend.VideoOutput.
func (o *videoOutput) Create(_ context.Context, mimeType string) (io.WriteCloser, error) {
	v := &video{out: o, key: string(ringback.NewID("blob", o.Now())), mimeType: mimeType, to: counted{sum: sha256.New()}}
	err := o.stored("a video", func(ctx context.Context) error { return o.Store.NoteBlob(ctx, o.job.ID, o.lease, v.key) })
	if err == nil {
		err = o.stored("a video", func(ctx context.Context) (err error) {
			v.blob, err = o.Blobs.Append(ctx, v.key, 0)
			return err
		})
	}
	if err != nil {
		return nil, o.ours(err)
	}
	v.to.w = v.blob
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, v)
	return v, nil
}

// Note implements backend.VideoOutput.
func (o *videoOutput) Note(_ context.Context, checkpoint []byte) error {
	o.mu.Lock()
	o.note.Note = slices.Clone(checkpoint)
	err := o.keep()
	o.mu.Unlock()
	if err != nil {
		return o.ours(err)
	}
	crash.At(crash.VideoNoted)
	return nil
}

// keep stores the note and the progress. o.mu is held.
func (o *videoOutput) keep() error {
	text, err := json.Marshal(&o.note)
	if err != nil {
		return err
	}
	return o.stored("the checkpoint of a video", func(ctx context.Context) error {
		return o.Store.Checkpoint(ctx, o.job.ID, o.lease, text, o.percent)
	})
}

// Progress implements backend.VideoOutput. What can't be stored now is told with
// the next.
func (o *videoOutput) Progress(percent int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	percent = min(max(percent, 0), 100)
	now := o.Now()
	if percent == o.percent || now.Sub(o.told) < tellProgress {
		return
	}
	err := o.within(func(ctx context.Context) error { return o.Store.Checkpoint(ctx, o.job.ID, o.lease, nil, percent) })
	if err != nil {
		return
	}
	o.percent, o.told = percent, now
	o.Hints.Publish(bus.Hint{Project: o.job.Project, Kind: bus.Job, ID: o.job.ID})
}

// again decides what comes after an error of the back-end: the failure of the job,
// or a later run. That waits in the store, and its place is free meanwhile. Where the
// back-end did not answer in time it is asked again only for what it has begun: it
// may have begun it without our knowing. o.mu is held.
func (o *videoOutput) again(e *backend.Error) (failed *backend.Error, err error) {
	tries := videoTries
	if o.note.Note != nil {
		tries = notedTries
	}
	switch e.Kind {
	case backend.Unavailable, backend.RateLimited, backend.OutOfBudget, backend.Unauthorized:
	case backend.Timeout:
		if o.note.Note == nil {
			return e, nil
		}
	default:
		return e, nil
	}
	if o.note.Tries++; o.note.Tries >= tries {
		last := *e
		last.Message = fmt.Sprintf("%s (tried %d times)", e.Message, o.note.Tries)
		return &last, nil
	}
	wait := min(o.VideoWait<<min(o.note.Tries-1, 16), maxVideoWait)
	wait = max(wait, min(e.RetryAfter, maxRetryAfter))
	if err := o.keep(); err != nil {
		return nil, err
	}
	o.Log.Warn("a video can't be made now; it is tried again", "job", o.job.ID, "model", o.job.Model, "tries", o.note.Tries, "again_in", wait, "error", e)
	return nil, &later{due: o.Now().Add(wait), why: e}
}

// files makes files of what was closed. o.mu is held.
func (o *videoOutput) files(prompt string) []ringback.File {
	name := strings.Join(strings.Fields(prompt), " ")
	if r := []rune(name); len(r) > 80 {
		name = string(r[:79]) + "…"
	}
	now := o.Now()
	files := make([]ringback.File, len(o.done))
	for i, v := range o.done {
		files[i] = ringback.File{ID: ringback.NewFileID(now), Project: o.job.Project, DisplayName: name, MimeType: v.mimeType, Size: v.to.n,
			SHA256: v.to.sum.Sum(nil), Blob: v.key, Generated: true, Duration: v.duration, Created: now, Updated: now, Expires: now.Add(o.VideoTTL)}
		if len(files) > 1 {
			files[i].DisplayName = strings.TrimSpace(fmt.Sprintf("%s (%d of %d)", name, i+1, len(files)))
		}
	}
	return files
}

// drop removes what did not become a file.
func (o *videoOutput) drop(ctx context.Context, kept []ringback.File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, v := range o.all {
		if slices.ContainsFunc(kept, func(f ringback.File) bool { return f.Blob == v.key }) {
			continue
		}
		_ = v.blob.Close() // It may be closed.
		if err := o.Blobs.Delete(ctx, v.key); err != nil {
			o.Log.Error("remove what a video job made and does not keep; upkeep will", "job", o.job.ID, "error", err)
		}
	}
}

// video is one of the videos, as it is written. It is used by one goroutine.
type video struct {
	out      *videoOutput
	key      string
	mimeType string
	blob     blob.Writer
	to       counted
	err      error // That of the first call that failed.
	closed   bool
	duration time.Duration
}

// Write implements io.Writer.
func (v *video) Write(b []byte) (int, error) {
	switch most := v.out.MaxVideoBytes; {
	case v.err != nil:
		return 0, v.err
	case v.closed:
		return 0, errors.New("the video is closed")
	case v.to.n+int64(len(b)) > most:
		v.err = &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("a video is larger than %d bytes (the server's --max-file-bytes)", most)}
		return 0, v.err
	}
	n := 0
	err := v.out.stored("a video", func(context.Context) error {
		wrote, err := v.to.Write(b[n:])
		n += wrote
		return err
	})
	if err != nil {
		v.err = v.out.ours(err)
	}
	return n, v.err
}

// Close implements io.Closer.
func (v *video) Close() error {
	if v.err != nil || v.closed {
		return v.err
	}
	v.closed = true
	err := v.blob.Close()
	if err == nil {
		err = v.out.stored("a video", func(ctx context.Context) error { return v.out.Blobs.Commit(ctx, v.key) })
	}
	if err != nil {
		v.err = v.out.ours(err)
		return v.err
	}
	v.duration = v.playTime()
	crash.At(crash.VideoWritten)
	v.out.mu.Lock()
	defer v.out.mu.Unlock()
	if len(v.out.done) == genai.MaxVideos {
		v.err = &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end made more than %d videos", genai.MaxVideos)}
		return v.err
	}
	v.out.done = append(v.out.done, v)
	return nil
}

// playTime is how long the video takes, zero if that can't be told.
func (v *video) playTime() (d time.Duration) {
	if v.mimeType != "video/mp4" && v.mimeType != "video/quicktime" {
		return 0
	}
	err := v.out.within(func(ctx context.Context) error {
		r, err := v.out.Blobs.Open(ctx, v.key)
		if err != nil {
			return err
		}
		defer r.Close()
		d, err = mp4Duration(r, v.to.n)
		return err
	})
	if err != nil {
		v.out.Log.Info("the duration of a video can't be read", "job", v.out.job.ID, "error", err)
	}
	return d
}
