package work_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/blob/dir"
	"ringback.dev/internal/store"
	"ringback.dev/internal/work"
)

// batchWorld is a world whose models stand behind a router, as in a server.
type batchWorld struct {
	*world
	blobs blob.Store
	now   atomic.Int64 // Added to the clock, in ns.
}

func newBatchWorld(t *testing.T, m model, change func(*work.Config)) *batchWorld {
	t.Helper()
	blobs, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	router, err := backend.NewRouter([]backend.Route{{Match: "*", Backend: &slot{m}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &batchWorld{blobs: blobs}
	w.world = newWorld(t, m, func(c *work.Config) {
		c.Backend, c.Blobs, c.MaxRow = router, blobs, 10_000
		c.Now = func() time.Time { return time.Now().Add(time.Duration(w.now.Load())) }
		if change != nil {
			change(c)
		}
	})
	return w
}

// slot makes a function comparable.
type slot struct{ model }

// submitBatch submits the lines of an input.
func (w *batchWorld) submitBatch(input string, change func(*ringback.Job, *ringback.Batch)) ringback.ID {
	w.Helper()
	now := time.Now()
	key := string(ringback.NewID("blob", now))
	out, err := w.blobs.Append(w.Context(), key, 0)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := io.WriteString(out, input); err != nil {
		w.Fatal(err)
	}
	if err := out.Close(); err != nil {
		w.Fatal(err)
	}
	if err := w.blobs.Commit(w.Context(), key); err != nil {
		w.Fatal(err)
	}
	j := &ringback.Job{ID: ringback.NewBatchID(now), Project: "p", Kind: ringback.KindBatch, Model: "m", Spec: []byte("{}")}
	b := &ringback.Batch{InputFile: "in", InputBlob: key, Expires: now.Add(48 * time.Hour)}
	if change != nil {
		change(j, b)
	}
	if err := w.r.SubmitBatch(w.Context(), j, b); err != nil {
		w.Fatal(err)
	}
	return j.ID
}

func (w *batchWorld) batch(id ringback.ID) *ringback.Batch {
	w.Helper()
	b, err := w.st.Batch(w.Context(), "p", id)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// output reads the output of a batch that has ended.
func (w *batchWorld) output(id ringback.ID) []string {
	w.Helper()
	b := w.batch(id)
	key := b.OutputBlob
	if b.OutputFile != "" {
		f, err := w.st.File(w.Context(), "p", b.OutputFile, time.Now())
		if err != nil {
			w.Fatal(err)
		}
		key = f.Blob
	}
	r, err := w.blobs.Open(w.Context(), key)
	if err != nil {
		w.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		w.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	return lines[:len(lines)-1]
}

// line is a row of an input.
func line(key, prompt string) string {
	return fmt.Sprintf(`{"key":%q,"request":{"contents":[{"parts":[{"text":%q}]}]}}`+"\n", key, prompt)
}

// said is what a line of the output says, in short.
func said(t *testing.T, line string) string {
	t.Helper()
	var r struct {
		Key      string
		Response struct {
			Candidates []struct {
				Content struct{ Parts []struct{ Text string } }
			}
		}
		Error *struct {
			Code    int
			Message string
		}
	}
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if r.Error != nil {
		return fmt.Sprintf("%s: error %d %s", r.Key, r.Error.Code, r.Error.Message)
	}
	return r.Key + ": " + r.Response.Candidates[0].Content.Parts[0].Text
}

func TestBatchKeepsOrderAndTruth(t *testing.T) {
	w := newBatchWorld(t, func(ctx context.Context, prompt string) (string, error) {
		if prompt == "refused" {
			return "", &backend.Error{Kind: backend.InvalidRequest, Message: "no such thing"}
		}
		return echo(ctx, prompt)
	}, nil)
	input := "\xef\xbb\xbf" + line("a", "1") + "\r\n\n" + `{"key":"b"}` + "\n" + line("c", "refused") + "no json\n" +
		`{"key":"e","request":{"model":"models/other","contents":[{"parts":[{"text":"x"}]}]}}` + "\n" +
		`{"key":"f","request":{"contents":[{"parts":"x"}]}}` + "\n" + "{\"key\":\"g\",\"request\":\"\xff\"}\n" +
		`{"key":"h","request":"` + strings.Repeat("x", 11_000) + `"}` + "\n" +
		strings.TrimSuffix(line("z", "last"), "\n")
	id := w.submitBatch(input, nil)
	if j := w.wait(); j.State != ringback.Completed || j.Failure != nil {
		t.Errorf("it ended %s, %v", j.State, j.Failure)
	}
	var got []string
	for _, l := range w.output(id) {
		got = append(got, said(t, l))
	}
	want := []string{"a: 1", "b: error 3 line 4: request: it is required", "c: error 3 no such thing",
		": error 3 line 6: malformed JSON at byte 2: invalid character 'o' in literal null (expecting 'u')",
		`e: error 3 line 7: request.model: it is "other", the batch runs on "m"`,
		"f: error 3 line 8: request.contents[0].parts: expected a list, got string",
		": error 3 line 9: it is not valid UTF-8", ": error 3 line 10: it is longer than 10000 bytes (the server's --max-request-bytes)", "z: last"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the output (-want +got):\n%s", d)
	}
	if b := w.batch(id); b.Rows != (ringback.RowCounts{Total: 9, Succeeded: 2, Failed: 7}) {
		t.Errorf("counts: %+v", b.Rows)
	}
	events, err := w.st.JobEvents(t.Context(), "p", id)
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
	body := string(events[0].Body)
	if events[0].Type != ringback.BatchSucceeded || !strings.Contains(body, `"data":{"id":"batches/`+string(id)+`","output_file_uri":"https://ringback.example/v1beta/files/`) ||
		!strings.Contains(body, `"batch_stats":{"request_count":9,"successful_request_count":2,"failed_request_count":7,"pending_request_count":0}`) {
		t.Errorf("the event: %s %s", events[0].Type, body)
	}
}

func TestBadInputFailsTheBatch(t *testing.T) {
	w := newBatchWorld(t, echo, nil)
	for input, hint := range map[string]string{"": "no rows", "\n \n": "no rows", "%PDF-1.7\n%binary\n": "line 1: malformed JSON"} {
		id := w.submitBatch(input, nil)
		j := w.wait()
		if j.State != ringback.Failed || j.Failure == nil || j.Failure.Code != "INVALID_ARGUMENT" || !strings.Contains(j.Failure.Message, hint) {
			t.Errorf("%q: %s %v", input, j.State, j.Failure)
		}
		events, err := w.st.JobEvents(t.Context(), "p", id)
		if err != nil || len(events) != 1 || events[0].Type != ringback.BatchFailed || !strings.Contains(string(events[0].Body), `"error_code":"INVALID_ARGUMENT"`) {
			t.Errorf("%q: events %v, %v", input, events, err)
		}
	}
}

// TestBatchRetries: a row whose failures are its own is given up after some tries;
// while the back-end is down, rows wait.
func TestBatchRetries(t *testing.T) {
	var down atomic.Bool
	var tries sync.Map
	down.Store(true)
	var refused atomic.Int64
	w := newBatchWorld(t, func(ctx context.Context, prompt string) (string, error) {
		n, _ := tries.LoadOrStore(prompt, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		switch {
		case down.Load():
			if refused.Add(1) == 4 {
				down.Store(false)
			}
			return "", &backend.Error{Kind: backend.Unavailable, Message: "gone"}
		case prompt == "poison":
			return "", &backend.Error{Kind: backend.Internal, Message: "crashed"}
		case prompt == "once" && n.(*atomic.Int64).Load() < 3:
			return "", &backend.Error{Kind: backend.Timeout, Message: "slow"}
		}
		return echo(ctx, prompt)
	}, func(c *work.Config) { c.RowWait = 10 * time.Millisecond })
	var input strings.Builder
	for i := range 300 {
		input.WriteString(line(fmt.Sprint(i), fmt.Sprint(i)))
	}
	input.WriteString(line("p", "poison") + line("o", "once"))
	id := w.submitBatch(input.String(), nil)
	if j := w.wait(); j.State != ringback.Completed {
		t.Errorf("it ended %s", j.State)
	}
	out := w.output(id)
	if got := said(t, out[300]); got != "p: error 13 crashed (tried 5 times)" {
		t.Errorf("the poison: %s", got)
	}
	if got := said(t, out[301]); got != "o: once" {
		t.Errorf("the slow one: %s", got)
	}
	for i := range 300 {
		if got, want := said(t, out[i]), fmt.Sprintf("%d: %d", i, i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// hanging answers the first rows and hangs on the others.
func hanging(answer int64) (m model, hung <-chan struct{}) {
	var n atomic.Int64
	c := make(chan struct{}, 1000)
	return func(ctx context.Context, prompt string) (string, error) {
		if n.Add(1) <= answer {
			return echo(ctx, prompt)
		}
		c <- struct{}{}
		<-ctx.Done()
		return "", context.Cause(ctx)
	}, c
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(line(fmt.Sprint(i), fmt.Sprint(i)))
	}
	return b.String()
}

func TestCancelKeepsWhatIsFinished(t *testing.T) {
	m, hung := hanging(100)
	w := newBatchWorld(t, m, nil)
	id := w.submitBatch(numbered(1200), nil)
	<-hung
	w.until("the finished rows are recorded", func() bool { return w.batch(id).Rows.Succeeded == 100 })
	begin := time.Now()
	if err := w.r.CancelBatch(t.Context(), "p", id); err != nil {
		t.Fatal(err)
	}
	j := w.wait()
	if j.State != ringback.Cancelled || time.Since(begin) > 5*time.Second {
		t.Errorf("it ended %s after %s", j.State, time.Since(begin))
	}
	out := w.output(id)
	finished := 0
	for i, l := range out {
		switch got := said(t, l); got {
		case fmt.Sprintf("%d: %d", i, i):
			finished++
		case fmt.Sprintf("%d: error 1 the row was not run: the batch was cancelled", i):
		default:
			t.Errorf("row %d: %s", i, got)
		}
	}
	if len(out) != 1200 || finished != 100 || w.batch(id).Rows != (ringback.RowCounts{Total: 1200, Succeeded: 100}) {
		t.Errorf("%d lines, %d finished, counts %+v", len(out), finished, w.batch(id).Rows)
	}
	events, err := w.st.JobEvents(t.Context(), "p", id)
	if err != nil || len(events) != 1 || events[0].Type != ringback.BatchCancelled || !strings.Contains(string(events[0].Body), `"file_name":"files/`) ||
		!strings.Contains(string(events[0].Body), `"pending_request_count":1100`) {
		t.Errorf("events %v, %v", events, err)
	}
	if err := w.r.CancelBatch(t.Context(), "p", id); err != nil {
		t.Errorf("cancelled again: %v", err)
	}
	if err := w.r.CancelBatch(t.Context(), "p", "none"); ringback.CodeOf(err) != ringback.NotFound {
		t.Errorf("cancel of none: %v", err)
	}
}

// interrupting cancels a batch when it is about to read something of it, once.
type interrupting struct {
	store.Store
	once   sync.Once
	where  string
	cancel func(ringback.ID)
}

func (s *interrupting) at(where string, id ringback.ID) {
	if where == s.where {
		s.once.Do(func() { s.cancel(id) })
	}
}

func (s *interrupting) Batch(ctx context.Context, project, id ringback.ID) (*ringback.Batch, error) {
	s.at("Batch", id)
	return s.Store.Batch(ctx, project, id)
}

func (s *interrupting) ShardRows(ctx context.Context, id ringback.ID, shard int) ([][]byte, error) {
	s.at("ShardRows", id)
	return s.Store.ShardRows(ctx, id, shard)
}

func (s *interrupting) Shards(ctx context.Context, id ringback.ID) ([]store.ShardStatus, error) {
	s.at("Shards", id)
	return s.Store.Shards(ctx, id)
}

// TestCancelWhileTheStoreIsRead: a batch ends at once also if the request to cancel
// it comes while the store is read, which fails then.
func TestCancelWhileTheStoreIsRead(t *testing.T) {
	for _, where := range []string{"Batch", "ShardRows", "Shards"} {
		t.Run(where, func(t *testing.T) {
			m, _ := hanging(0)
			s := &interrupting{where: where}
			w := newBatchWorld(t, m, func(c *work.Config) { s.Store, c.Store = c.Store, s })
			s.cancel = func(id ringback.ID) {
				if err := w.r.CancelBatch(t.Context(), "p", id); err != nil {
					t.Error(err)
				}
			}
			begin := time.Now()
			w.submitBatch(numbered(3), nil)
			if j := w.wait(); j.State != ringback.Cancelled || time.Since(begin) > 4*time.Second {
				t.Errorf("it ended %s after %s", j.State, time.Since(begin))
			}
		})
	}
}

func (w *batchWorld) until(what string, fact func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !fact(); {
		if time.Now().After(deadline) {
			w.Fatalf("it took more than 20 s until %s", what)
		}
	}
}

func TestBatchExpires(t *testing.T) {
	m, hung := hanging(3)
	w := newBatchWorld(t, m, nil)
	id := w.submitBatch(numbered(10), nil)
	<-hung
	w.until("the finished rows are recorded", func() bool { return w.batch(id).Rows.Succeeded == 3 })
	w.now.Store(int64(49 * time.Hour))
	j := w.wait()
	if j.State != ringback.Expired || j.Failure == nil || j.Failure.Code != "DEADLINE_EXCEEDED" {
		t.Errorf("it ended %s, %v", j.State, j.Failure)
	}
	cut := 0
	for _, l := range w.output(id) {
		if strings.HasSuffix(said(t, l), "error 4 the row was not run: the batch expired") {
			cut++
		}
	}
	if cut != 7 {
		t.Errorf("%d rows were not run, want 7", cut)
	}
}

// TestBatchGoesOn stops the server in the middle of a batch and starts another on
// the same data: no finished row is run again, and the input is not planned anew.
func TestBatchGoesOn(t *testing.T) {
	m, hung := hanging(100)
	w := newBatchWorld(t, m, nil)
	id := w.submitBatch(numbered(1000), nil)
	<-hung
	w.until("the finished rows are recorded", func() bool { return w.batch(id).Rows.Succeeded == 100 })
	w.stop(0)
	ran := make(map[string]int)
	var mu sync.Mutex
	ctx, cancel := context.WithCancel(context.Background())
	second := work.New(work.Config{Store: w.st, Emit: w.r.Emit, Node: "test", Blobs: w.blobs, Log: w.r.Log, Lease: 3 * time.Second,
		Backend: model(func(ctx context.Context, prompt string) (string, error) {
			mu.Lock()
			ran[prompt]++
			mu.Unlock()
			return echo(ctx, prompt)
		})})
	done := make(chan error, 1)
	go func() { done <- second.Run(ctx) }()
	if j := w.wait(); j.State != ringback.Completed {
		t.Errorf("it ended %s", j.State)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	second.Stop(t.Context())
	if len(ran) != 900 {
		t.Errorf("%d rows were run after the restart, want 900", len(ran))
	}
	for prompt, n := range maps.All(ran) {
		if n != 1 {
			t.Errorf("row %s was run %d times", prompt, n)
		}
	}
	for i, l := range w.output(id) {
		if got, want := said(t, l), fmt.Sprintf("%d: %d", i, i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// refusingRows refuses to record rows for a while, as a full disk does.
type refusingRows struct {
	store.Store
	left atomic.Int64
}

func (s *refusingRows) RecordRows(ctx context.Context, id ringback.ID, g store.RowGroup, at time.Time) error {
	if s.left.Add(-1) >= 0 {
		return &ringback.Error{Code: ringback.StorageFull, Message: "the disk is full"}
	}
	return s.Store.RecordRows(ctx, id, g, at)
}

// TestFullDiskHoldsRows: answers that can't be recorded are kept, no row is paid
// for twice, and no more rows are begun than may be open.
func TestFullDiskHoldsRows(t *testing.T) {
	var asked atomic.Int64
	full := &refusingRows{}
	full.left.Store(5)
	w := newBatchWorld(t, func(ctx context.Context, prompt string) (string, error) {
		asked.Add(1)
		return echo(ctx, prompt)
	}, func(c *work.Config) {
		full.Store = c.Store
		c.Store = full
	})
	id := w.submitBatch(numbered(600), nil)
	if j := w.wait(); j.State != ringback.Completed || asked.Load() != 600 || len(w.output(id)) != 600 {
		t.Errorf("it ended %s; %d rows were asked", j.State, asked.Load())
	}
}

func TestDeleteStopsABatch(t *testing.T) {
	m, hung := hanging(3)
	w := newBatchWorld(t, m, nil)
	id := w.submitBatch(numbered(10), nil)
	<-hung
	if err := w.r.Delete(t.Context(), "p", id); err != nil {
		t.Fatal(err)
	}
	w.stop(20 * time.Second) // It would wait for a batch that goes on.
	if _, err := w.st.Batch(t.Context(), "p", id); ringback.CodeOf(err) != ringback.NotFound {
		t.Errorf("the batch: %v", err)
	}
	for more := true; more; {
		var err error
		if more, err = w.st.SweepBatches(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := w.st.Shards(t.Context(), id); err != nil || len(s) > 0 {
		t.Errorf("shards are left: %v, %v", s, err)
	}
}

// TestBatchPriority: among waiting batches the one of the highest priority is
// claimed first.
func TestBatchPriority(t *testing.T) {
	begun, release := make(chan struct{}, 3), make(chan struct{})
	w := newBatchWorld(t, func(ctx context.Context, prompt string) (string, error) {
		begun <- struct{}{}
		<-release
		return echo(ctx, prompt)
	}, func(c *work.Config) { c.MaxBatches = 1 })
	first := w.submitBatch(line("k", "x"), nil)
	<-begun // It has the only place.
	low := w.submitBatch(line("k", "x"), nil)
	high := w.submitBatch(line("k", "x"), func(_ *ringback.Job, b *ringback.Batch) { b.Priority = 5 })
	close(release)
	for _, want := range []ringback.ID{first, high, low} {
		if got := w.wait(); got.ID != want {
			t.Errorf("%s ended, want %s", got.ID, want)
		}
	}
}
