// Package pgtest starts a real PostgreSQL for tests. A missing one fails them;
// they are never skipped.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Server is a private PostgreSQL on a Unix socket.
type Server struct {
	// Address is the connection string of its database postgres.
	Address string
	// Dir holds the socket.
	Dir string

	script string
	made   atomic.Int32
}

// Start makes and starts a server, which is stopped at the end of the test.
func Start(t testing.TB) *Server {
	t.Helper()
	// Not t.TempDir: the address of a Unix socket is short, and the server's user
	// must be able to enter all folders above it.
	dir, err := os.MkdirTemp("", "ringback-pg-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir, script: script(t)}
	t.Cleanup(func() {
		if err := s.run("stop", "immediate"); err != nil {
			t.Log(err) // The test may have stopped it.
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	return s
}

// script finds scripts/postgres.sh above the package under test.
func script(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		file := filepath.Join(dir, "scripts", "postgres.sh")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	t.Fatal("scripts/postgres.sh is not in any folder above this one")
	return ""
}

func (s *Server) run(command string, args ...string) error {
	out, err := exec.Command(s.script, append([]string{command, s.Dir}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("postgres.sh %s: %w\n%s", command, err, out)
	}
	if command == "start" {
		s.Address = strings.TrimSpace(string(out))
	}
	return nil
}

// Restart starts the server, which is not running.
func (s *Server) Restart() error { return s.run("start") }

// Crash ends all of it at once, as a crash of one of its processes does. What was
// not committed is lost.
func (s *Server) Crash() error { return s.run("stop", "immediate") }

// Kill ends its first process by SIGKILL; the others end as they notice.
func (s *Server) Kill() error { return s.run("kill") }

// Schema makes a schema and returns the connection string of who works in it, which
// is as good as a database of its own, and made faster.
func (s *Server) Schema(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.made.Add(1))
	conn, err := pgx.Connect(context.Background(), s.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }() // Nothing hangs on it.
	if _, err := conn.Exec(context.Background(), "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	return s.Address + " search_path=" + name
}
