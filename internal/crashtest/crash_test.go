// Package crashtest kills a real server process with SIGKILL at every step of an
// event's life, starts it again on the same data, and proves that every callback
// of an acknowledged job arrives, that doubles carry the same webhook-id, and
// that every signature verifies. See docs/architecture.md for the steps.
package crashtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ringback.dev/internal/crash"
	"ringback.dev/webhook"
)

const (
	killsPerStep = 26
	randomKills  = 12
	jobsPerRun   = 4
)

// TestKillAtEveryStep runs the steps one after the other on one data folder,
// which thus sees all the kills.
func TestKillAtEveryStep(t *testing.T) {
	binary := build(t)
	w := newWorld(t, binary)
	kills := 0
	for _, step := range crash.Steps() {
		for n := range killsPerStep {
			// The n-th time that the step is reached, so that other work is in other
			// steps when the process dies.
			w.start(fmt.Sprintf("%s:%d", step, 1+n%jobsPerRun))
			w.submit(jobsPerRun)
			if how := w.wait(); how != syscall.SIGKILL {
				t.Fatalf("%s: the server ended with %v, not by the kill; its log:\n%s", step, how, w.log())
			}
			kills++
			if n%10 == 9 {
				w.drain() // A job is given up after 20 runs that were cut off.
			}
		}
		w.drain()
	}
	for range randomKills {
		w.start("")
		done := make(chan struct{})
		go func() { defer close(done); w.submit(20) }()
		// Kill at a random one of the callbacks that arrive.
		w.receiver.after(1 + rand.IntN(10))
		w.kill()
		<-done
		kills++
	}
	w.drain()
	jobs, doubles := w.receiver.check(t, w.acknowledged)
	fmt.Printf("crash: %d kills, %d jobs acknowledged, 0 lost, %d delivered more than once, all under the same webhook-id\n", kills, jobs, doubles)
}

// drain runs the server undisturbed until all callbacks have arrived.
func (w *world) drain() {
	w.t.Helper()
	w.start("")
	w.submit(1)
	w.everyCallback()
	w.stop()
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ringback")
	out, err := exec.Command("go", "build", "-tags", "crashtest", "-o", binary, "ringback.dev/cmd/ringback").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// world is a data folder, the server that runs on it, and what is known outside.
type world struct {
	t            *testing.T
	binary, data string
	receiver     *receiver

	url, key     string
	cmd          *exec.Cmd
	stderr       *bytes.Buffer
	mu           sync.Mutex
	acknowledged map[string]bool // Jobs whose creation was answered 200.
}

func newWorld(t *testing.T, binary string) *world {
	w := &world{t: t, binary: binary, data: t.TempDir(), receiver: newReceiver(t), acknowledged: make(map[string]bool)}
	w.start("")
	var hook struct {
		Secret string `json:"new_signing_secret"`
	}
	body := fmt.Sprintf(`{"uri":%q,"subscribed_events":["interaction.completed"]}`, w.receiver.srv.URL)
	if err := w.post("/v1/webhooks", body, &hook); err != nil {
		t.Fatal(err)
	}
	secret, err := webhook.ParseSecret(hook.Secret)
	if err != nil {
		t.Fatal(err)
	}
	w.receiver.secret = secret
	w.stop()
	return w
}

// start runs the server, armed to die at a step, until it listens or dies.
func (w *world) start(crashAt string) {
	w.t.Helper()
	w.stderr = new(bytes.Buffer)
	w.cmd = exec.Command(w.binary, "serve", "--emulator", "--allow-http-callbacks", "--allow-private-callbacks",
		"--listen", "127.0.0.1:0", "--data", w.data, "--log-level", "warn")
	w.cmd.Env = append(w.cmd.Environ(), "RINGBACK_CRASH="+crashAt)
	w.cmd.Stderr = w.stderr
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	process := w.cmd.Process
	w.t.Cleanup(func() { _ = process.Kill() }) // It has ended unless the test broke off.
	w.url = ""
	for lines := bufio.NewScanner(out); w.url == "" && lines.Scan(); {
		if text := strings.TrimSpace(lines.Text()); strings.HasPrefix(text, "rbk_") {
			w.key = text
		}
		w.url, _ = strings.CutPrefix(lines.Text(), "listening on ")
		if !strings.HasPrefix(w.url, "http") {
			w.url = ""
		}
	}
	w.receiver.keys.Store(webhook.NewKeySet(w.url + "/.well-known/jwks.json"))
	go func() { _, _ = io.Copy(io.Discard, out) }() // Ends with the process.
	if w.url == "" {
		w.t.Fatalf("the server does not start: %s", w.log())
	}
}

func (w *world) log() string { return w.stderr.String() }

// wait waits until the server has ended and returns the signal that ended it, -1
// if none did.
func (w *world) wait() syscall.Signal {
	w.t.Helper()
	done := make(chan error, 1)
	cmd := w.cmd
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		w.t.Fatalf("the server did not reach the step; its log:\n%s", w.log())
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return s.Signal()
	}
	return -1
}

func (w *world) kill() {
	_ = w.cmd.Process.Kill() // It may have ended.
	w.wait()
}

// stop ends the server in good order.
func (w *world) stop() {
	w.t.Helper()
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	if how := w.wait(); how != -1 || w.cmd.ProcessState.ExitCode() != 0 {
		w.t.Fatalf("the server ended with %v, exit code %d: %s", how, w.cmd.ProcessState.ExitCode(), w.log())
	}
}

func (w *world) post(path, body string, out any) error {
	req, err := http.NewRequest(http.MethodPost, w.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Goog-Api-Key", w.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		return errors.Join(fmt.Errorf("status %d: %s", resp.StatusCode, text), err)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// submit creates n jobs at once. Those that the server did not live to
// acknowledge are not counted.
func (w *world) submit(n int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var job struct{ ID string }
			body := `{"model":"m","input":"hi","background":true}`
			if i%2 == 1 { // It names its receiver, which gets a JWT.
				body = fmt.Sprintf(`{"model":"m","input":"hi","background":true,"webhook_config":{"uris":[%q]}}`, w.receiver.srv.URL)
			}
			if w.post("/v1/interactions", body, &job) == nil && job.ID != "" {
				w.mu.Lock()
				w.acknowledged[job.ID] = true
				w.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// everyCallback waits until each acknowledged job has called back.
func (w *world) everyCallback() {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for {
		missing, news := w.receiver.missing(w.acknowledged)
		if missing == 0 {
			return
		}
		select {
		case <-news:
		case <-deadline:
			w.t.Fatalf("%d of %d callbacks are lost; the server's log:\n%s", missing, len(w.acknowledged), w.log())
		}
	}
}

// receiver notes every callback, as a receiver that acts once would.
type receiver struct {
	t      *testing.T
	srv    *httptest.Server
	secret webhook.Secret
	keys   atomic.Pointer[webhook.KeySet] // Of the server that runs.

	mu      sync.Mutex
	arrived map[string]map[string]int // Job → webhook-id → times.
	total   int
	news    chan struct{} // Closed and replaced at every arrival.
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, arrived: make(map[string]map[string]int), news: make(chan struct{})}
	r.srv = httptest.NewServer(http.HandlerFunc(r.receive))
	t.Cleanup(r.srv.Close)
	return r
}

func (r *receiver) receive(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // The server died while it sent.
	}
	v := &webhook.Verifier{Secrets: []webhook.Secret{r.secret}, Keys: r.keys.Load(), Audience: []string{r.srv.URL}}
	m, err := v.VerifyContext(q.Context(), q.Header, body)
	if errors.Is(err, webhook.ErrKeySet) {
		w.WriteHeader(http.StatusServiceUnavailable) // The server died meanwhile.
		return
	}
	if err != nil {
		r.t.Errorf("a callback does not verify: %v", err)
		return
	}
	var event struct{ Data struct{ ID string } }
	if err := json.Unmarshal(body, &event); err != nil {
		r.t.Errorf("a callback is not JSON: %v", err)
		return
	}
	r.mu.Lock()
	if r.arrived[event.Data.ID] == nil {
		r.arrived[event.Data.ID] = make(map[string]int)
	}
	r.arrived[event.Data.ID][m.ID]++
	r.total++
	close(r.news)
	r.news = make(chan struct{})
	r.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// after returns when n more callbacks have arrived.
func (r *receiver) after(n int) {
	r.mu.Lock()
	until := r.total + n
	for r.total < until {
		news := r.news
		r.mu.Unlock()
		<-news
		r.mu.Lock()
	}
	r.mu.Unlock()
}

func (r *receiver) missing(jobs map[string]bool) (int, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for id := range jobs {
		if len(r.arrived[id]) == 0 {
			n++
		}
	}
	return n, r.news
}

// check counts what arrived more than once, and fails if doubles differ in id.
func (r *receiver) check(t *testing.T, jobs map[string]bool) (acknowledged, doubles int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for job, ids := range r.arrived {
		if len(ids) != 1 {
			t.Errorf("job %s was called back under %d ids", job, len(ids))
		}
		for _, times := range ids {
			if times > 1 {
				doubles++
			}
		}
	}
	return len(jobs), doubles
}
