package work_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/blob/dir"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
	"ringback.dev/internal/work"
)

// films is a back-end for videos that is a function.
type films func(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error)

func (films) Generate(context.Context, *backend.Request) (*genai.GenerateContentResponse, error) {
	return nil, errors.New("it makes videos only")
}

func (f films) MakeVideos(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
	return f(ctx, req, out)
}

// videoWorld is a world in which videos are made.
type videoWorld struct {
	*world
	blobs  *dir.Store
	folder string
	hints  bus.Bus
	now    atomic.Int64 // Added to the clock, in ns.
}

func newVideoWorld(t *testing.T, f films, change func(*work.Config)) *videoWorld {
	t.Helper()
	w := &videoWorld{folder: t.TempDir()}
	var err error
	if w.blobs, err = dir.Open(w.folder); err != nil {
		t.Fatal(err)
	}
	w.world = newWorld(t, nil, func(c *work.Config) {
		c.Backend, c.Blobs, c.Hints = f, w.blobs, &w.hints
		c.Now = func() time.Time { return time.Now().Add(time.Duration(w.now.Load())) }
		if change != nil {
			change(c)
		}
	})
	return w
}

func (w *videoWorld) submitVideo(spec genai.VideoSpec) ringback.ID {
	w.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		w.Fatal(err)
	}
	now := time.Now()
	j := &ringback.Job{ID: ringback.NewOperationID(now), Project: "p", Kind: ringback.KindVideo, Model: "m", Spec: text}
	if err := w.r.Submit(w.Context(), j); err != nil {
		w.Fatal(err)
	}
	return j.ID
}

// output is what a job made.
func (w *videoWorld) output(j *ringback.Job) (out genai.VideoOutput) {
	w.Helper()
	if err := json.Unmarshal(j.Output, &out); err != nil {
		w.Fatalf("%v: %s", err, j.Output)
	}
	return out
}

// content reads the file of a video.
func (w *videoWorld) content(name string) (ringback.File, string) {
	w.Helper()
	f, err := w.st.File(w.Context(), "p", ringback.ID(strings.TrimPrefix(name, "files/")), time.Now())
	if err != nil {
		w.Fatal(err)
	}
	r, err := w.blobs.Open(w.Context(), f.Blob)
	if err != nil {
		w.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		w.Fatal(err)
	}
	return f, string(text)
}

// files counts what is in the folder of the blobs.
func (w *videoWorld) files() (n int) {
	w.Helper()
	err := filepath.WalkDir(w.folder, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// body is that of the only event of a job.
func (w *videoWorld) body(id ringback.ID) string {
	w.Helper()
	events, err := w.st.JobEvents(w.Context(), "p", id)
	if err != nil || len(events) != 1 {
		w.Fatalf("events %v, %v", events, err)
	}
	return string(events[0].Body)
}

// film writes a video, and closes it if it is to count.
func film(ctx context.Context, out backend.VideoOutput, text string, closed bool) error {
	w, err := out.Create(ctx, "video/mp4")
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, text); err != nil || !closed {
		return err
	}
	return w.Close()
}

func TestVideo(t *testing.T) {
	seed, enhance := int64(7), true
	want := backend.VideoRequest{Model: "m", Prompt: "a cat", NegativePrompt: "dogs", Image: &genai.Blob{MimeType: "image/png", Data: "AA=="}, LastFrame: &genai.Blob{Data: "AQ=="},
		Video: &genai.Blob{Data: "Ag=="}, References: []backend.VideoReference{{Image: &genai.Blob{Data: "Aw=="}, Type: "ASSET"}}, Count: 2, DurationSeconds: 8,
		AspectRatio: "16:9", Resolution: "720p", PersonGeneration: "dont_allow", EnhancePrompt: &enhance, Seed: &seed}
	w := newVideoWorld(t, func(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		if got, err := json.Marshal(req); err != nil || !bytes.Equal(got, must(json.Marshal(want))) {
			t.Errorf("asked for %s, %v", got, err)
		}
		return &backend.VideoResult{Filtered: 1, FilteredReasons: []string{"somebody"}},
			errors.Join(film(ctx, out, "first", true), film(ctx, out, "never closed", false), film(ctx, out, "second", true))
	}, nil)
	id := w.submitVideo(genai.VideoSpec{Prompt: "a cat", NegativePrompt: "dogs", Image: want.Image, LastFrame: want.LastFrame, Video: want.Video,
		References: []genai.VideoReference{{Image: want.References[0].Image, Type: "ASSET"}}, Count: 2, DurationSeconds: 8, AspectRatio: "16:9", Resolution: "720p",
		PersonGeneration: "dont_allow", EnhancePrompt: &enhance, Seed: &seed})
	j := w.wait()
	if j.State != ringback.Completed || j.Failure != nil || w.event(id) != ringback.VideoGenerated {
		t.Fatalf("it ended %s, %v", j.State, j.Failure)
	}
	out := w.output(j)
	if len(out.Files) != 2 || out.Filtered != 1 || out.FilteredReasons[0] != "somebody" {
		t.Fatalf("it made %+v", out)
	}
	for i, text := range []string{"first", "second"} {
		f, got := w.content(out.Files[i])
		if got != text || f.Size != int64(len(text)) || f.MimeType != "video/mp4" || !f.Generated || f.Duration != 0 ||
			f.DisplayName != fmt.Sprintf("a cat (%d of 2)", i+1) || f.Expires.Sub(f.Created) != 48*time.Hour {
			t.Errorf("file %d: %q, %+v", i, got, f)
		}
	}
	if n := w.files(); n != 2 {
		t.Errorf("%d blobs are left", n)
	}
	uri := "https://ringback.example/v1beta/" + out.Files[0] + ":download?alt=media"
	if body := w.body(id); !strings.Contains(body, fmt.Sprintf(`"data":{"id":"models/m/operations/%s","output_file_uri":%q,"file_name":%q,"video_uri":%[2]q}`, id, uri, out.Files[0])) {
		t.Errorf("the event: %s", body)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestVideoFailures: what the back-end says becomes a code of google.rpc; nothing is
// left of what it had made.
func TestVideoFailures(t *testing.T) {
	for _, x := range []struct {
		err        error
		code, text string
	}{
		{&backend.Error{Kind: backend.InvalidRequest, Message: "no cats"}, "INVALID_ARGUMENT", "no cats"},
		{&backend.Error{Kind: backend.ModelNotFound, Message: "gone"}, "NOT_FOUND", "gone"},
		{&backend.Error{Kind: backend.Internal, Message: "broken"}, "INTERNAL", "broken"},
		{&backend.Error{Kind: backend.Timeout, Message: "slow"}, "DEADLINE_EXCEEDED", "slow"}, // It noted nothing: it may have begun.
		{errors.New("a secret"), "INTERNAL", "the back-end failed"},
		{nil, "INTERNAL", "made no video"},
	} {
		w := newVideoWorld(t, func(ctx context.Context, _ *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
			if x.err == nil {
				return nil, nil
			}
			return nil, errors.Join(x.err, film(ctx, out, "first", true), film(ctx, out, "half", false))
		}, nil)
		id := w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
		j := w.wait()
		if j.State != ringback.Failed || j.Failure.Code != x.code || !strings.Contains(j.Failure.Message, x.text) || j.Output != nil {
			t.Errorf("%v: it ended %s, %+v", x.err, j.State, j.Failure)
		}
		if body := w.body(id); w.event(id) != ringback.VideoFailed || !strings.Contains(body, `"error_code":"`+x.code+`"`) || strings.Contains(body, "secret") {
			t.Errorf("the event: %s", body)
		}
		w.stop(10 * time.Second)
		if n := w.files(); n != 0 {
			t.Errorf("%v: %d blobs are left", x.err, n)
		}
	}
}

func TestVideoFiltered(t *testing.T) {
	w := newVideoWorld(t, func(context.Context, *backend.VideoRequest, backend.VideoOutput) (*backend.VideoResult, error) {
		return &backend.VideoResult{Filtered: 2, FilteredReasons: []string{"somebody", "something"}}, nil
	}, nil)
	id := w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 2})
	j := w.wait()
	if out := w.output(j); j.State != ringback.Failed || j.Failure.Code != "FILTERED" || out.Filtered != 2 || len(out.FilteredReasons) != 2 || out.Files != nil {
		t.Errorf("it ended %s, %+v, %+v", j.State, j.Failure, out)
	}
	if body := w.body(id); w.event(id) != ringback.VideoFailed || !strings.Contains(body, `"error_code":"FILTERED","error_message":"all that was made was held back for safety; somebody; something"`) {
		t.Errorf("the event: %s", body)
	}
}

// TestVideoGoesOn stops the server while a video is made and starts another: the
// note is handed back, progress stands, and what the first run had made is gone.
func TestVideoGoesOn(t *testing.T) {
	begun := make(chan struct{}, 1)
	w := newVideoWorld(t, func(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		if req.Checkpoint != nil {
			t.Errorf("the first run got the note %q", req.Checkpoint)
		}
		out.Progress(20)
		if err := errors.Join(out.Note(ctx, []byte("operation 7")), film(ctx, out, "of the first run", true), film(ctx, out, "half", false)); err != nil {
			t.Error(err)
		}
		out.Progress(40) // Too soon after the other.
		begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}, nil)
	id := w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
	<-begun
	if j := w.get(id); j.Progress != 20 || !strings.Contains(string(j.Checkpoint), "note") {
		t.Errorf("progress %d, checkpoint %q", j.Progress, j.Checkpoint)
	}
	w.stop(0)
	if n := w.files(); n != 0 {
		t.Errorf("%d blobs are left of the first run", n)
	}
	c := w.r.Config
	c.Backend = films(func(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		if string(req.Checkpoint) != "operation 7" {
			t.Errorf("the second run got the note %q", req.Checkpoint)
		}
		return nil, film(ctx, out, "the video", true)
	})
	j := w.again(c)
	if out := w.output(j); j.State != ringback.Completed || j.Runs != 1 || len(out.Files) != 1 {
		t.Errorf("it ended %s after %d runs with %+v", j.State, j.Runs, out)
	}
}

// again runs a further runner until a job has ended.
func (w *videoWorld) again(c work.Config) *ringback.Job {
	w.Helper()
	r := work.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	j := w.wait()
	cancel()
	if err := <-done; err != nil {
		w.Error(err)
	}
	r.Stop(w.Context())
	return j
}

// TestVideoWaitsForItsBackend: a back-end that can't be used is asked again, at due
// times and not for ever; one that has begun the video, for longer.
func TestVideoWaitsForItsBackend(t *testing.T) {
	for _, x := range []struct {
		name        string
		note        bool
		kind        backend.Kind
		tries       int
		least, most time.Duration
		code        string
	}{
		{"not begun", false, backend.Unavailable, 8, 10 * time.Minute, 11 * time.Minute, "UNAVAILABLE"},
		{"begun", true, backend.Timeout, 30, 2 * time.Hour, 130 * time.Minute, "DEADLINE_EXCEEDED"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64
				w := newVideoWorld(t, func(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
					switch n := asked.Add(1); {
					case !x.note:
					case n == 1:
						if err := out.Note(ctx, []byte("begun")); err != nil {
							t.Error(err)
						}
					case string(req.Checkpoint) != "begun":
						t.Errorf("try %d got the note %q", n, req.Checkpoint)
					}
					if err := film(ctx, out, "half", true); err != nil {
						t.Error(err)
					}
					return nil, &backend.Error{Kind: x.kind, Message: "no answer", RetryAfter: 7 * time.Second}
				}, nil)
				begin := time.Now()
				w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
				j := w.get(<-w.st.ended)
				want := ringback.Failure{Code: x.code, Message: fmt.Sprintf("no answer (tried %d times)", x.tries)}
				if j.State != ringback.Failed || *j.Failure != want || int(asked.Load()) != x.tries || j.Runs != 1 {
					t.Errorf("it ended %s, %+v after %d tries, %d runs", j.State, j.Failure, asked.Load(), j.Runs)
				}
				if took := time.Since(begin); took < x.least || took > x.most {
					t.Errorf("it took %s", took)
				}
				w.stop(10 * time.Second)
				if n := w.files(); n != 0 {
					t.Errorf("%d blobs are left", n)
				}
			})
		})
	}
}

// TestVideoWaitsAsTold: the job waits for as long as the back-end asked.
func TestVideoWaitsAsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		w := newVideoWorld(t, func(ctx context.Context, _ *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
			if asked++; asked == 1 {
				return nil, &backend.Error{Kind: backend.RateLimited, Message: "later", RetryAfter: 40 * time.Minute}
			}
			return nil, film(ctx, out, "the video", true)
		}, nil)
		begin := time.Now()
		w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
		j := w.get(<-w.st.ended)
		if took := time.Since(begin); j.State != ringback.Completed || took < 40*time.Minute || took > 41*time.Minute {
			t.Errorf("it ended %s after %s", j.State, took)
		}
	})
}

// TestVideoIsStopped: of a job that is cancelled or deleted while it runs nothing
// stays.
func TestVideoIsStopped(t *testing.T) {
	for name, stop := range map[string]func(*videoWorld, ringback.ID) error{
		"cancelled": func(w *videoWorld, id ringback.ID) error { _, err := w.r.Cancel(w.Context(), "p", id); return err },
		"deleted":   func(w *videoWorld, id ringback.ID) error { return w.r.Delete(w.Context(), "p", id) },
	} {
		for _, hears := range []bool{true, false} { // Whether the back-end takes note.
			t.Run(fmt.Sprintf("%s %v", name, hears), func(t *testing.T) {
				begun, release := make(chan struct{}, 1), make(chan struct{})
				w := newVideoWorld(t, func(ctx context.Context, _ *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
					err := errors.Join(film(ctx, out, "first", true), film(ctx, out, "half", false))
					begun <- struct{}{}
					if hears {
						<-ctx.Done()
						return nil, errors.Join(err, ctx.Err())
					}
					<-release
					if err := film(ctx, out, "too late", true); err == nil {
						t.Error("a video was made for a job that has ended")
					}
					return nil, err
				}, nil)
				id := w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
				<-begun
				if err := stop(w, id); err != nil {
					t.Fatal(err)
				}
				close(release)
				w.stop(10 * time.Second)
				if n := w.files(); n != 0 {
					t.Errorf("%d blobs are left", n)
				}
				if files, _, err := w.st.ListFiles(t.Context(), "p", time.Now(), 0, 10); err != nil || len(files) != 0 {
					t.Errorf("files are left: %v, %v", files, err)
				}
				if name == "cancelled" {
					if body := w.body(id); !strings.Contains(body, `"type":"video.failed"`) || !strings.Contains(body, `"error_code":"CANCELLED"`) {
						t.Errorf("the event: %s", body)
					}
				}
			})
		}
	}
}

// TestVideoThatLosesItsJob: what was made for a job that ended at the last moment is
// left to upkeep.
func TestVideoThatLosesItsJob(t *testing.T) {
	var w *videoWorld
	w = newVideoWorld(t, func(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		err := film(ctx, out, "the video", true)
		jobs, _, e := w.st.ListJobs(ctx, "p", store.JobFilter{Kind: ringback.KindVideo}, 0, 1)
		if err = errors.Join(err, e); err == nil {
			// Behind the runner's back, as another process would.
			err = w.st.Store.EndJob(ctx, jobs[0].ID, nil, &store.End{State: ringback.Cancelled, At: time.Now()})
		}
		return nil, err
	}, nil)
	w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
	var garbage []string
	for deadline := time.Now().Add(20 * time.Second); len(garbage) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing became garbage")
		}
		var err error
		if garbage, err = w.st.Garbage(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
	w.stop(10 * time.Second)
	if files, _, err := w.st.ListFiles(t.Context(), "p", time.Now(), 0, 10); err != nil || len(files) != 0 {
		t.Errorf("files: %v, %v", files, err)
	}
}

// fullBlobs is a blob.Store whose disk is full for a while.
type fullBlobs struct {
	blob.Store
	writes, commits atomic.Int64 // How many of them still fail.
}

type fullWriter struct {
	blob.Writer
	full *fullBlobs
}

var errFull = &ringback.Error{Code: ringback.StorageFull, Message: "the disk is full"}

func (f *fullBlobs) Append(ctx context.Context, key string, offset int64) (blob.Writer, error) {
	w, err := f.Store.Append(ctx, key, offset)
	return fullWriter{w, f}, err
}

func (w fullWriter) Write(b []byte) (int, error) {
	if w.full.writes.Add(-1) >= 0 {
		n, err := w.Writer.Write(b[:len(b)/2])
		return n, errors.Join(err, errFull)
	}
	return w.Writer.Write(b)
}

func (f *fullBlobs) Commit(ctx context.Context, key string) error {
	if f.commits.Add(-1) >= 0 {
		return errFull
	}
	return f.Store.Commit(ctx, key)
}

// fullNotes refuses checkpoints for a while.
type fullNotes struct {
	store.Store
	left atomic.Int64
}

func (f *fullNotes) Checkpoint(ctx context.Context, id ringback.ID, l ringback.Lease, note []byte, progress int) error {
	if f.left.Add(-1) >= 0 {
		return errFull
	}
	return f.Store.Checkpoint(ctx, id, l, note, progress)
}

// TestVideoOnFullDisk: a video that was paid for waits for room.
func TestVideoOnFullDisk(t *testing.T) {
	var blobs fullBlobs
	var notes fullNotes
	blobs.writes.Store(2)
	blobs.commits.Store(1)
	notes.left.Store(1)
	asked := 0
	w := newVideoWorld(t, func(ctx context.Context, _ *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		asked++
		return nil, errors.Join(out.Note(ctx, []byte("begun")), film(ctx, out, "a long video", true))
	}, func(c *work.Config) {
		blobs.Store, notes.Store = c.Blobs, c.Store
		c.Blobs, c.Store = &blobs, &notes
	})
	w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
	j := w.wait()
	if j.State != ringback.Completed || asked != 1 {
		t.Fatalf("it ended %s, %+v after %d runs", j.State, j.Failure, asked)
	}
	if _, text := w.content(w.output(j).Files[0]); text != "a long video" {
		t.Errorf("it is %q", text)
	}
}

func TestVideoLimits(t *testing.T) {
	w := newVideoWorld(t, func(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		if req.Prompt == "long" {
			return nil, film(ctx, out, "longer than it may be", true)
		}
		for range 5 {
			if err := film(ctx, out, "one", true); err != nil {
				return nil, fmt.Errorf("save: %w", err)
			}
		}
		return nil, nil
	}, func(c *work.Config) { c.MaxVideoBytes = 10 })
	for prompt, hint := range map[string]string{"long": "--max-file-bytes", "many": "more than 4"} {
		w.submitVideo(genai.VideoSpec{Prompt: prompt, Count: 1})
		if j := w.wait(); j.State != ringback.Failed || !strings.Contains(j.Failure.Message, hint) {
			t.Errorf("%s: it ended %s, %+v", prompt, j.State, j.Failure)
		}
	}
}

// TestVideoPlaces: so many run at once, the others wait; videos don't take the places
// of interactions.
func TestVideoPlaces(t *testing.T) {
	begun, release := make(chan struct{}, 10), make(chan struct{})
	w := newVideoWorld(t, func(ctx context.Context, _ *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		begun <- struct{}{}
		<-release
		return nil, film(ctx, out, "v", true)
	}, func(c *work.Config) { c.MaxVideos = 2 })
	var ids []ringback.ID
	for n := range 3 {
		ids = append(ids, w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1}))
		if n < 2 {
			<-begun
		}
	}
	if j := w.get(ids[2]); j.State != ringback.Pending {
		t.Errorf("the third of two is %s", j.State)
	}
	w.submit("hello")
	if j := w.wait(); j.Kind != ringback.KindInteraction {
		t.Errorf("a %s ended first", j.Kind)
	}
	close(release)
	for range 3 {
		w.wait()
	}
}

// TestVideoPanics: a defect of a back-end ends the job, and leaves nothing.
func TestVideoPanics(t *testing.T) {
	w := newVideoWorld(t, func(ctx context.Context, _ *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		if err := film(ctx, out, "half", true); err != nil {
			t.Error(err)
		}
		panic("oh")
	}, nil)
	w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
	if j := w.wait(); j.State != ringback.Failed || j.Failure.Code != "INTERNAL" {
		t.Errorf("it ended %s, %+v", j.State, j.Failure)
	}
	w.stop(10 * time.Second)
	if n := w.files(); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
}

// TestVideoHints: progress is told to those who listen.
func TestVideoHints(t *testing.T) {
	var w *videoWorld
	w = newVideoWorld(t, func(ctx context.Context, _ *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
		for i := range 5 {
			out.Progress(20 * i)
			out.Progress(20*i + 10) // Within the same second.
			w.now.Add(int64(time.Second))
		}
		return nil, film(ctx, out, "v", true)
	}, nil)
	hints, stop := w.hints.Listen("p")
	defer stop()
	id := w.submitVideo(genai.VideoSpec{Prompt: "a cat", Count: 1})
	w.wait()
	var jobs []ringback.ID
	for len(hints) > 0 {
		if h := <-hints; h.Kind == bus.Job {
			jobs = append(jobs, h.ID)
		}
	}
	// One of the creation, then 10, 20 (or 30), … in different seconds.
	if len(jobs) < 5 || len(jobs) > 7 || slices.ContainsFunc(jobs, func(j ringback.ID) bool { return j != id }) {
		t.Errorf("hints about %v", jobs)
	}
}
