package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ringback.dev/internal/post"
	"ringback.dev/webhook"
)

// signing are the flags of tools that sign as a server would.
type signing struct {
	Secret []string `env:"RINGBACK_WEBHOOK_SECRET" placeholder:"whsec_…" help:"Secret that the receiver verifies with, or private key (whsk_…); several, the newest first, as during a rotation. Without one: this machine's development secret, made once and printed."`
}

// given reports whether secrets were named for this call. One in the environment
// may be there for other commands.
func (f *signing) given() bool {
	return len(f.Secret) > 0 && strings.Join(f.Secret, ",") != os.Getenv("RINGBACK_WEBHOOK_SECRET")
}

// signers returns what to sign with, and the development secret if that is it.
func (f *signing) signers() (with []webhook.Signer, own *webhook.Secret, err error) {
	for _, text := range f.Secret {
		s, err := post.ParseSigner(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--secret: %w", err)
		}
		with = append(with, s)
	}
	if with != nil {
		return with, nil, nil
	}
	s, err := devSecret()
	if err != nil {
		return nil, nil, err
	}
	return []webhook.Signer{s}, &s, nil
}

// toolsFile names a file in which the tools remember something between runs.
func toolsFile(name ...string) (string, error) {
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("there is no place for what is remembered between runs: %w", err)
	}
	file := filepath.Join(append([]string{base, "ringback"}, name...)...)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", fmt.Errorf("make the place for what is remembered between runs: %w", err)
	}
	return file, nil
}

// remembered returns what a file of the tools holds, made when it is first asked
// for. Two that ask at once get the same.
func remembered(name string, create func() []byte) ([]byte, error) {
	file, err := toolsFile(name)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if !errors.Is(err, os.ErrNotExist) {
		return text, err
	}
	fresh, err := os.CreateTemp(filepath.Dir(file), name+".")
	if err != nil {
		return nil, err
	}
	defer os.Remove(fresh.Name())
	_, err = fresh.Write(create())
	if err = errors.Join(err, fresh.Close()); err != nil {
		return nil, err
	}
	// Not a rename, which would replace what another process has just made.
	err = os.Link(fresh.Name(), file)
	if err != nil && !errors.Is(err, os.ErrExist) {
		err = os.Rename(fresh.Name(), file) // The file system has no links.
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.ReadFile(file)
}

// devSecret is the signing secret of this machine's developer: listen, trigger,
// replay and examine share it, so that a receiver is set up once.
func devSecret() (webhook.Secret, error) {
	text, err := remembered("dev-secret", func() []byte { return []byte(webhook.NewSecret().Reveal() + "\n") })
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("the development secret: %w; or give --secret", err)
	}
	s, err := webhook.ParseSecret(strings.TrimSpace(string(text)))
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("the development secret: %w; remove it, or give --secret", err)
	}
	return s, nil
}
