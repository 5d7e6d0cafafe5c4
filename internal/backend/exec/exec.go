// Package exec is a back-end that runs a command for each job. The request goes
// to its standard input as JSON, what it prints are lines of JSON: progress, pieces
// of text, a result or an error (docs/exec.md). So anything that a program can do
// becomes a model.
//
// A command runs in a private folder, which is removed afterwards, with an
// environment of its own, and in a process group of its own. The group is ended as
// a whole: when the command ends, when the job is cancelled or takes too long, when
// a limit is passed, and also when this process is killed.
package exec

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ringback.dev/internal/backend"
)

// Config says what to run. Command must be set.
type Config struct {
	// Command is the program and its arguments; no shell reads them.
	Command []string
	// Dir is where it runs; empty means the job's folder.
	Dir string
	// Env is its environment beside PATH, HOME, LANG and TMPDIR, which it may change.
	// Nothing else is handed on from this process, whose environment holds secrets.
	Env map[string]string
	// Timeout bounds a job; zero means 10 min.
	Timeout time.Duration
	// Grace is how long it may take to end once it was told to; zero means 5 s.
	Grace time.Duration
	// MaxOutput bounds the bytes of all files in a job's folder; zero means 1 GiB.
	MaxOutput int64
	// Temp is where jobs have their folders. Those that are there when the first job
	// comes were left by a process that was killed, and are removed: no other back-end
	// or process may use it. Empty means the system's folder for such things, in which
	// nothing else is touched.
	Temp string
	// Log gets what a command says beside its result; nil means nobody.
	Log *slog.Logger
}

const (
	// maxAnswer bounds a line that a command prints, and all text of an answer.
	maxAnswer = 32 << 20
	// maxPrinted bounds all that a command prints.
	maxPrinted = 256 << 20
	// maxComplaint bounds what is kept of its standard error: the end.
	maxComplaint = 8 << 10
	// maxMessage bounds the message of an error for the caller.
	maxMessage = 2 << 10
)

// Backend implements backend.Backend, Streamer and VideoMaker. Make one with New.
type Backend struct {
	path    string
	args    []string
	dir     string
	env     []string // Without TMPDIR, which each job has.
	tmpSet  bool
	timeout time.Duration
	grace   time.Duration
	most    int64
	temp    string
	sweeps  bool // temp is this back-end's alone.
	swept   sync.Once
	log     *slog.Logger
}

var (
	_ backend.Backend    = (*Backend)(nil)
	_ backend.Streamer   = (*Backend)(nil)
	_ backend.VideoMaker = (*Backend)(nil)
)

// New returns a back-end. Errors name the key of the configuration. Nothing is
// run or written yet.
func New(c Config) (*Backend, error) {
	if len(c.Command) == 0 || c.Command[0] == "" {
		return nil, errors.New("command: give the program and its arguments as a list, for example [python3, make_video.py]")
	}
	for _, n := range []struct {
		key   string
		value int64
	}{{"timeout", int64(c.Timeout)}, {"grace", int64(c.Grace)}, {"max_output", c.MaxOutput}} {
		if n.value < 0 {
			return nil, fmt.Errorf("%s: it can't be negative; leave it out for the default", n.key)
		}
	}
	b := &Backend{args: slices.Clone(c.Command), dir: c.Dir, timeout: cmp.Or(c.Timeout, 10*time.Minute), grace: cmp.Or(c.Grace, 5*time.Second),
		most: cmp.Or(c.MaxOutput, 1<<30), sweeps: c.Temp != "", log: c.Log}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if b.dir != "" {
		if b.dir, err = filepath.Abs(b.dir); err != nil {
			return nil, fmt.Errorf("dir: %w", err)
		}
		if info, err := os.Stat(b.dir); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("dir: %s is not a folder; it is looked for from where the server was started", b.dir)
		}
	}
	if b.temp, err = filepath.Abs(cmp.Or(c.Temp, os.TempDir())); err != nil { // The command may run elsewhere.
		return nil, fmt.Errorf("the folder of jobs: %w", err)
	}
	if b.path, err = program(c.Command[0], b.dir); err != nil {
		return nil, err
	}
	if b.env, err = environment(c.Env); err != nil {
		return nil, err
	}
	_, b.tmpSet = c.Env["TMPDIR"]
	if err := usable(); err != nil {
		return nil, err
	}
	return b, nil
}

// program finds the program: a bare name in PATH, anything else from dir.
func program(name, dir string) (string, error) {
	at := name
	if strings.ContainsRune(name, os.PathSeparator) && !filepath.IsAbs(name) {
		at = filepath.Join(dir, name)
	}
	found, err := osexec.LookPath(at)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		return "", fmt.Errorf("command: %q is not a program that can be run: %w; install it or give its whole path", name, err)
	}
	return found, nil
}

// environment is what a command finds set.
func environment(own map[string]string) ([]string, error) {
	set := map[string]string{
		"PATH": cmp.Or(os.Getenv("PATH"), "/usr/local/bin:/usr/bin:/bin"),
		"LANG": cmp.Or(os.Getenv("LANG"), "C.UTF-8"),
	}
	if home, err := os.UserHomeDir(); err == nil {
		set["HOME"] = home
	}
	for name, value := range own {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return nil, fmt.Errorf("env: %q can't be the name of a variable, or its value not a value", name)
		}
		set[name] = value
	}
	var env []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		env = append(env, name+"="+set[name])
	}
	return env, nil
}
