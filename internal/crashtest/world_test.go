package crashtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	flags        []string // Of the server, beside those that every world needs.
	receiver     *receiver

	url, key     string
	cmd          *exec.Cmd
	stderr       *serverLog
	mu           sync.Mutex
	acknowledged map[string]bool // Jobs whose creation was answered 200.
}

func newWorld(t *testing.T, binary string, flags ...string) *world {
	w := &world{t: t, binary: binary, data: t.TempDir(), flags: flags, receiver: newReceiver(t), acknowledged: make(map[string]bool)}
	w.start("")
	var hook struct {
		Secret string `json:"new_signing_secret"`
	}
	body := fmt.Sprintf(`{"uri":%q,"subscribed_events":["interaction.completed","batch.succeeded","video.generated"]}`, w.receiver.srv.URL)
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
	w.stderr = newServerLog(w.t)
	w.cmd = exec.Command(w.binary, append([]string{"serve", "--allow-http-callbacks", "--allow-private-callbacks",
		"--listen", "127.0.0.1:0", "--data", w.data, "--log-level", "warn"}, w.flags...)...)
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
		w.t.Fatalf("the server does not start: %s", w.stderr)
	}
}

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
		w.t.Fatalf("the server did not reach the step; its log:\n%s", w.stderr)
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return s.Signal()
	}
	return -1
}

// killedAt waits until the server was killed by the step that it was armed with.
func (w *world) killedAt(step crash.Step) {
	w.t.Helper()
	if how := w.wait(); how != syscall.SIGKILL {
		w.t.Fatalf("%s: the server ended with %v, not by the kill; its log:\n%s", step, how, w.stderr)
	}
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
		w.t.Fatalf("the server ended with %v, exit code %d: %s", how, w.cmd.ProcessState.ExitCode(), w.stderr)
	}
}

func (w *world) post(path, body string, out any) error {
	return w.call(http.MethodPost, path, strings.NewReader(body), out)
}

func (w *world) get(path string, out any) error { return w.call(http.MethodGet, path, nil, out) }

func (w *world) call(method, path string, body io.Reader, out any) error {
	resp, err := w.do(method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(out)
}

// do returns the response to a request, which is 200.
func (w *world) do(method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequest(method, w.url+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Goog-Api-Key", w.key)
	req.Header.Set("X-Goog-Upload-Protocol", "raw") // For uploads.
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return nil, errors.Join(fmt.Errorf("%s %s: status %d: %s", method, path, resp.StatusCode, text), err)
	}
	return resp, nil
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
			w.t.Fatalf("%d of %d callbacks are lost; the server's log:\n%s", missing, len(w.acknowledged), w.stderr)
		}
	}
}

// serverLog is what a server has written to its standard error.
type serverLog struct {
	t    *testing.T
	mu   sync.Mutex
	text []byte
	read int // How much of it was waited for.
	news *sync.Cond
}

func newServerLog(t *testing.T) *serverLog {
	l := &serverLog{t: t}
	l.news = sync.NewCond(&l.mu)
	return l
}

func (l *serverLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	l.news.Broadcast()
	return len(b), nil
}

func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// waitFor waits for a part that was not waited for before.
func (l *serverLog) waitFor(part string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	await(l.t, l.news, func() string { return fmt.Sprintf("no %q in the log:\n%s", part, l.text) }, func() bool { return bytes.Contains(l.text[l.read:], []byte(part)) })
	l.read = len(l.text)
}

// await waits until ok returns true, which can change whenever news comes. The
// lock of news is held.
func await(t *testing.T, news *sync.Cond, what func() string, ok func() bool) {
	t.Helper()
	late := false
	defer time.AfterFunc(time.Minute, func() {
		news.L.Lock()
		defer news.L.Unlock()
		late = true
		news.Broadcast()
	}).Stop()
	for !ok() {
		if late {
			t.Fatalf("nothing came for a minute: %s", what())
		}
		news.Wait()
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
