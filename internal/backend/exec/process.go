package exec

import (
	"context"
	"errors"
	"io"
	"os"
	osexec "os/exec"
	"time"
)

// process is a command that runs. Start one with start; somebody must read its
// pipes until it has ended.
type process struct {
	stdin          *os.File
	stdout, stderr *pipe
	// ended is closed when nothing of the command is left; err tells how it ended.
	ended chan struct{}
	err   error
}

// start starts a command. When ctx ends, it is told to end, and killed after the
// grace.
func start(ctx context.Context, path string, args []string, dir string, env []string, grace time.Duration) (*process, error) {
	p := &process{ended: make(chan struct{})}
	var ours, theirs []*os.File
	shut := func(files []*os.File) {
		for _, f := range files {
			_ = f.Close() // Pipes: there is nothing to be lost.
		}
	}
	defer func() { shut(theirs) }()
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			shut(ours)
			return nil, err
		}
		if len(ours) == 0 {
			ours, theirs = append(ours, w), append(theirs, r)
			continue
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	p.stdin = ours[0]
	p.stdout, p.stderr = &pipe{ours[1], p.ended}, &pipe{ours[2], p.ended}
	g, err := newGroup()
	if err != nil {
		shut(ours)
		return nil, err
	}
	cmd := &osexec.Cmd{Path: path, Args: args, Dir: dir, Env: env, Stdin: theirs[0], Stdout: theirs[1], Stderr: theirs[2], SysProcAttr: g.member()}
	if err := cmd.Start(); err != nil {
		g.end()
		shut(ours)
		return nil, err
	}
	go p.tend(ctx, cmd, g, grace)
	return p, nil
}

// tend stays with a command until nothing of it is left.
func (p *process) tend(ctx context.Context, cmd *osexec.Cmd, g *group, grace time.Duration) {
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case p.err = <-exited:
	case <-ctx.Done():
		g.terminate(cmd)
		timer := time.NewTimer(grace)
		select {
		case p.err = <-exited:
		case <-timer.C:
			g.kill(cmd)
			p.err = <-exited
		}
		timer.Stop()
	}
	g.end() // What the command left running ends with it.
	_ = p.stdin.Close()
	close(p.ended)
	p.stdout.hurry()
	p.stderr.hurry()
}

// close frees the pipes. Nobody may read them any more.
func (p *process) close() {
	_ = p.stdout.file.Close()
	_ = p.stderr.file.Close()
}

// pipe is what a command prints. It ends with the command even if a program that
// left the group still holds the other side.
type pipe struct {
	file  *os.File
	ended <-chan struct{}
}

// leftover is how long is waited for what was printed before the end. It is there
// already; only a program that left the group makes anybody wait.
const leftover = time.Second

// hurry bounds a Read that is under way.
func (p *pipe) hurry() { _ = p.file.SetReadDeadline(time.Now().Add(leftover)) }

// Read implements io.Reader.
func (p *pipe) Read(b []byte) (int, error) {
	select {
	case <-p.ended: // The reader may have been away for longer than the bound.
		p.hurry()
	default:
	}
	n, err := p.file.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

// tail keeps the end of what is written to it.
type tail struct {
	text []byte
	cut  bool
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b[max(0, len(b)-maxComplaint):]...)
	if more := len(t.text) - maxComplaint; more > 0 || len(b) > maxComplaint {
		t.text, t.cut = append(t.text[:0], t.text[max(0, more):]...), true
	}
	return len(b), nil
}
