package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"ringback.dev/internal/backend"
)

// job is a folder in which a command works, and from which its results are taken.
type job struct {
	path  string
	input string // For media of the request.
	tmp   string // The command's TMPDIR.
	// output is opened before the command runs, so that it stays the same folder
	// whatever the command puts in its place.
	output *os.Root
}

// job makes the folder of a job. The caller closes it.
func (b *Backend) job() (_ *job, err error) {
	if b.sweeps {
		b.swept.Do(b.sweep)
	}
	defer func() {
		if err != nil {
			err = &backend.Error{Kind: backend.Unavailable, Message: "the job's folder can't be made", Cause: err}
		}
	}()
	if err := os.MkdirAll(b.temp, 0o700); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(b.temp, prefix)
	if err != nil {
		return nil, err
	}
	j := &job{path: path, input: filepath.Join(path, "input"), tmp: filepath.Join(path, "tmp")}
	for _, dir := range []string{j.input, j.tmp, j.outputDir()} {
		if err = os.Mkdir(dir, 0o700); err != nil {
			break
		}
	}
	if err == nil {
		j.output, err = os.OpenRoot(j.outputDir())
	}
	if err != nil {
		return nil, errors.Join(err, remove(path))
	}
	return j, nil
}

// prefix begins the name of a job's folder.
const prefix = "ringback-job-"

func (j *job) outputDir() string { return filepath.Join(j.path, "output") }

// closeJob removes a job's folder.
func (b *Backend) closeJob(j *job) {
	if err := errors.Join(j.output.Close(), remove(j.path)); err != nil {
		b.log.Warn("a job's folder is not removed", "folder", j.path, "error", err)
	}
}

// sweep removes the folders that a process left which was killed.
func (b *Backend) sweep() {
	left, err := filepath.Glob(filepath.Join(b.temp, prefix+"*"))
	for _, path := range left {
		err = errors.Join(err, remove(path))
	}
	if err != nil {
		b.log.Warn("old folders of jobs are not removed", "error", err)
	}
}

// remove removes a folder, also one that a command made read-only.
func remove(path string) error {
	if os.RemoveAll(path) == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(name, 0o700)
		}
		return nil // What can't be read can't be helped; RemoveAll says so.
	})
	return os.RemoveAll(path)
}

// size is how many bytes the files of a folder have. What vanishes meanwhile has
// none.
func size(path string) int64 {
	var sum int64
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

// watchEvery is how often the size of a job's folder is looked at.
const watchEvery = 500 * time.Millisecond

// errLingers is why a command is stopped that has ended its job and goes on.
var errLingers = errors.New("the command goes on after the end of its job")

// tooLarge is the error of a job with too large files.
func (b *Backend) tooLarge() error {
	return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the command's files have more than %d bytes (max_output)", b.most)}
}

// run runs the command on a job and returns its result. What it says before goes to
// hear; when that fails, so does the job. On return nothing of the command is left.
func (b *Backend) run(ctx context.Context, j *job, input any, hear func(said any) error) (*result, error) {
	data, err := json.Marshal(input)
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	dir, env := b.dir, b.env
	if dir == "" {
		dir = j.path
	}
	if !b.tmpSet {
		env = append(env[:len(env):len(env)], "TMPDIR="+j.tmp)
	}
	p, err := start(running, b.path, b.args, dir, env, b.grace)
	if err != nil {
		return nil, &backend.Error{Kind: backend.Unavailable, Message: "the command can't be started", Cause: err}
	}
	var around sync.WaitGroup
	var linger *time.Timer
	defer func() { // Also when hear panics.
		if linger != nil {
			linger.Stop()
		}
		stop(nil)
		<-p.ended
		around.Wait()
		p.close()
	}()
	timer := time.AfterFunc(b.timeout, func() {
		stop(&backend.Error{Kind: backend.Timeout, Message: fmt.Sprintf("the command did not end within %s", b.timeout)})
	})
	defer timer.Stop()
	around.Go(func() {
		// A command need not read its input; what it makes of that is its own affair.
		_, _ = p.stdin.Write(append(data, '\n'))
		_ = p.stdin.Close()
	})
	var complaint tail
	complained := make(chan struct{})
	around.Go(func() {
		defer close(complained)
		_, _ = io.Copy(&complaint, p.stderr) // It ends with the command.
	})
	around.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-p.ended:
				return
			case <-tick.C:
				if size(j.path) > b.most {
					stop(b.tooLarge())
				}
			}
		}
	})

	var (
		res    *result
		failed *backend.Error
	)
	err = read(p.stdout, func(said any) error {
		switch s := said.(type) {
		case *result:
			res = s
		case *failure:
			failed = s.asError()
		case string:
			b.log.Debug("the command printed a line of a type that is unknown", "type", s)
			return nil
		default:
			return hear(said)
		}
		// It said that it is done, and has the grace to end by itself.
		linger = time.AfterFunc(b.grace, func() { stop(errLingers) })
		return nil
	})
	if err != nil {
		stop(err)
		_, _ = io.Copy(io.Discard, p.stdout) // So that nothing holds it up in ending.
	}
	<-p.ended
	<-complained
	cause := context.Cause(running)
	said := strings.TrimSpace(strings.ToValidUTF8(string(complaint.text), "\uFFFD"))
	if complaint.cut {
		said = "…" + said
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case failed != nil:
		if said != "" {
			failed.Cause = fmt.Errorf("it wrote: %s", said)
		}
		return nil, failed
	case cause != nil && cause != errLingers:
		return nil, cause
	case p.err != nil && cause == nil:
		cause = p.err
		if said != "" {
			cause = fmt.Errorf("%w; it wrote: %s", p.err, said)
		}
		return nil, &backend.Error{Kind: backend.Internal, Message: "the command failed", Cause: cause}
	case res == nil:
		return nil, &backend.Error{Kind: backend.Internal, Message: "the command ended without a result"}
	}
	return res, nil
}
