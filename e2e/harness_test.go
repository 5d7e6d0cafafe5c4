// Package e2e runs the released SDKs of Google, and the libraries of Standard
// Webhooks, against a real server process. It is a module of its own, so that
// the server does not depend on any of them.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the server under test.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ringback-e2e-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "ringback")
	build := exec.Command("go", "build", "-race", "-o", binary, "./cmd/ringback")
	build.Dir = ".."
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Println("build the server:", err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is a running ringback.
type server struct {
	URL string
	// Key is the API key that serve printed at its first start.
	Key string
	cmd *exec.Cmd
	log *bytes.Buffer
}

// start runs the server on a free port and waits until it listens. It is stopped
// with SIGTERM at the end of the test and must then exit with 0.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{log: new(bytes.Buffer)}
	s.cmd = exec.Command(binary, append(args, "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--grace", "2s")...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if text := strings.TrimSpace(lines.Text()); strings.HasPrefix(text, "rbk_") {
			s.Key = text
		}
		if url, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			s.URL = url
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // Ends with the process.
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		err := s.cmd.Wait()
		if err != nil || strings.Contains(s.log.String(), "DATA RACE") {
			t.Errorf("the server ended with %v; its log:\n%s", err, tail(s.log.String()))
		}
	})
	if s.URL == "" {
		t.Fatalf("the server does not listen: %s", tail(s.log.String()))
	}
	return s
}

func tail(s string) string { return s[max(0, len(s)-8000):] }

// dev runs the server as the SDK tests need it.
func dev(t *testing.T, more ...string) *server {
	t.Helper()
	return start(t, append([]string{"dev", "--scenario", "testdata/scenario.yaml"}, more...)...)
}

// receiver keeps the callbacks that arrive.
type receiver struct {
	URI string

	mu      sync.Mutex
	arrived []callback
	news    chan struct{} // Closed and replaced at every arrival.
}

type callback struct {
	Header http.Header
	Body   []byte
	Event  struct {
		Type string
		Data struct{ ID string }
	}
}

func receive(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{news: make(chan struct{})}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c := callback{Header: q.Header}
		var err error
		if c.Body, err = io.ReadAll(q.Body); err == nil {
			err = json.Unmarshal(c.Body, &c.Event)
		}
		if err != nil {
			t.Errorf("callback: %v", err)
		}
		r.mu.Lock()
		r.arrived = append(r.arrived, c)
		close(r.news)
		r.news = make(chan struct{})
		r.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	r.URI = srv.URL
	return r
}

// wait returns the first callback of a type about a job; "" matches any job.
func (r *receiver) wait(t *testing.T, kind, job string) callback {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		for _, c := range r.arrived {
			if c.Event.Type == kind && (job == "" || c.Event.Data.ID == job) {
				r.mu.Unlock()
				return c
			}
		}
		news := r.news
		r.mu.Unlock()
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("no %s about %q arrived", kind, job)
		}
	}
}

func (r *receiver) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrived = nil
}

// where asks scripts/setup-e2e.sh for a path.
func where(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("../scripts/setup-e2e.sh", "--where", name).Output()
	if err != nil {
		t.Fatalf("scripts/setup-e2e.sh --where %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// node is the Node.js that runs the SDKs.
func node(t *testing.T) string {
	t.Helper()
	return where(t, "node")
}

// cache is where scripts/setup-e2e.sh put the packages. A missing one fails.
func cache(t *testing.T, name string) string {
	t.Helper()
	dir := where(t, name)
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("%v; run scripts/setup-e2e.sh", err)
	}
	return dir
}

// runner runs another language's tests and returns what they printed. They fail
// the test when they fail.
func runner(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}
