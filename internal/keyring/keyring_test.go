package keyring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/keyring"
)

func TestSealSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	first, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed := first.Seal("whsec_secret", "endpoint/1")
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("the sealed value holds the secret")
	}
	second, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := second.Unseal(sealed, "endpoint/1")
	if err != nil || string(got) != "whsec_secret" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := second.Unseal(sealed, "endpoint/2"); err == nil {
		t.Error("a sealed value could be moved to another endpoint")
	}
	other, err := keyring.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Unseal(sealed, "endpoint/1"); !errors.Is(err, keyring.ErrWrongKey) {
		t.Errorf("another master key: got %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "master.key")
	if _, err := keyring.Open(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(dir); !errors.Is(err, ringback.FailedPrecondition) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: got %v", err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(dir); !errors.Is(err, ringback.FailedPrecondition) {
		t.Errorf("a malformed key: got %v", err)
	}
}

func TestAPIKey(t *testing.T) {
	a, b := keyring.NewAPIKey(), keyring.NewAPIKey()
	if a == b || len(a) != 56 || !strings.HasPrefix(a, "rbk_") || bytes.Equal(keyring.HashKey(a), keyring.HashKey(b)) {
		t.Errorf("unexpected keys %s, %s", a, b)
	}
}

func FuzzUnseal(f *testing.F) {
	k, err := keyring.Parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Seal("x", "c"))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if got, err := k.Unseal(sealed, "another context"); err == nil {
			t.Fatalf("a forged value was opened: %q", got)
		}
	})
}
