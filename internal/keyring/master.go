package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"ringback.dev"
)

// nextName is the file of the new master key while everything is being sealed
// under it.
const nextName = fileName + ".next"

// Command gets the master key from a command, which a shell runs: the first line
// that it prints. It has 10 seconds.
func Command(ctx context.Context, command string) (*Keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = errors.New("it took longer than 10 seconds")
	}
	if err != nil {
		said := strings.Join(strings.Fields(errs.String()), " ")
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("master_key_command: %v: %.200s", err, said)}
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return Parse(line)
}

// WithPrevious returns a keyring that seals under k and unseals what previous
// sealed, too.
func (k *Keyring) WithPrevious(previous *Keyring) *Keyring {
	both := *k
	both.previous = previous
	return &both
}

// NeedsReseal reports whether a value was sealed under another key than the one
// that seals now.
func (k *Keyring) NeedsReseal(sealed []byte) bool {
	return len(sealed) < 1+idSize || [idSize]byte(sealed[1:1+idSize]) != k.id
}

// Reseal seals a value anew if it needs that, and returns nil if not.
func (k *Keyring) Reseal(sealed []byte, context string) ([]byte, error) {
	if !k.NeedsReseal(sealed) {
		return nil, nil
	}
	plain, err := k.Unseal(sealed, context)
	if err != nil {
		return nil, err
	}
	return k.Seal(string(plain), context), nil
}

// BeginRotation makes a new master key beside the one in dir, unless that was
// done before and cut off. The keyring seals under the new one and unseals what
// either sealed. Once everything is sealed anew, FinishRotation ends it. At any
// moment in between Open gives a keyring that reads everything.
func BeginRotation(dir string) (*Keyring, error) {
	if _, err := openFile(dir, fileName, false); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, nextName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := create(dir, path); err != nil {
			return nil, err
		}
	}
	return Open(dir)
}

// FinishRotation puts the new master key in the place of the old one. Without a
// rotation it does nothing.
func FinishRotation(dir string) error {
	err := os.Rename(filepath.Join(dir, nextName), filepath.Join(dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		return fmt.Errorf("replace the master key: %w", err)
	}
	return nil
}
