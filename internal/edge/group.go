package edge

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
)

// runGroup runs a command in a process group of its own, so that what it has
// started dies with it: when its time is over, and, where the system can do that,
// the command itself when the edge is killed, so that it does not run twice at
// once after the next start.
func runGroup(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	kill := func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return nil // It has just ended.
		}
		return err
	}
	cmd.Cancel = kill
	// The signal at the parent's death is really one at that of the thread that
	// started the command (prctl(2)), so the thread must outlive it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		_ = kill() // Something of the group still holds the output.
	}
	return err
}
