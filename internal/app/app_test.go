package app

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ringback.dev"
)

// patience bounds every wait for something that must happen. It is reached only
// when a test fails.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config is a server for a test, on a free port.
func config(t *testing.T, dir string) Config {
	t.Helper()
	return Config{Listen: "127.0.0.1:0", Data: dir, DeliveryTimeout: 5 * time.Second, MaxInFlight: 8, PerTargetInFlight: 8,
		MaxRunning: 8, MaxRequestBytes: 1 << 20, Grace: patience, Emulator: true}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// server is an App that runs.
type server struct {
	*App
	t      *testing.T
	client *http.Client
	end    context.CancelFunc
	ended  chan error
}

// start makes and runs an App. It is stopped at the end of the test, if not before.
func start(t *testing.T, c Config) *server {
	t.Helper()
	a, err := New(t.Context(), c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	s := &server{App: a, t: t, client: &http.Client{Transport: &http.Transport{}}, end: end, ended: make(chan error, 1)}
	go func() { s.ended <- a.Run(ctx); close(s.ended) }()
	t.Cleanup(s.stop)
	if status, body := s.call("GET", "/readyz", "", ""); status != http.StatusOK {
		t.Fatalf("GET /readyz: %d %s", status, body)
	}
	return s
}

// stop ends the server and waits for it. A second call does nothing.
func (s *server) stop() {
	s.t.Helper()
	s.end()
	if err := await(s.t, s.ended); err != nil {
		s.t.Errorf("the server ended with %v", err)
	}
	s.client.CloseIdleConnections()
}

// await receives what must come; the zero value from a closed channel.
func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("waited too long")
		panic("unreachable")
	}
}

// until asks again and again until a fact holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for: %s", what)
		}
	}
}

// call makes a request with an API key and returns status and body.
func (s *server) call(method, path, key, body string) (int, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL()+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("X-Goog-Api-Key", key)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, data
}

// submit creates a background interaction and returns its id.
func (s *server) submit(input string) ringback.ID {
	s.t.Helper()
	status, body := s.call("POST", "/v1/interactions", "any", fmt.Sprintf(`{"model":"m","input":%q,"background":true}`, input))
	var job struct{ ID ringback.ID }
	if err := json.Unmarshal(body, &job); err != nil || status != http.StatusOK || job.ID == "" {
		s.t.Fatalf("create an interaction: %d %s", status, body)
	}
	return job.ID
}

// state is a job's state in the store.
func (s *server) state(id ringback.ID) ringback.State {
	s.t.Helper()
	j, err := s.Store().Job(s.t.Context(), s.Project(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return j.State
}

// model is an OpenAI-compatible server that tells of each request and answers
// when it is allowed to.
func model(t *testing.T) (url string, asked <-chan struct{}, answer chan<- struct{}) {
	t.Helper()
	a, b := make(chan struct{}, 8), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // So that a client that goes away is noticed.
		a <- struct{}{}
		select {
		case <-b:
			fmt.Fprint(w, `{"choices":[{"message":{"role":"assistant","content":"forty-two"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/v1", a, b
}

func TestRunAndStop(t *testing.T) {
	dir := t.TempDir()
	s := start(t, config(t, dir))
	if status, body := s.call("GET", "/healthz", "", ""); status != http.StatusOK {
		t.Errorf("GET /healthz: %d %s", status, body)
	}
	if status, _ := s.call("GET", "/inbox", "", ""); status != http.StatusNotFound {
		t.Errorf("a server that is not for development has an inbox: %d", status)
	}
	s.stop()
	if c, err := net.Dial("tcp", s.listener.Addr().String()); err == nil {
		c.Close()
		t.Error("the port is still open after Run has returned")
	}
	start(t, config(t, dir)) // The folder is free again.
}

func TestFirstKey(t *testing.T) {
	dir := t.TempDir()
	s := start(t, config(t, dir))
	key := s.FirstKey
	if key == "" {
		t.Fatal("the first start made no key")
	}
	if status, body := s.call("GET", "/v1/webhooks", key, ""); status != http.StatusOK {
		t.Errorf("with the first key: %d %s", status, body)
	}
	for _, wrong := range []string{"", "any", key + "x"} {
		if status, body := s.call("GET", "/v1/webhooks", wrong, ""); status != http.StatusUnauthorized {
			t.Errorf("with the key %q: %d %s", wrong, status, body)
		}
	}
	s.stop()
	s = start(t, config(t, dir))
	if s.FirstKey != "" {
		t.Error("the second start made a key again")
	}
	if status, _ := s.call("GET", "/v1/webhooks", key, ""); status != http.StatusOK {
		t.Error("the key does not outlive the process")
	}
}

// TestFailedStartKeepsTheKey makes sure that a start that fails doesn't make the
// first project, whose key would be lost.
func TestFailedStartKeepsTheKey(t *testing.T) {
	dir := t.TempDir()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	c := config(t, dir)
	c.Listen = busy.Addr().String()
	refused(t, c, "in use")
	if s := start(t, config(t, dir)); s.FirstKey == "" {
		t.Error("the start after one that failed shows no key")
	}
}

// TestStopAtOnce stops a server before it has begun.
func TestStopAtOnce(t *testing.T) {
	a, err := New(t.Context(), config(t, t.TempDir()), quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	end()
	if err := a.Run(ctx); err != nil {
		t.Errorf("a stop is not a failure: %v", err)
	}
}

// TestServeRefusesUnsafeCallbacks holds the defaults of production.
func TestServeRefusesUnsafeCallbacks(t *testing.T) {
	create := func(c Config, uri string) (int, string) {
		s := start(t, c)
		defer s.stop()
		status, body := s.call("POST", "/v1/webhooks", s.FirstKey, fmt.Sprintf(`{"uri":%q,"subscribed_events":["interaction.completed"]}`, uri))
		return status, string(body)
	}
	for _, x := range []struct{ uri, names string }{
		{"http://example.com/hook", "--allow-http-callbacks"},
		{"https://127.0.0.1/hook", "--allow-private-callbacks"},
		{"https://10.1.2.3/hook", "--allow-private-callbacks"},
	} {
		status, body := create(config(t, t.TempDir()), x.uri)
		if status != http.StatusBadRequest || !strings.Contains(body, x.names) {
			t.Errorf("%s: %d %s; want 400 that names %s", x.uri, status, body, x.names)
		}
	}
	c := config(t, t.TempDir())
	c.AllowHTTPCallbacks, c.AllowPrivateCallbacks = true, true
	if status, body := create(c, "http://127.0.0.1/hook"); status != http.StatusOK {
		t.Errorf("allowed by the settings, yet %d %s", status, body)
	}
}

// arrival is what is read of the inbox.
type arrival struct {
	Type     string
	Verified bool
	Reason   string
	Body     struct{ Data struct{ ID ringback.ID } }
}

// arrivals reads the inbox, newest first.
func (s *server) arrivals() []arrival {
	s.t.Helper()
	_, body := s.call("GET", "/inbox?format=json", "", "")
	var all struct{ Arrived []arrival }
	if err := json.Unmarshal(body, &all); err != nil {
		s.t.Fatalf("inbox: %v in %s", err, body)
	}
	return all.Arrived
}

// TestDevRoundTrip is the whole way, over HTTP: submitted, run, sent, signed,
// verified, and shown by the stream of the inbox.
func TestDevRoundTrip(t *testing.T) {
	c := config(t, t.TempDir())
	c.Dev = true
	s := start(t, c)
	news, err := s.client.Get(s.URL() + "/inbox?format=events")
	if err != nil {
		t.Fatal(err)
	}
	defer news.Body.Close()
	lines := bufio.NewScanner(news.Body)
	if !lines.Scan() || lines.Text() != ": open" {
		t.Fatalf("the stream begins with %q", lines.Text())
	}
	id := s.submit("hello")
	arrived := make(chan bool, 1)
	go func() {
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "data:") {
				arrived <- true
				return
			}
		}
		arrived <- false
	}()
	if !await(t, arrived) {
		t.Fatal("the stream ended before the callback arrived")
	}
	got := s.arrivals()
	if len(got) != 1 || !got[0].Verified || got[0].Type != "interaction.completed" || got[0].Body.Data.ID != id {
		t.Fatalf("in the inbox: %+v", got)
	}
}

// TestDevInboxFollowsThePort starts twice on other ports with the same data.
func TestDevInboxFollowsThePort(t *testing.T) {
	c := config(t, t.TempDir())
	c.Dev = true
	first := start(t, c)
	before := first.URL()
	first.stop()
	taken, err := net.Listen("tcp", strings.TrimPrefix(before, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	second := start(t, c)
	all, err := second.Store().ProjectEndpoints(t.Context(), second.Project())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].URI != second.URL()+"/inbox" || second.URL() == before {
		t.Fatalf("the inbox is registered as %+v, the server is at %s", all, second.URL())
	}
	second.submit("hello")
	until(t, "the callback at the new port", func() bool { got := second.arrivals(); return len(got) > 0 && got[0].Verified })
}

// TestStopLetsWorkFinish stops a server while a client waits for its answer.
func TestStopLetsWorkFinish(t *testing.T) {
	c := config(t, t.TempDir())
	c.Dev = true
	var asked <-chan struct{}
	var answer chan<- struct{}
	c.OpenAIURL, asked, answer = model(t)
	s := start(t, c)
	type answered struct {
		status int
		body   []byte
	}
	waiting := make(chan answered, 1)
	go func() {
		status, body := s.call("POST", "/v1/interactions", "any", `{"model":"m","input":"why"}`)
		waiting <- answered{status, body}
	}()
	await(t, asked)
	s.end()
	until(t, "the port to close", func() bool {
		c, err := net.Dial("tcp", s.Addr())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(answer)
	if got := await(t, waiting); got.status != http.StatusOK || !bytes.Contains(got.body, []byte("forty-two")) {
		t.Errorf("the client that waited got %d %s", got.status, got.body)
	}
	s.stop()
}

// TestStopGivesWorkBack stops a server whose job does not end in time. The next
// one finishes it and calls back; the run that was cut off doesn't count.
func TestStopGivesWorkBack(t *testing.T) {
	c := config(t, t.TempDir())
	c.Dev, c.Grace = true, 10*time.Millisecond
	var asked <-chan struct{}
	var answer chan<- struct{}
	c.OpenAIURL, asked, answer = model(t)
	s := start(t, c)
	id := s.submit("why")
	await(t, asked)
	s.stop()

	c.Grace = patience
	s = start(t, c)
	if got := s.state(id); got.Final() {
		t.Fatalf("after the stop the job is %s", got)
	}
	await(t, asked)
	close(answer)
	until(t, "the callback", func() bool { return len(s.arrivals()) > 0 })
	if got := s.arrivals(); len(got) != 1 || !got[0].Verified || got[0].Body.Data.ID != id {
		t.Errorf("in the inbox: %+v", got)
	}
	j, err := s.Store().Job(t.Context(), s.Project(), id)
	if err != nil {
		t.Fatal(err)
	}
	if j.State != ringback.Completed || j.Runs != 1 {
		t.Errorf("the job is %s after %d counted runs; want completed after 1", j.State, j.Runs)
	}
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	c := config(t, dir)
	c.Dev = true
	running := start(t, c)
	for _, x := range []struct {
		name  string
		setup func(*Config)
		want  []string
	}{
		{"busy port", func(c *Config) { c.Listen = running.Addr() }, []string{running.Addr(), "--listen"}},
		{"address of another machine", func(c *Config) { c.Listen = "192.0.2.1:1" }, []string{"192.0.2.1:1", "--listen"}},
		{"second process on a folder", func(c *Config) { c.Data = dir }, []string{dir, "another ringback process", "--data"}},
		{"a file for a folder", func(c *Config) { c.Data = file(t) }, []string{"data folder"}},
		{"a folder in a file", func(c *Config) { c.Data = filepath.Join(file(t), "data") }, []string{"data folder"}},
		{"newer database", func(c *Config) { newer(t, c.Data) }, []string{"schema version 9999", "newer ringback"}},
		{"not a database", func(c *Config) { garbage(t, c.Data) }, []string{"damaged"}},
		{"no model", func(c *Config) { c.Emulator = false }, []string{"--openai-url", "--emulator"}},
		{"malformed master key", func(c *Config) { c.MasterKey = "zz" }, []string{"master key", "base64"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := config(t, t.TempDir())
			x.setup(&c)
			refused(t, c, x.want...)
		})
	}
	running.stop()
	t.Run("another master key", func(t *testing.T) {
		c.MasterKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
		refused(t, c, "master key does not match", "backup")
	})
}

// file is a file where a folder is expected.
func file(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// newer makes a database of a version that is yet to come.
func newer(t *testing.T, dir string) {
	t.Helper()
	a, err := New(t.Context(), config(t, dir), quiet())
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	db, err := sql.Open("sqlite", filepath.Join(dir, "ringback.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)"); err != nil {
		t.Fatal(err)
	}
}

// garbage puts something else in the database's place.
func garbage(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "ringback.db"), bytes.Repeat([]byte("not a database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
}

// refused wants New to fail with an error of one line that holds all of want.
func refused(t *testing.T, c Config, want ...string) {
	t.Helper()
	a, err := New(t.Context(), c, quiet())
	if err == nil {
		a.Close()
		t.Fatal("the server started")
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error %q does not say %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has several lines: %q", err)
	}
}
