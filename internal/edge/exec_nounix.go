//go:build !unix

package edge

import "os/exec"

// runGroup runs a command. There are no process groups here: when its time is
// over it is killed alone.
func runGroup(cmd *exec.Cmd) error { return cmd.Run() }
