//go:build crashtest

package crash

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// armed is read once: RINGBACK_CRASH=step:n kills the process the n-th time
// that the step is reached.
var armed = parse(os.Getenv("RINGBACK_CRASH"))

// Tests fill the disk by a limit on the size of files: a write then fails, as it does
// on a full disk, unless the signal ends the process first.
func init() { signal.Ignore(syscall.SIGXFSZ) }

type point struct {
	step Step
	left atomic.Int64
}

func parse(s string) *point {
	step, n, _ := strings.Cut(s, ":")
	times, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		return nil
	}
	p := &point{step: Step(step)}
	p.left.Store(times)
	return p
}

// At kills the process if it is armed for this step and the count has run out.
func At(s Step) {
	if armed != nil && armed.step == s && armed.left.Add(-1) == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // Nothing may run on until the signal arrives.
	}
}
