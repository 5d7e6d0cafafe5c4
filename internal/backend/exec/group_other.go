//go:build !unix

package exec

import (
	osexec "os/exec"
	"syscall"
)

// group stands in for a process group where there are none: only the command
// itself is ended, and not if this process is killed.
type group struct{}

func usable() error { return nil }

func newGroup() (*group, error) { return &group{}, nil }

func (*group) member() *syscall.SysProcAttr { return nil }

func (*group) terminate(cmd *osexec.Cmd) { _ = cmd.Process.Kill() }

func (*group) kill(cmd *osexec.Cmd) { _ = cmd.Process.Kill() }

func (*group) end() {}
