package exec_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/exec"
)

// adoptOrphans makes orphans of commands children of this process, as they are
// where a server is the first process of a container.
func adoptOrphans() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
}

// relatives is a script that has a child, a grandchild, and a great-grandchild that
// ignores SIGTERM. All write their number into the file pids, and hold the named
// pipe open; when they are there the script says so.
const relatives = `
	exec 3> alive
	echo $$ >> pids
	sleep 1000 & echo $! >> pids
	(sleep 1000 & echo $! >> pids; (trap '' TERM; echo up >&3; sleep 1000 & echo $! >> pids; echo '{"type":"progress","percent":1}'; wait) & wait) &
	`

// home makes a folder with the named pipe, held open for reading.
func home(t *testing.T) (string, *os.File) {
	t.Helper()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return dir, f
}

// gone checks that nothing of a family is there, not even zombies.
func gone(t *testing.T, dir string, alive *os.File) {
	t.Helper()
	if _, err := io.ReadAll(alive); err != nil { // It ends when nobody holds it.
		t.Errorf("somebody is left: %v", err)
	}
	pids := family(t, dir)
	if len(pids) < 4 {
		t.Errorf("only the processes %d are known", pids)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			t.Errorf("process %d is there: %v\n%s", pid, err, status)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// family reads the numbers of a family.
func family(t *testing.T, dir string) (pids []int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "pids"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// TestNoneIsLeft: however a job ends, all that its command started has ended, and
// was waited for.
func TestNoneIsLeft(t *testing.T) {
	reason := errors.New("the job was cancelled")
	for name, c := range map[string]struct {
		script string
		config exec.Config
		check  func(error) bool
	}{
		"cancelled":             {relatives + `wait`, exec.Config{}, func(err error) bool { return errors.Is(err, reason) }},
		"cancelled, not at all": {`trap '' TERM; ` + relatives + `while :; do wait; sleep 1000; done`, exec.Config{Grace: 50 * time.Millisecond}, func(err error) bool { return errors.Is(err, reason) }},
		"too long":              {relatives + `wait`, exec.Config{Timeout: 3 * time.Second}, func(err error) bool { return backend.AsError(err).Kind == backend.Timeout }},
		"a wrong line":          {relatives + `read -r _ < go-on; echo x; wait`, exec.Config{}, func(err error) bool { return backend.AsError(err).Kind == backend.Internal }},
		"its own end":           {relatives + `read -r _ < go-on; exit 1`, exec.Config{}, func(err error) bool { return backend.AsError(err).Message == "the command failed" }},
	} {
		t.Run(name, func(t *testing.T) {
			dir, alive := home(t)
			if err := syscall.Mkfifo(filepath.Join(dir, "go-on"), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			c.config.Dir = dir
			out := &output{told: func() { // All are there.
				switch {
				case strings.HasPrefix(name, "cancelled"):
					cancel(reason)
				case name != "too long":
					if err := os.WriteFile(filepath.Join(dir, "go-on"), []byte("\n"), 0); err != nil {
						t.Error(err)
					}
				}
			}}
			if _, err := shell(t, c.script, c.config).MakeVideos(ctx, &backend.VideoRequest{}, out); !c.check(err) {
				t.Errorf("got %v", err)
			}
			gone(t, dir, alive)
		})
	}
}

// TestToldFirst: a command that is to end has time to tidy up.
func TestToldFirst(t *testing.T) {
	dir := t.TempDir()
	b := shell(t, `trap 'echo tidy > told; exit 0' TERM; echo '{"type":"progress"}'; sleep 1000 & wait`, exec.Config{Dir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := b.MakeVideos(ctx, &backend.VideoRequest{}, &output{told: cancel}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "told")); err != nil || string(got) != "tidy\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestEscaped: a program that leaves the group holds up nobody, although it keeps
// the command's output open.
func TestEscaped(t *testing.T) {
	dir, alive := home(t)
	b := shell(t, `exec 3> alive; setsid sh -c 'echo $$ > pid; echo x >&3; exec sleep 1000' & read -r _ < alive; echo '{"type":"chunk","text":"a"}'; echo '{"type":"result"}'`, exec.Config{Dir: dir})
	got, err := b.Generate(t.Context(), ask("hi"))
	if err != nil || said(got) != "a" {
		t.Errorf("got %v, %v", got, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	_, _ = syscall.Wait4(pid, nil, 0, nil)
	if _, err := io.ReadAll(alive); err != nil {
		t.Error(err)
	}
}

// serve is a server that runs a family for ever. Its folder is in SERVE_DIR.
func serve() {
	dir := os.Getenv("SERVE_DIR")
	b, err := exec.New(exec.Config{Command: []string{"sh", "-c", `trap '' TERM; ` + relatives + `wait`}, Dir: dir, Temp: filepath.Join(dir, "jobs")})
	if err != nil {
		panic(err)
	}
	_, err = b.MakeVideos(context.Background(), &backend.VideoRequest{}, new(output))
	panic(err)
}

// TestServerKilled: with the server all that its commands started ends, and the next
// one removes their folders.
func TestServerKilled(t *testing.T) {
	dir, alive := home(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := osexec.Command(self)
	server.Env = append(os.Environ(), role+"=server", "SERVE_DIR="+dir)
	server.Stderr = os.Stderr
	// The writing side is held open here, so that the pipe is not at its end before the
	// family is there.
	hold, err := os.OpenFile(filepath.Join(dir, "alive"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(alive, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	_ = hold.Close()
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait() // It was killed.
	if _, err := io.ReadAll(alive); err != nil {
		for _, pid := range family(t, dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		t.Errorf("somebody is left: %v", err)
	}
	for { // The orphans are ours now; see adoptOrphans.
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil && err != syscall.EINTR {
			break
		}
	}
	temp := filepath.Join(dir, "jobs")
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 1 {
		t.Errorf("the killed server left %v", left)
	}
	if err := os.Mkdir(filepath.Join(temp, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := exec.New(exec.Config{Command: []string{"sh", "-c", `echo '{"type":"chunk","text":"a"}'; echo '{"type":"result"}'`}, Temp: temp})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Generate(t.Context(), ask("hi")); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) != 1 || filepath.Base(left[0]) != "other" {
		t.Errorf("left are %v", left)
	}
}
