package work_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
	"ringback.dev/internal/work"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nobody takes no delivery: what is stored waits in the store.
type nobody struct{}

func (nobody) Take(string, *ringback.Endpoint) bool { return false }
func (nobody) Give(string)                          {}
func (nobody) Hand(store.ClaimedDelivery)           {}
func (nobody) Wake()                                {}

// model is a back-end that is a function.
type model func(ctx context.Context, prompt string) (string, error)

func (m model) Generate(ctx context.Context, req *backend.Request) (*genai.GenerateContentResponse, error) {
	text, err := m(ctx, *req.Body.Contents[0].Parts[0].Text)
	if err != nil {
		return nil, err
	}
	return &genai.GenerateContentResponse{Candidates: []genai.Candidate{{FinishReason: genai.FinishStop,
		Content: &genai.Content{Role: "model", Parts: []genai.Part{genai.TextPart(text)}}}}}, nil
}

// ends tells which jobs have ended, and can refuse to store an end.
type ends struct {
	store.Store
	ended  chan ringback.ID
	refuse atomic.Int32
}

func (e *ends) EndJob(ctx context.Context, id ringback.ID, l *ringback.Lease, end *store.End) error {
	if e.refuse.Add(-1) >= 0 {
		return &ringback.Error{Code: ringback.StorageFull, Message: "the disk is full"}
	}
	err := e.Store.EndJob(ctx, id, l, end)
	if err == nil {
		e.ended <- id
	}
	return err
}

type world struct {
	*testing.T
	st   *ends
	r    *work.Runner
	stop func(grace time.Duration)
}

func newWorld(t *testing.T, m model, change func(*work.Config)) *world {
	t.Helper()
	st, err := sqlite.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, st: &ends{Store: st, ended: make(chan ringback.ID, 100)}}
	c := work.Config{Store: w.st, Emit: emit.New(w.st, nobody{}, &bus.Bus{}, "test", time.Minute, "https://ringback.example"), Backend: m, Node: "test", Lease: 3 * time.Second,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&c)
	}
	w.r = work.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.r.Run(ctx) }()
	var once sync.Once
	w.stop = func(grace time.Duration) {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			limit, expire := context.WithTimeout(context.Background(), grace)
			defer expire()
			w.r.Stop(limit)
		})
	}
	t.Cleanup(func() {
		w.stop(10 * time.Second)
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func job(prompt string) *ringback.Job {
	spec, err := json.Marshal(genai.InteractionSpec{Steps: []genai.Step{{Type: genai.StepUserInput, Content: []genai.StepContent{{Type: "text", Text: prompt}}}}})
	if err != nil {
		panic(err)
	}
	return &ringback.Job{ID: ringback.NewInteractionID(time.Now()), Project: "p", Kind: ringback.KindInteraction, Model: "m", Spec: spec}
}

func (w *world) submit(prompt string) *ringback.Job {
	w.Helper()
	j := job(prompt)
	if err := w.r.Submit(w.Context(), j); err != nil {
		w.Fatal(err)
	}
	return j
}

// wait waits for the next end and returns the job as it is then.
func (w *world) wait() *ringback.Job {
	w.Helper()
	select {
	case id := <-w.st.ended:
		return w.get(id)
	case <-time.After(20 * time.Second):
		w.Fatal("no job ended")
		return nil
	}
}

func (w *world) get(id ringback.ID) *ringback.Job {
	w.Helper()
	j, err := w.st.Job(w.Context(), "p", id)
	if err != nil {
		w.Fatal(err)
	}
	return j
}

// event is the type of the only event of a job, "" if there is none.
func (w *world) event(id ringback.ID) ringback.EventType {
	w.Helper()
	events, err := w.st.JobEvents(w.Context(), "p", id)
	if err != nil || len(events) > 1 {
		w.Fatalf("got events %+v, %v", events, err)
	}
	if len(events) == 0 {
		return ""
	}
	return events[0].Type
}

func echo(_ context.Context, prompt string) (string, error) { return prompt, nil }

func TestSubmit(t *testing.T) {
	w := newWorld(t, echo, nil)
	j := w.submit("hello")
	if j.State != ringback.Running && j.State != ringback.Pending {
		t.Errorf("the caller sees %s", j.State)
	}
	got := w.wait()
	if got.ID != j.ID || got.State != ringback.Completed || got.Runs != 1 || w.event(j.ID) != ringback.InteractionCompleted {
		t.Errorf("unexpected job %+v", got)
	}
}

func TestForeground(t *testing.T) {
	w := newWorld(t, echo, nil)
	got, err := w.r.Do(t.Context(), job("hello"))
	if err != nil || got.State != ringback.Completed || w.event(got.ID) != ringback.InteractionCompleted {
		t.Errorf("got %+v, %v", got, err)
	}
	j := job("hello")
	got, err = w.r.DoUnstored(t.Context(), j, nil)
	if err != nil || got.State != ringback.Completed || w.event(j.ID) != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := w.st.Job(t.Context(), "p", j.ID); !errors.Is(err, ringback.NotFound) {
		t.Errorf("an unstored job left a row: %v", err)
	}
}

// hang answers when it is told to, or fails with why it was cut off.
func hang(started chan<- string, release <-chan struct{}) model {
	return func(ctx context.Context, prompt string) (string, error) {
		started <- prompt
		select {
		case <-release:
			return prompt, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func TestCancel(t *testing.T) {
	started, release := make(chan string, 10), make(chan struct{})
	w := newWorld(t, hang(started, release), nil)
	j := w.submit("hello")
	<-started
	got, err := w.r.Cancel(t.Context(), "p", j.ID)
	if err != nil || got.State != ringback.Cancelled || w.event(j.ID) != ringback.InteractionCancelled {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := w.r.Cancel(t.Context(), "p", j.ID); !errors.Is(err, ringback.FailedPrecondition) {
		t.Errorf("a second cancellation: %v", err)
	}
	w.stop(10 * time.Second) // The run has been cut off: nothing is released for it.
}

func TestForegroundClientLeaves(t *testing.T) {
	started, release := make(chan string, 10), make(chan struct{})
	w := newWorld(t, hang(started, release), nil)
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-started; leave() }()
	got, err := w.r.Do(ctx, job("hello"))
	if err != nil || got.State != ringback.Cancelled || w.event(got.ID) != ringback.InteractionCancelled {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestOverflowIsQueued(t *testing.T) {
	started, release := make(chan string, 100), make(chan struct{})
	w := newWorld(t, hang(started, release), func(c *work.Config) { c.MaxRunning = 2 })
	for range 2 {
		w.submit("first")
		<-started
	}
	late := w.submit("late")
	if got := w.get(late.ID); got.State != ringback.Pending {
		t.Errorf("the third of two is %s", got.State)
	}
	close(release)
	for range 3 {
		if got := w.wait(); got.State != ringback.Completed {
			t.Errorf("unexpected job %+v", got)
		}
	}
}

func TestStopGivesBackUncounted(t *testing.T) {
	started, release := make(chan string, 10), make(chan struct{})
	w := newWorld(t, hang(started, release), nil)
	j := w.submit("hello")
	<-started
	w.stop(0)
	got := w.get(j.ID)
	if got.State != ringback.Pending || got.Runs != 0 || w.event(j.ID) != "" {
		t.Errorf("unexpected job %+v", got)
	}
}

func TestPanicIsAFailure(t *testing.T) {
	w := newWorld(t, func(context.Context, string) (string, error) { panic("boom") }, nil)
	j := w.submit("hello")
	if got := w.wait(); got.State != ringback.Failed || got.Failure.Code != "api_error" || w.event(j.ID) != ringback.InteractionFailed {
		t.Errorf("unexpected job %+v", got)
	}
}

func TestBackendErrors(t *testing.T) {
	for kind, code := range map[backend.Kind]string{backend.RateLimited: "rate_limit_exceeded", backend.Unavailable: "service_unavailable",
		backend.Timeout: "gateway_timeout", backend.Internal: "api_error", backend.Unauthorized: "api_error", backend.InvalidRequest: "invalid_request"} {
		w := newWorld(t, func(context.Context, string) (string, error) {
			return "", &backend.Error{Kind: kind, Message: "said so", Cause: errors.New("a secret cause")}
		}, nil)
		w.submit("hello")
		if got := w.wait(); got.State != ringback.Failed || *got.Failure != (ringback.Failure{Code: code, Message: "said so"}) {
			t.Errorf("%s: unexpected failure %+v", kind, got.Failure)
		}
		w.stop(10 * time.Second)
	}
}

// TestFullDiskKeepsTheResult: what the model said is not lost nor asked again
// while the store can't take it.
func TestFullDiskKeepsTheResult(t *testing.T) {
	var calls atomic.Int32
	w := newWorld(t, func(_ context.Context, prompt string) (string, error) {
		calls.Add(1)
		return prompt, nil
	}, nil)
	w.st.refuse.Store(3)
	j := w.submit("precious")
	if got := w.wait(); got.ID != j.ID || got.State != ringback.Completed || got.Runs != 1 || calls.Load() != 1 {
		t.Errorf("unexpected job %+v after %d calls", got, calls.Load())
	}
}

// TestLostLease: a job that somebody else holds by now is not ended by us.
func TestLostLease(t *testing.T) {
	started, release := make(chan string, 10), make(chan struct{})
	w := newWorld(t, hang(started, release), nil)
	j := w.submit("hello")
	<-started
	later := time.Now().Add(time.Hour)
	claimed, err := w.st.ClaimJobs(t.Context(), ringback.KindInteraction, "other", later, later.Add(time.Hour), 10)
	if err != nil || len(claimed) != 1 || claimed[0].ID != j.ID {
		t.Fatalf("got %+v, %v", claimed, err)
	}
	close(release)
	w.stop(10 * time.Second)
	if got := w.get(j.ID); got.State != ringback.Running || got.Runs != 2 || w.event(j.ID) != "" {
		t.Errorf("unexpected job %+v", got)
	}
}

// TestCutOffTooOften: a job that brings the process down again and again is given up.
func TestCutOffTooOften(t *testing.T) {
	w := newWorld(t, echo, nil)
	j := job("hello")
	j.Created = time.Now().Add(-time.Hour)
	w.stop(10 * time.Second)
	if err := w.st.CreateJob(t.Context(), j, nil); err != nil {
		t.Fatal(err)
	}
	now := j.Created
	for range 20 {
		if _, err := w.st.ClaimJobs(t.Context(), ringback.KindInteraction, "dead", now, now.Add(time.Second), 1); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Second)
	}
	r := work.New(w.r.Config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	got := w.wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.Stop(context.Background())
	if got.State != ringback.Failed || got.Runs != 21 || w.event(j.ID) != ringback.InteractionFailed {
		t.Errorf("unexpected job %+v", got)
	}
}
