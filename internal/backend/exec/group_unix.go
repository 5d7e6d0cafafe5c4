//go:build unix

package exec

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"syscall"
)

// group is a process group that ends with this process, however that ends. It is
// led by a keeper: a small shell that waits until the pipe from this process is
// closed, which the kernel does also after SIGKILL, and then kills its group. So no
// child of the command is left either; the signal that Linux sends when a parent
// dies (PR_SET_PDEATHSIG) would reach the command only. And as long as the keeper was
// not waited for, the group's number can't become another's, so that no signal
// goes astray.
type group struct {
	keeper *osexec.Cmd
	life   *os.File
}

// keep is the keeper's program. It outlives the SIGTERM to the group.
const keep = `trap '' HUP INT TERM; read -r _; kill -s KILL 0`

// usable says what is missing for groups.
func usable() error {
	if _, err := osexec.LookPath("sh"); err != nil {
		return fmt.Errorf("command: a shell is needed beside it, to end it if this server is killed: %w", err)
	}
	return nil
}

func newGroup() (*group, error) {
	shell, err := osexec.LookPath("sh")
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	keeper := &osexec.Cmd{Path: shell, Args: []string{"sh", "-c", keep}, Dir: "/", Env: []string{}, Stdin: r, SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	err = keeper.Start()
	_ = r.Close()
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	return &group{keeper, w}, nil
}

// member puts a process into the group from its first instruction on.
func (g *group) member() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pgid: g.keeper.Process.Pid}
}

// terminate asks all of the group to end.
func (g *group) terminate(*osexec.Cmd) { _ = syscall.Kill(-g.keeper.Process.Pid, syscall.SIGTERM) }

// kill ends all of the group.
func (g *group) kill(*osexec.Cmd) { _ = syscall.Kill(-g.keeper.Process.Pid, syscall.SIGKILL) }

// end kills what is left of the group and waits for the keeper. Orphans of the
// command are children of this process if it is the first of a container: nobody
// else would collect them.
func (g *group) end() {
	g.kill(nil)
	for {
		if _, err := syscall.Wait4(-g.keeper.Process.Pid, nil, 0, nil); err != nil && !errors.Is(err, syscall.EINTR) {
			break // None is left.
		}
	}
	_ = g.keeper.Process.Release()
	_ = g.life.Close()
}
