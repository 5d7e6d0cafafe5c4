package main

import (
	"context"
	"fmt"

	"ringback.dev/internal/app"
)

type keysRotateMaster struct{ settings }

// Help shows more than the flags.
func (keysRotateMaster) Help() string {
	return `All secrets in the data folder are sealed anew. Make a backup of the folder first; stop the server.

  ringback keys rotate-master --data ./ringback-data
  RINGBACK_MASTER_KEY=… RINGBACK_MASTER_KEY_NEXT=… ringback keys rotate-master     if the key is not in the folder

If it is broken off, run it again: nothing becomes unreadable in between.`
}

func (c *keysRotateMaster) Run(ctx context.Context, s *streams) error {
	if err := c.complete(); err != nil {
		return err
	}
	n, err := app.RotateMaster(ctx, c.Config)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%d values are sealed under the new master key\n", n)
	if c.NextMasterKey != "" && (c.MasterKey != "" || c.MasterKeyCommand != "") {
		fmt.Fprintln(s.out, "from now on the server needs the new key: set RINGBACK_MASTER_KEY, or what --master-key-command prints, to it")
	}
	return nil
}
