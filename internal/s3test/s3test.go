// Package s3test starts a real S3-compatible store for tests. A missing one fails
// them; they are never skipped.
package s3test

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The access key of every store.
const (
	AccessKeyID     = "AKIARINGBACKTEST"
	SecretAccessKey = "hush/hush+hush"
)

// Server is a private store.
type Server struct {
	// URL is its address, and stays the same when it is started again.
	URL string
	// Dir has a folder for each bucket, in which objects are files.
	Dir string

	program, address string
	cmd              *exec.Cmd
	done             chan struct{} // Its output has ended.
}

// Start makes and starts a store with the given buckets, which is stopped at the end
// of the test.
func Start(t testing.TB, buckets ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{Dir: filepath.Join(dir, "buckets"), program: program(t)}
	for _, name := range append([]string{"../metadata"}, buckets...) {
		if err := os.MkdirAll(filepath.Join(s.Dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.URL = "http://" + s.address
	_ = l.Close() // The store listens there from now on.
	t.Cleanup(s.Stop)
	s.Restart(t)
	return s
}

// program finds scripts/s3.sh above the package under test, and by it the program.
func program(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		file := filepath.Join(dir, "scripts", "s3.sh")
		if _, err := os.Stat(file); err != nil {
			continue
		}
		cmd := exec.Command(file)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return strings.TrimSpace(string(out))
	}
	t.Fatal("scripts/s3.sh is not in any folder above this one")
	return ""
}

// Restart starts the store, which is not running, and waits until it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(s.program, "--port", s.address, "posix", "--sidecar", filepath.Join(s.Dir, "../metadata"), s.Dir)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+AccessKeyID, "ROOT_SECRET_ACCESS_KEY="+SecretAccessKey)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	s.cmd.Stderr = &stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.done = make(chan struct{})
	announced := make(chan struct{})
	go func() {
		defer close(s.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "listening on") {
				break
			}
		}
		close(announced)
		_, _ = io.Copy(io.Discard, out) // Ends with the process.
	}()
	<-announced
	for range 500 { // It says so just before it does.
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = c.Close() // It listens.
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	s.Stop()
	t.Fatalf("the store does not start: %s", &stderr)
}

// Stop ends the store at once; what was answered is kept.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // It may have ended.
	<-s.done
	_ = s.cmd.Wait() // Its error is the kill.
	s.cmd = nil
}
