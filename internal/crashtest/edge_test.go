package crashtest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"ringback.dev/internal/crash"
	"ringback.dev/webhook"
)

const edgeSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// edgeWorld is an edge's folder and the process that runs on it.
type edgeWorld struct {
	t            *testing.T
	binary, file string
	address      string
	env          []string
	db           *sql.DB // What the sql actions write to.

	cmd    *exec.Cmd
	stderr *serverLog
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newEdge makes the folder of an edge whose routes are given. In the text, @dir is
// the folder and @edge the address.
func newEdge(t *testing.T, binary, text string, env ...string) *edgeWorld {
	t.Helper()
	dir := t.TempDir()
	e := &edgeWorld{t: t, binary: binary, file: filepath.Join(dir, "edge.yaml"), address: freeAddress(t), env: append(env, "EDGE_SECRET="+edgeSecret)}
	text = strings.NewReplacer("@dir", dir, "@edge", "http://"+e.address).Replace(`
listen: `+e.address+`
admin: {listen: "off"}
data: "@dir/data"
egress: {allow_http: true, allow_hosts: [127.0.0.1]}
retry: {schedule: [200ms], window: 3m}
databases: {results: {url: "sqlite:@dir/results.db"}}
`) + strings.NewReplacer("@dir", dir, "@edge", "http://"+e.address).Replace(text)
	if err := os.WriteFile(e.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if e.db, err = sql.Open("sqlite", "file:"+dir+"/results.db?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.db.Close() }) // The test is over.
	return e
}

// start runs the edge, armed to die at a step, until it listens.
func (e *edgeWorld) start(crashAt string) {
	e.t.Helper()
	e.stderr = newServerLog(e.t)
	e.cmd = exec.Command(e.binary, "edge", "--config", e.file)
	e.cmd.Dir = filepath.Dir(e.file)
	e.cmd.Env = append(append(os.Environ(), e.env...), "RINGBACK_CRASH="+crashAt)
	e.cmd.Stderr = e.stderr
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	process := e.cmd.Process
	e.t.Cleanup(func() { _ = process.Kill() }) // It has ended unless the test broke off.
	up := false
	for lines := bufio.NewScanner(out); !up && lines.Scan(); {
		up = strings.HasPrefix(lines.Text(), "listening on ")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // Ends with the process.
	if !up && crashAt == "" {
		e.t.Fatalf("the edge does not start: %s", e.stderr)
	}
}

// killedAt waits until the edge was killed by the step that it was armed with.
func (e *edgeWorld) killedAt(step crash.Step) {
	e.t.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = e.cmd.Process.Signal(syscall.SIGTERM) })
	_ = e.cmd.Wait() // Its error is the kill, which is looked for below.
	late.Stop()
	if s, ok := e.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGKILL {
		e.t.Fatalf("%s: the edge ended with %v, not by the kill; its log:\n%s", step, e.cmd.ProcessState, e.stderr)
	}
}

func (e *edgeWorld) kill() {
	_ = e.cmd.Process.Kill() // It may have ended.
	_ = e.cmd.Wait()
}

// post sends a message once, and reports whether it was accepted.
func (e *edgeWorld) post(id, body string) bool {
	secret, err := webhook.ParseSecret(edgeSecret)
	if err != nil {
		e.t.Fatal(err)
	}
	now := time.Now()
	req, err := http.NewRequest(http.MethodPost, "http://"+e.address+"/s", strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	req.Close = true
	req.Header.Set(webhook.HeaderID, id)
	req.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(webhook.HeaderSignature, webhook.Sign(id, now, []byte(body), secret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false // It died.
	}
	_ = resp.Body.Close() // The status says it all.
	return resp.StatusCode/100 == 2
}

// query reads one number of the results.
func (e *edgeWorld) query(text string) int {
	e.t.Helper()
	var n int
	if err := e.db.QueryRow(text).Scan(&n); err != nil {
		e.t.Fatal(err)
	}
	return n
}

// hop is the receiver behind an edge.
type hop struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int // By webhook-id.
	news *sync.Cond
}

func newHop(t *testing.T) *hop {
	h := &hop{seen: make(map[string]int)}
	h.news = sync.NewCond(&h.mu)
	secret, err := webhook.ParseSecret(edgeSecret)
	if err != nil {
		t.Fatal(err)
	}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // The edge died while it sent.
		}
		if r.Method == http.MethodGet { // A result.
			fmt.Fprint(w, "the result of ", r.URL.Path)
			return
		}
		id := r.Header.Get(webhook.HeaderID)
		if id == "" {
			var m struct{ Text string }
			if err := json.Unmarshal(body, &m); err != nil {
				t.Errorf("a message is not JSON: %v", err)
			}
			id = m.Text
		} else if _, err := (&webhook.Verifier{Secrets: []webhook.Secret{secret}}).Verify(r.Header, body); err != nil {
			t.Errorf("what was forwarded does not verify: %v", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seen[id]++
		h.news.Broadcast()
	}))
	t.Cleanup(h.Close)
	return h
}

// TestEdgeKillAtEveryStep kills an edge at each step of an event's life, on one
// folder: what was accepted is acted on by every kind of action, and sql's effect is
// there exactly once.
func TestEdgeKillAtEveryStep(t *testing.T) {
	binary := build(t)
	h := newHop(t)
	e := newEdge(t, binary, `
sources: {s: {path: /s, secret_env: EDGE_SECRET}}
routes:
  - name: r
    actions:
      - {name: forward, http: {url: "`+h.URL+`/hook", secret_env: EDGE_SECRET}}
      - {name: row, sql: {database: results, statements: [{sql: "INSERT INTO got (id) VALUES (?)", args: [id]}]}}
      - {name: keep, fetch: {folder: "@dir", file: "{{ id }}.out"}}
      - {name: run, exec: {command: [/bin/sh, -c, 'cat > "@dir/$RINGBACK_EVENT_ID.in"']}}
`)
	if _, err := e.db.Exec(`CREATE TABLE got (id TEXT)`); err != nil {
		t.Fatal(err)
	}
	const perStep, killsPerStep = 6, 5
	bodies := make(map[string]string)
	accepted := make(map[string]bool)
	kills := 0
	send := func(ids []string) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for _, id := range ids {
			all.Go(func() {
				ok := e.post(id, bodies[id])
				mu.Lock()
				defer mu.Unlock()
				accepted[id] = accepted[id] || ok
			})
		}
		all.Wait()
	}
	var waiting []string // Not accepted yet: a sender tries again.
	for _, step := range append(crash.EdgeSteps(), crash.EdgeRenamed) {
		for n := range killsPerStep {
			e.start(fmt.Sprintf("%s:%d", step, 1+n%perStep))
			for i := range perStep {
				id := fmt.Sprintf("msg_%d_%d", kills, i)
				bodies[id] = fmt.Sprintf(`{"type":"batch.succeeded","data":{"id":%q,"output_file_uri":"%s/%s"}}`, id, h.URL, id)
				waiting = append(waiting, id)
			}
			send(waiting)
			var rest []string
			for _, id := range waiting {
				if !accepted[id] {
					rest = append(rest, id)
				}
			}
			waiting = rest
			e.killedAt(step)
			kills++
		}
	}
	e.start("")
	send(waiting)
	h.mu.Lock()
	await(t, h.news, func() string {
		return fmt.Sprintf("%d of %d forwarded; the log:\n%s", len(h.seen), len(bodies), e.stderr)
	}, func() bool { return len(h.seen) == len(bodies) })
	doubles := 0
	for id, n := range h.seen {
		if bodies[id] == "" {
			t.Errorf("%q was never sent", id)
		}
		doubles += n - 1
	}
	h.mu.Unlock()
	for _, action := range []string{"r/row", "r/keep", "r/run"} {
		for e.pending(action) > 0 {
			e.stderr.waitFor("action=" + action)
		}
	}
	if n, distinct := e.query(`SELECT count(*) FROM got`), e.query(`SELECT count(DISTINCT id) FROM got`); n != len(bodies) || distinct != n {
		t.Errorf("%d rows of %d events, %d sent", n, distinct, len(bodies))
	}
	dir := filepath.Dir(e.file)
	for id, body := range bodies {
		if text, err := os.ReadFile(filepath.Join(dir, id+".in")); err != nil || string(text) != body {
			t.Errorf("%s: the command saw %q, %v", id, text, err)
		}
		text, err := os.ReadFile(filepath.Join(dir, id+".out"))
		sum := sha256.Sum256(text)
		line, err2 := os.ReadFile(filepath.Join(dir, id+".out.sha256"))
		if err != nil || err2 != nil || string(text) != "the result of /"+id || !bytes.HasPrefix(line, []byte(hex.EncodeToString(sum[:]))) {
			t.Errorf("%s: %q %q, %v, %v", id, text, line, err, err2)
		}
	}
	e.kill()
	fmt.Printf("crash: %d kills of an edge, %d events, 0 lost, %d rows, %d forwarded more than once\n", kills, len(bodies), len(bodies), doubles)
}

// pending counts the entries of an action that are neither done nor dead, by the
// command line, beside the edge that runs.
func (e *edgeWorld) pending(action string) int {
	e.t.Helper()
	cmd := exec.Command(e.binary, "edge", "inbox", "list", "--config", e.file, "--action", action, "--state", "pending", "--limit", "0", "--json")
	cmd.Env = append(os.Environ(), e.env...)
	out, err := cmd.Output()
	if err != nil {
		e.t.Fatal(err)
	}
	var list struct{ Entries []any }
	if err := json.Unmarshal(out, &list); err != nil {
		e.t.Fatal(err)
	}
	return len(list.Entries)
}

// TestChain: an event starts a job, whose event writes a row and tells people. Both
// processes are killed at each of their steps; each chain ends with exactly one row.
func TestChain(t *testing.T) {
	binary := build(t)
	address := freeAddress(t)
	w := newWorld(t, binary, "--emulator", "--listen="+address, "--retry-schedule=1s", "--public-url=http://"+address)
	chat := newHop(t)
	e := newEdge(t, binary, `
servers: {ringback: {url: "http://`+address+`", api_key_env: EDGE_KEY}}
sources:
  ringback: {path: /hooks/ringback, jwks: "http://`+address+`/.well-known/jwks.json", audience: "@edge/hooks/ringback"}
routes:
  - name: first
    type: interaction.completed
    metadata: {step: first}
    actions:
      - name: next
        job:
          server: ringback
          kind: interaction
          model: m
          body:
            input: "Go on from {{ data.id }}"
            previous_interaction_id: "{{ data.id }}"
            webhook_config: {uris: ["@edge/hooks/ringback"], user_metadata: {step: second, origin: "{{ metadata.origin }}"}}
  - name: second
    type: interaction.completed
    metadata: {step: second}
    actions:
      - {name: row, sql: {database: results, statements: [{sql: "INSERT INTO chain (origin, job) VALUES (?, ?)", args: [metadata.origin, data.id]}]}}
      - {name: tell, notify: {slack_env: EDGE_CHAT, text: "{{ metadata.origin }}"}}
`, "EDGE_KEY="+w.key, "EDGE_CHAT="+chat.URL+"/chat")
	if _, err := e.db.Exec(`CREATE TABLE chain (origin TEXT, job TEXT)`); err != nil {
		t.Fatal(err)
	}
	const perKill = 2
	begun := make(map[string]bool) // Whether the server has acknowledged it.
	submit := func() {
		for origin, ok := range begun {
			if ok {
				continue
			}
			body := fmt.Sprintf(`{"model":"m","input":"Begin.","background":true,"webhook_config":{"uris":["http://%s/hooks/ringback"],"user_metadata":{"step":"first","origin":%q}}}`, e.address, origin)
			begun[origin] = w.once("/v1beta/interactions", body, origin)
		}
	}
	kills := 0
	for _, step := range crash.Steps() {
		for n := range 2 {
			e.start("")
			w.start(fmt.Sprintf("%s:%d", step, 1+n))
			for i := range perKill {
				begun[fmt.Sprintf("%s-%d-%d", step, n, i)] = false
			}
			submit()
			w.killedAt(step)
			e.kill()
			kills += 2
		}
	}
	for _, step := range crash.EdgeSteps() {
		for n := range 2 {
			w.start("")
			e.start(fmt.Sprintf("%s:%d", step, 1+n))
			for i := range perKill {
				begun[fmt.Sprintf("%s-%d-%d", step, n, i)] = false
			}
			submit()
			e.killedAt(step)
			w.kill()
			kills += 2
		}
	}
	w.start("")
	e.start("")
	submit()
	chat.mu.Lock()
	await(t, chat.news, func() string {
		return fmt.Sprintf("%d of %d chains have ended; the edge's log:\n%s\nthe server's:\n%s", len(chat.seen), len(begun), e.stderr, w.stderr)
	}, func() bool { return len(chat.seen) == len(begun) })
	told := 0
	for origin, n := range chat.seen {
		if !begun[origin] {
			t.Errorf("%q was told of, %v", origin, begun[origin])
		}
		told += n
	}
	chat.mu.Unlock()
	for _, action := range []string{"first/next", "second/row", "second/tell"} {
		for e.pending(action) > 0 {
			e.stderr.waitFor("action=" + action)
		}
	}
	if n, origins, jobs := e.query(`SELECT count(*) FROM chain`), e.query(`SELECT count(DISTINCT origin) FROM chain`), e.query(`SELECT count(DISTINCT job) FROM chain`); n != len(begun) || origins != n || jobs != n {
		t.Errorf("%d rows of %d chains and %d jobs; %d chains were begun", n, origins, jobs, len(begun))
	}
	e.kill()
	w.stop()
	fmt.Printf("crash: %d kills of server and edge, %d chains of two jobs, each ends with one row; %d messages\n", kills, len(begun), told)
}

// once submits a job under an idempotency key, and reports whether it was
// acknowledged.
func (w *world) once(path, body, key string) bool {
	req, err := http.NewRequest(http.MethodPost, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("X-Goog-Api-Key", w.key)
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false // It died.
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		w.t.Errorf("submit: status %d: %s", resp.StatusCode, text)
	}
	return err == nil && resp.StatusCode == http.StatusOK
}
