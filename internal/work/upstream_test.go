package work_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/work"
)

// cloud is a provider that takes whole batches, in memory. Its rows are the prompts,
// a line each.
type cloud struct {
	model
	mu      sync.Mutex
	files   map[string]string
	batches map[string]*cloudBatch
	// fail returns the error of a call, by its name; lost is one that comes although
	// the call was done.
	fail, lost func(call string) error
	calls      map[string]int
	changed    *sync.Cond
}

type cloudBatch struct {
	backend.UpstreamBatch
	status    backend.UpstreamStatus
	cancelled bool
	removed   bool
}

func newCloud() *cloud {
	c := &cloud{model: echo, files: make(map[string]string), batches: make(map[string]*cloudBatch), calls: make(map[string]int)}
	c.changed = sync.NewCond(&c.mu)
	return c
}

// call counts a call, locks, and returns what ends it.
func (c *cloud) call(name string) (done func(*error), err error) {
	c.mu.Lock()
	c.calls[name]++
	if c.fail != nil {
		err = c.fail(name)
	}
	return func(err *error) {
		if *err == nil && c.lost != nil {
			*err = c.lost(name)
		}
		c.changed.Broadcast()
		c.mu.Unlock()
	}, err
}

func (c *cloud) AppendRow(text []byte, row *backend.UpstreamRow) ([]byte, error) {
	return fmt.Appendf(text, "%d\t%s\n", row.Number, *row.Generate.Contents[0].Parts[0].Text), nil
}

func (c *cloud) UploadRows(_ context.Context, name string, rows io.Reader) (_ string, err error) {
	text, err := io.ReadAll(rows)
	if err != nil {
		return "", err
	}
	done, err := c.call("upload")
	defer done(&err)
	if err == nil && c.files[name] == "" {
		c.files[name] = string(text)
	}
	return name, err
}

func (c *cloud) CreateBatch(_ context.Context, b *backend.UpstreamBatch) (name string, err error) {
	done, err := c.call("create")
	defer done(&err)
	if err != nil {
		return "", err
	}
	name = "b" + strconv.Itoa(len(c.batches)+1)
	c.batches[name] = &cloudBatch{UpstreamBatch: *b, status: backend.UpstreamStatus{State: ringback.Running}}
	return name, nil
}

func (c *cloud) FindBatch(_ context.Context, displayName string, _ time.Time) (name string, err error) {
	done, err := c.call("find")
	defer done(&err)
	for n, b := range c.batches {
		if b.DisplayName == displayName {
			name = n
		}
	}
	return name, err
}

var errGone = &backend.Error{Kind: backend.ModelNotFound, Message: "no such batch"}

func (c *cloud) BatchStatus(_ context.Context, batch string) (_ *backend.UpstreamStatus, err error) {
	done, err := c.call("status")
	defer done(&err)
	b := c.batches[batch]
	switch {
	case err != nil:
		return nil, err
	case b == nil || b.removed:
		return nil, errGone
	}
	s := b.status
	return &s, nil
}

func (c *cloud) BatchResults(_ context.Context, file string, to io.Writer) (err error) {
	done, err := c.call("results")
	defer done(&err)
	if err != nil {
		return err
	}
	text, ok := c.files[file]
	if !ok {
		return errGone
	}
	_, err = io.WriteString(to, text)
	return err
}

func (c *cloud) ReadResult(line []byte) (*backend.UpstreamResult, error) {
	number, text, ok := bytes.Cut(line, []byte("\t"))
	n, err := strconv.ParseInt(string(number), 10, 64)
	if !ok || err != nil {
		return nil, errors.New("a strange line")
	}
	if message, failed := bytes.CutPrefix(text, []byte("!")); failed {
		return &backend.UpstreamResult{Number: n, Error: &genai.RowError{Code: 3, Message: string(message)}}, nil
	}
	response, err := json.Marshal(map[string]any{"candidates": []any{map[string]any{"content": map[string]any{"parts": []any{map[string]any{"text": string(text)}}}}}})
	return &backend.UpstreamResult{Number: n, Response: response}, err
}

func (c *cloud) CancelBatch(_ context.Context, batch string) (err error) {
	done, err := c.call("cancel")
	defer done(&err)
	if b := c.batches[batch]; err == nil && b != nil {
		b.cancelled = true
	}
	return err
}

func (c *cloud) RemoveBatch(_ context.Context, batch string, files ...string) (err error) {
	done, err := c.call("remove")
	defer done(&err)
	if b := c.batches[batch]; err == nil && b != nil {
		b.removed = true
	}
	for _, f := range files {
		delete(c.files, f)
	}
	return err
}

// after waits until a call was made so often.
func (c *cloud) after(call string, times int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.calls[call] < times {
		c.changed.Wait()
	}
}

// made counts the calls of a name.
func (c *cloud) made(call string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[call]
}

// batch is a copy of one of the batches, b1, b2 …
func (c *cloud) batch(name string) cloudBatch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.batches[name]
}

// left counts the files and the batches.
func (c *cloud) left() (files, batches int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.files), len(c.batches)
}

// end ends the only batch, with these results if results is not nil. They are made
// of its rows: each line holds a row's number and what is said.
func (c *cloud) end(state ringback.State, failure *ringback.Failure, results func(rows []string) []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.batches["b1"]
	b.status.State, b.status.Failure = state, failure
	if results != nil {
		b.status.Results = "out"
		c.files["out"] = strings.Join(results(strings.Split(strings.TrimSuffix(c.files[b.File], "\n"), "\n")), "\n") + "\n"
	}
}

// each answers every row with its prompt.
func each(rows []string) []string { return rows }

// cloudWorld is a world whose models are at a provider. Its time is a bubble's.
func cloudWorld(t *testing.T, test func(*batchWorld, *cloud)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud()
		w := newBatchWorld(t, echo, func(w *work.Config) {
			router, err := backend.NewRouter([]backend.Route{{Match: "*", Backend: c}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.Backend, w.HookURL, w.MaxBatches, w.Lease = router, "https://ringback.example/hook/", 1, 10*time.Minute
		})
		test(w, c)
	})
}

// patiently waits for the next end, for as long as a provider may take.
func (w *batchWorld) patiently() *ringback.Job {
	w.Helper()
	select {
	case id := <-w.st.ended:
		return w.get(id)
	case <-time.After(24 * time.Hour):
		w.Fatal("no job ended")
		return nil
	}
}

// says checks what became of each row, in short.
func (w *batchWorld) says(id ringback.ID, want ...string) {
	w.Helper()
	var got []string
	for _, l := range w.output(id) {
		got = append(got, said(w.T, l))
	}
	if !slices.Equal(got, want) {
		w.Errorf("the rows say %q, want %q", got, want)
	}
}

// TestUpstreamResults: in any order, twice, strange or missing, each row gets what is
// its own; bad lines are not sent.
func TestUpstreamResults(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		id := w.submitBatch(line("a", "0")+"no json\n"+line("c", "2")+line("d", "3")+line("e", "4"), nil)
		c.after("status", 1)
		b := c.batch("b1")
		c.mu.Lock()
		rows := c.files[b.File]
		c.mu.Unlock()
		if b.DisplayName != "ringback "+string(id) || !strings.HasPrefix(b.Webhook, "https://ringback.example/hook/"+string(id)+"/") || rows != "0\t0\n2\t2\n3\t3\n4\t4\n" {
			w.Errorf("created: %+v, rows %q", b, rows)
		}
		c.end(ringback.Completed, nil, func([]string) []string {
			return []string{"4\tfour", "", "strange", "99\tnobody's", "0\tzero", "0\tagain", "3\t!not today"}
		})
		j := w.patiently()
		w.says(id, "a: zero", ": error 3 line 2: malformed JSON at byte 2: invalid character 'o' in literal null (expecting 'u')",
			"c: error 13 the back-end's results have none for this row", "d: error 3 not today", "e: four")
		if got := w.batch(id); j.State != ringback.Completed || got.Rows != (ringback.RowCounts{Total: 5, Succeeded: 2, Failed: 3}) {
			w.Errorf("it ended %s, %+v", j.State, got.Rows)
		}
		w.stop(time.Minute)
		b = c.batch("b1")
		if files, _ := c.left(); !b.removed || files > 0 || b.cancelled {
			w.Errorf("%d files are left there, cancelled %v, removed %v", files, b.cancelled, b.removed)
		}
	})
}

// TestUpstreamEnds: what the provider makes of a batch is what we make of it.
func TestUpstreamEnds(t *testing.T) {
	for name, x := range map[string]struct {
		state    ringback.State
		failure  *ringback.Failure
		results  func([]string) []string
		want     ringback.State
		code     string
		rows     []string
		finished int64
	}{
		"failed": {ringback.Failed, &ringback.Failure{Code: "INVALID_ARGUMENT", Message: "bad file"}, nil, ringback.Failed, "INVALID_ARGUMENT", nil, 0},
		"failed half way": {ringback.Failed, &ringback.Failure{Code: "INTERNAL", Message: "out of luck"}, func(r []string) []string { return r[:1] }, ringback.Failed, "INTERNAL",
			[]string{"0: 0", "1: error 13 the row was not run: out of luck"}, 1},
		"failed without a word": {ringback.Failed, nil, nil, ringback.Failed, "INTERNAL", nil, 0},
		"expired": {ringback.Expired, &ringback.Failure{Code: "DEADLINE_EXCEEDED", Message: "too late"}, func(r []string) []string { return r[1:] }, ringback.Expired, "DEADLINE_EXCEEDED",
			[]string{"0: error 4 the row was not run: too late", "1: 1"}, 1},
		"cancelled by somebody there": {ringback.Cancelled, &ringback.Failure{Code: "CANCELLED", Message: "x"}, func(r []string) []string { return r[1:] }, ringback.Cancelled, "",
			[]string{"0: error 1 the row was not run: the batch was cancelled", "1: 1"}, 1},
		"without results": {ringback.Completed, nil, nil, ringback.Failed, "INTERNAL", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cloudWorld(t, func(w *batchWorld, c *cloud) {
				id := w.submitBatch(numbered(2), nil)
				c.after("status", 2)
				c.end(x.state, x.failure, x.results)
				j := w.patiently()
				code := ""
				if j.Failure != nil {
					code = j.Failure.Code
				}
				if j.State != x.want || code != x.code || w.batch(id).Rows != (ringback.RowCounts{Total: 2, Succeeded: x.finished}) {
					w.Errorf("it ended %s, %+v, rows %+v", j.State, j.Failure, w.batch(id).Rows)
				}
				if x.rows != nil {
					w.says(id, x.rows...)
				} else if b := w.batch(id); b.OutputFile != "" {
					w.Errorf("it has the output %s", b.OutputFile)
				}
			})
		})
	}
}

// TestUpstreamExpires: a batch that is not done in time is cancelled there, and what
// it has finished is kept. One that is never cancelled is given up.
func TestUpstreamExpires(t *testing.T) {
	for name, obeys := range map[string]bool{"obeys": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			cloudWorld(t, func(w *batchWorld, c *cloud) {
				id := w.submitBatch(numbered(2), nil)
				c.after("status", 2)
				w.now.Store(int64(48 * time.Hour))
				c.after("cancel", 1)
				if obeys {
					c.end(ringback.Cancelled, nil, func(r []string) []string { return r[1:] })
				}
				j := w.patiently()
				if j.State != ringback.Expired || j.Failure == nil || !strings.Contains(j.Failure.Message, "--batch-ttl") || j.Runs != 1 {
					w.Errorf("it ended %s, %+v after %d runs", j.State, j.Failure, j.Runs)
				}
				second := "1: error 4 the row was not run: the batch expired"
				if obeys {
					second = "1: 1"
				}
				w.says(id, "0: error 4 the row was not run: the batch expired", second)
			})
		})
	}
}

// TestUpstreamIsAskedLess: more and more seldom as time goes by, and at once when
// somebody calls who knows the secret, however often.
func TestUpstreamIsAskedLess(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		id := w.submitBatch(numbered(1), nil)
		c.after("status", 1)
		asked := func(during time.Duration) int {
			before := c.made("status")
			time.Sleep(during)
			return c.made("status") - before
		}
		if n := asked(time.Minute); n < 5 || n > 13 {
			w.Errorf("asked %d times in the first minute", n)
		}
		time.Sleep(30 * time.Minute)
		if n := asked(50 * time.Minute); n < 9 || n > 12 {
			w.Errorf("asked %d times in 50 minutes later on", n)
		}
		_, secret, _ := strings.Cut(c.batch("b1").Webhook, string(id)+"/")
		time.Sleep(7 * time.Minute)
		for range 100 {
			w.r.Nudge(id, "wrong")
			w.r.Nudge(id, "")
			w.r.Nudge("none", secret)
		}
		if n := asked(time.Second); n > 1 {
			w.Errorf("asked %d times after calls of strangers", n)
		}
		flood := time.Now().Add(3 * time.Second)
		n := asked(0)
		for time.Now().Before(flood) {
			w.r.Nudge(id, secret)
			n += asked(time.Millisecond)
		}
		if n < 5 || n > 14 {
			w.Errorf("asked %d times in 3 s of calls", n)
		}
		c.end(ringback.Completed, nil, each)
		w.r.Nudge(id, secret)
		begin := time.Now()
		if j := w.patiently(); j.State != ringback.Completed || time.Since(begin) > time.Second {
			w.Errorf("it ended %s after %s", j.State, time.Since(begin))
		}
		// It took no place while it waited, and did not stall.
		events, err := w.st.JobEvents(w.Context(), "p", id)
		if err != nil || len(events) != 1 {
			w.Errorf("events %+v, %v", events, err)
		}
	})
}

// TestUpstreamTakesNoPlace: with one place, many batches wait for the provider.
func TestUpstreamTakesNoPlace(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		var ids []ringback.ID
		for range 5 {
			ids = append(ids, w.submitBatch(numbered(1), nil))
		}
		c.after("create", len(ids))
		c.mu.Lock()
		for _, b := range c.batches {
			b.status = backend.UpstreamStatus{State: ringback.Completed, Results: b.File}
		}
		c.mu.Unlock()
		for range ids {
			if j := w.patiently(); j.State != ringback.Completed {
				w.Errorf("it ended %s", j.State)
			}
		}
	})
}

// TestUpstreamCounts: while it runs there, the counts are the provider's, and those
// of bad lines.
func TestUpstreamCounts(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		id := w.submitBatch(numbered(4)+"no json\n", nil)
		c.after("status", 1)
		c.mu.Lock()
		c.batches["b1"].status.Rows = ringback.RowCounts{Total: 4, Succeeded: 2, Failed: 1}
		asked := c.calls["status"]
		c.mu.Unlock()
		c.after("status", asked+1)
		synctest.Wait()
		if got := w.batch(id).Rows; got != (ringback.RowCounts{Total: 5, Succeeded: 2, Failed: 2}) {
			w.Errorf("counts: %+v", got)
		}
		c.end(ringback.Completed, nil, each)
		w.patiently()
	})
}

var errAway = &backend.Error{Kind: backend.Unavailable, Message: "the back-end can't be reached"}

// TestUpstreamIsPaidOnce: whatever goes wrong on the way, one batch is created.
func TestUpstreamIsPaidOnce(t *testing.T) {
	for name, x := range map[string]struct{ fail, lost map[string]int }{
		"the answer to the creation is lost": {nil, map[string]int{"create": 1}},
		"the creation does not arrive":       {map[string]int{"create": 3}, nil},
		"everything fails at first":          {map[string]int{"upload": 3, "create": 2, "find": 4, "status": 5, "results": 3}, map[string]int{"upload": 1, "results": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			cloudWorld(t, func(w *batchWorld, c *cloud) {
				left := func(of map[string]int) func(string) error {
					return func(call string) error {
						if of[call]--; of[call] >= 0 {
							return errAway
						}
						return nil
					}
				}
				c.fail, c.lost = left(maps.Clone(x.fail)), left(maps.Clone(x.lost))
				if x.fail == nil {
					c.fail = nil
				}
				if x.lost == nil {
					c.lost = nil
				}
				id := w.submitBatch(numbered(3), nil)
				c.after("status", 1)
				if _, n := c.left(); n != 1 {
					w.Errorf("%d batches were created", n)
				}
				c.end(ringback.Completed, nil, each)
				if j := w.patiently(); j.State != ringback.Completed {
					w.Errorf("it ended %s, %+v", j.State, j.Failure)
				}
				w.says(id, "0: 0", "1: 1", "2: 2")
			})
		})
	}
}

// TestUpstreamRefuses: what the provider refuses for good fails the batch; a webhook
// that it does not want is left out; a key that it refuses is waited for.
func TestUpstreamRefuses(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		refusals := []error{&backend.Error{Kind: backend.Unauthorized, Message: "the key"}, &backend.Error{Kind: backend.InvalidRequest, Message: "no webhooks"},
			&backend.Error{Kind: backend.RateLimited, Message: "slow", RetryAfter: 10 * time.Minute}, &backend.Error{Kind: backend.InvalidRequest, Message: "no cats"}}
		c.fail = func(call string) (err error) {
			if call == "create" && len(refusals) > 0 {
				err, refusals = refusals[0], refusals[1:]
			}
			return err
		}
		begin := time.Now()
		w.submitBatch(numbered(1), nil)
		j := w.patiently()
		if j.State != ringback.Failed || j.Failure.Code != "INVALID_ARGUMENT" || j.Failure.Message != "no cats" || c.made("find") != 0 || time.Since(begin) < 10*time.Minute {
			w.Errorf("it ended %s, %+v after %s; searched %d times", j.State, j.Failure, time.Since(begin), c.made("find"))
		}
		w.stop(time.Minute)
		if files, _ := c.left(); files > 0 {
			w.Error("the rows are left there")
		}
	})
}

// TestUpstreamForgets: a batch that the provider does not know any more is lost, but
// not at once: a key may have been changed by mistake.
func TestUpstreamForgets(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		w.submitBatch(numbered(1), nil)
		c.after("status", 1)
		c.mu.Lock()
		c.batches["b1"].removed = true
		c.mu.Unlock()
		begin := time.Now()
		j := w.patiently()
		if took := time.Since(begin); j.State != ringback.Failed || j.Failure.Code != "NOT_FOUND" || took < 10*time.Minute || took > 12*time.Minute {
			w.Errorf("it ended %s, %+v after %s", j.State, j.Failure, took)
		}
	})
}

// TestUpstreamResultsAreGone: each row says so; nothing is run again.
func TestUpstreamResultsAreGone(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		id := w.submitBatch(numbered(1), nil)
		c.after("status", 1)
		c.mu.Lock()
		c.batches["b1"].status = backend.UpstreamStatus{State: ringback.Completed, Results: "nowhere"}
		c.mu.Unlock()
		w.patiently()
		w.says(id, "0: error 13 the back-end's results have none for this row")
	})
}

// TestUpstreamCancelledEarly: one that is cancelled before it was handed over is not
// handed over; one of which it is not known is looked for.
func TestUpstreamCancelledEarly(t *testing.T) {
	for name, exists := range map[string]bool{"it exists": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			cloudWorld(t, func(w *batchWorld, c *cloud) {
				c.fail = func(call string) error {
					if call == "create" && !exists || call == "find" && c.calls["cancelled"] == 0 {
						return errAway
					}
					return nil
				}
				c.lost = func(call string) error {
					if call == "create" {
						return errAway
					}
					return nil
				}
				id := w.submitBatch(numbered(1), nil)
				c.after("find", 1)
				if err := w.r.CancelBatch(w.Context(), "p", id); err != nil {
					w.Fatal(err)
				}
				c.mu.Lock()
				c.calls["cancelled"]++
				c.mu.Unlock()
				if exists {
					c.after("cancel", 1)
					c.end(ringback.Cancelled, nil, each)
				}
				if j := w.patiently(); j.State != ringback.Cancelled {
					w.Errorf("it ended %s", j.State)
				}
				if exists {
					w.says(id, "0: 0")
				} else {
					w.says(id, "0: error 1 the row was not run: the batch was cancelled")
				}
			})
		})
	}
}

// TestUpstreamDeleted: one that is deleted while it is created is not left running.
func TestUpstreamDeleted(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		var id ringback.ID
		ready, deleted := make(chan struct{}), make(chan struct{})
		c.fail = func(call string) error {
			if call == "create" {
				c.mu.Unlock()
				close(ready)
				<-deleted
				c.mu.Lock()
			}
			return nil
		}
		id = w.submitBatch(numbered(1), nil)
		<-ready
		if err := w.r.Delete(w.Context(), "p", id); err != nil {
			w.Fatal(err)
		}
		close(deleted)
		w.stop(time.Minute)
		if b := c.batch("b1"); !b.cancelled || !b.removed {
			w.Errorf("cancelled %v, removed %v", b.cancelled, b.removed)
		}
	})
}

// TestUpstreamFullDisk: what was fetched is kept until the disk has room again, and
// nothing is asked for twice.
func TestUpstreamFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud()
		full := &refusingRows{}
		full.left.Store(5)
		w := newBatchWorld(t, echo, func(w *work.Config) {
			router, err := backend.NewRouter([]backend.Route{{Match: "*", Backend: c}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			full.Store, w.Backend = w.Store, router
			w.Store = full
		})
		id := w.submitBatch(numbered(1200), nil)
		c.after("status", 1)
		c.end(ringback.Completed, nil, each)
		if j := w.patiently(); j.State != ringback.Completed || c.made("results") != 1 || w.batch(id).Rows.Succeeded != 1200 {
			w.Errorf("it ended %s, %+v, results were fetched %d times", j.State, w.batch(id).Rows, c.made("results"))
		}
	})
}

// TestUpstreamOfAnotherConfiguration: a batch that was begun one way is not begun
// again the other way.
func TestUpstreamOfAnotherConfiguration(t *testing.T) {
	cloudWorld(t, func(w *batchWorld, c *cloud) {
		id := w.submitBatch(numbered(2), nil)
		c.after("status", 1)
		w.stop(time.Minute)
		asked := 0
		run := func(be backend.Backend) (stop func()) {
			ctx, cancel := context.WithCancel(context.Background())
			r := work.New(work.Config{Store: w.st, Emit: w.r.Emit, Node: "test", Blobs: w.blobs, Log: w.r.Log, Backend: be, Lease: 3 * time.Second})
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					w.Error(err)
				}
				r.Stop(w.Context())
			}
		}
		stop := run(model(func(ctx context.Context, prompt string) (string, error) {
			asked++
			return echo(ctx, prompt)
		}))
		time.Sleep(time.Minute)
		stop()
		if asked > 0 {
			w.Errorf("%d rows were run that the provider runs", asked)
		}
		router, err := backend.NewRouter([]backend.Route{{Match: "*", Backend: c}}, nil)
		if err != nil {
			w.Fatal(err)
		}
		stop = run(router)
		c.end(ringback.Completed, nil, each)
		if j := w.patiently(); j.State != ringback.Completed || c.made("create") != 1 {
			w.Errorf("it ended %s; %d batches were created", j.State, c.made("create"))
		}
		stop()
		w.says(id, "0: 0", "1: 1")
	})
}
