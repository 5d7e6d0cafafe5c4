package crashtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ringback.dev/internal/crash"
)

const (
	batchRows   = 20_000
	batchKills  = 50
	stepKills   = 4
	stepRows    = 1200 // More than two shards.
	openRows    = 256  // How many rows of a batch are begun and not yet recorded, at most.
	rowsPerLife = 500  // Requests after which a server is killed, at most: the last kill meets the batch, too.
)

// TestKillBatch kills the server at random moments of one batch. The model counts
// what it is asked.
func TestKillBatch(t *testing.T) {
	m := newModel(t)
	w := newWorld(t, build(t), "--openai-url", m.srv.URL)
	w.start("")
	w.submitBatch(batchRows)
	for range batchKills {
		m.after(1 + rand.IntN(rowsPerLife))
		w.kill()
		w.start("")
	}
	w.everyCallback()
	w.checkBatches()
	w.stop()
	again := m.again(batchRows)
	if again > batchKills*openRows {
		t.Errorf("%d rows were run again after %d kills, more than %d each time", again, batchKills, openRows)
	}
	_, doubles := w.receiver.check(t, w.acknowledged)
	fmt.Printf("crash: a batch of %d rows, %d kills, each row once and in order, %d rows run again (%d per kill), %d callbacks doubled\n",
		batchRows, batchKills, again, again/batchKills, doubles)
}

// TestKillBatchAtEveryStep kills the server at each step of batches, and of their
// ends.
func TestKillBatchAtEveryStep(t *testing.T) {
	w := newWorld(t, build(t), "--emulator")
	kills := 0
	for _, step := range append(crash.BatchSteps(), crash.EndDecided, crash.EndCommitted) {
		for n := range stepKills {
			nth := 1
			if step == crash.RowsAnswered || step == crash.RowsRecorded {
				nth = 1 + n // Further groups of rows.
			}
			w.start(fmt.Sprintf("%s:%d", step, nth))
			w.submitBatch(stepRows)
			w.killedAt(step)
			kills++
		}
		w.start("")
		w.everyCallback()
		w.checkBatches()
		w.stop()
	}
	batches, doubles := w.receiver.check(t, w.acknowledged)
	fmt.Printf("crash: %d kills at the steps of batches, %d batches of %d rows acknowledged, 0 lost, each row once and in order, %d callbacks doubled\n",
		kills, batches, stepRows, doubles)
}

// TestBatchOnFullDisk fills the disk twice during a batch: it is emptied the first
// time, and the server is killed the second.
func TestBatchOnFullDisk(t *testing.T) {
	m := newModel(t)
	w := newWorld(t, build(t), "--openai-url", m.srv.URL)
	w.start("")
	w.submitBatch(batchRows)
	m.after(batchRows / 8)
	w.limitFiles(1)
	w.stderr.waitFor("can't be stored yet")
	w.limitFiles(unix.RLIM_INFINITY)
	m.after(batchRows / 8)
	w.limitFiles(1)
	w.stderr.waitFor("can't be stored yet")
	w.kill()
	w.start("")
	w.everyCallback()
	w.checkBatches()
	w.stop()
	w.receiver.check(t, w.acknowledged)
	again := m.again(batchRows)
	if again > openRows { // None after the first time: the results were kept in memory.
		t.Errorf("%d rows were run again, more than %d", again, openRows)
	}
	fmt.Printf("crash: a batch of %d rows on a disk that was full twice, one kill, each row once and in order, %d rows run again\n", batchRows, again)
}

// TestBatchWhileModelIsDown takes the back-end away during a batch and kills the
// server meanwhile: the batch waits.
func TestBatchWhileModelIsDown(t *testing.T) {
	m := newModel(t)
	w := newWorld(t, build(t), "--openai-url", m.srv.URL)
	w.start("")
	w.submitBatch(batchRows)
	m.after(batchRows / 4)
	m.takeDown(true)
	m.refuses(4)
	w.kill()
	w.start("")
	m.refuses(4)
	m.takeDown(false)
	w.everyCallback()
	w.checkBatches()
	w.stop()
	w.receiver.check(t, w.acknowledged)
	again := m.again(batchRows)
	if again > openRows {
		t.Errorf("%d rows were run again, more than %d", again, openRows)
	}
	fmt.Printf("crash: a batch of %d rows while its back-end was down, one kill, each row once and in order, %d rows run again\n", batchRows, again)
}

// limitFiles bounds the size of the files that the server writes: as far as the
// server can tell, the disk is full.
func (w *world) limitFiles(size uint64) {
	w.t.Helper()
	limit := unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(w.cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		w.t.Fatal(err)
	}
}

// submitBatch uploads a file of n rows and has it run. A batch that the server did
// not live to acknowledge is not counted.
func (w *world) submitBatch(n int) {
	var input bytes.Buffer
	for i := range n {
		fmt.Fprintf(&input, `{"key":"k%d","request":{"contents":[{"parts":[{"text":"row %d."}]}]}}`+"\n", i, i)
	}
	var uploaded struct{ File struct{ Name string } }
	if w.post("/upload/v1beta/files", input.String(), &uploaded) != nil {
		return
	}
	var batch struct{ Name string }
	if w.post("/v1beta/models/m:batchGenerateContent", fmt.Sprintf(`{"batch":{"inputConfig":{"fileName":%q}}}`, uploaded.File.Name), &batch) != nil {
		return
	}
	w.mu.Lock()
	w.acknowledged[batch.Name] = true
	w.mu.Unlock()
}

// checkBatches reads the results of all batches: each row must be there once, in
// the order of the input, with an answer to its own prompt.
func (w *world) checkBatches() {
	w.t.Helper()
	for name := range w.acknowledged {
		var batch struct {
			Dest     struct{ FileName string }
			Metadata struct {
				BatchStats struct {
					RequestCount           int `json:",string"`
					SuccessfulRequestCount int `json:",string"`
				}
			}
		}
		if err := w.get("/v1beta/"+name, &batch); err != nil {
			w.t.Fatal(err)
		}
		stats := batch.Metadata.BatchStats
		rows := stats.RequestCount
		if rows == 0 || stats.SuccessfulRequestCount != rows {
			w.t.Errorf("%s: %+v", name, batch)
		}
		resp, err := w.do(http.MethodGet, "/v1beta/"+batch.Dest.FileName+":download?alt=media", nil)
		if err != nil {
			w.t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		i := 0
		for ; lines.Scan(); i++ {
			if line := lines.Text(); !strings.HasSuffix(line, fmt.Sprintf(`"key":"k%d"}`, i)) || !strings.Contains(line, fmt.Sprintf("row %d.", i)) {
				w.t.Fatalf("%s: line %d is %s", name, i, line)
			}
		}
		if lines.Err() != nil || i != rows {
			w.t.Errorf("%s: %d lines of %d rows (%v)", name, i, rows, lines.Err())
		}
		_ = resp.Body.Close()
	}
}

// model is an OpenAI-compatible server that repeats what it is told, and counts
// how often it is told what.
type model struct {
	t   *testing.T
	srv *httptest.Server

	mu      sync.Mutex
	down    bool
	asked   map[string]int // By prompt.
	total   int
	refused int
	news    *sync.Cond // At every change.
}

func newModel(t *testing.T) *model {
	m := &model{t: t, asked: make(map[string]int)}
	m.news = sync.NewCond(&m.mu)
	m.srv = httptest.NewServer(http.HandlerFunc(m.answer))
	t.Cleanup(m.srv.Close)
	return m
}

func (m *model) answer(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"m","object":"model"}]}`)
		return
	}
	var in struct{ Messages []struct{ Content any } }
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		return // The server died while it sent.
	}
	m.mu.Lock()
	defer m.news.Broadcast()
	defer m.mu.Unlock()
	if m.down {
		m.refused++
		panic(http.ErrAbortHandler) // The connection breaks.
	}
	prompt := fmt.Sprint(in.Messages[0].Content)
	m.asked[prompt]++
	m.total++
	_ = json.NewEncoder(w).Encode(map[string]any{"id": "c", "object": "chat.completion", "model": "m", "choices": []any{
		map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": prompt}}}})
}

func (m *model) takeDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

// after returns when the model was asked n times more.
func (m *model) after(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	until := m.total + n
	await(m.t, m.news, m.state, func() bool { return m.total >= until })
}

// refuses returns when the model has refused n times more.
func (m *model) refuses(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	until := m.refused + n
	await(m.t, m.news, m.state, func() bool { return m.refused >= until })
}

// state is for the message of a failed test.
func (m *model) state() string {
	return fmt.Sprintf("the model was asked %d questions, %d different ones, and refused %d", m.total, len(m.asked), m.refused)
}

// again is how many of the questions had been asked before. Each of the rows must
// have been.
func (m *model) again(rows int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asked) != rows {
		m.t.Errorf("%d rows were run, not %d", len(m.asked), rows)
	}
	return m.total - rows
}
