package keyring_test

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/keyring"
)

// TestMasterRotation: whenever it is cut off, what was sealed can be read, and it
// goes on where it was.
func TestMasterRotation(t *testing.T) {
	dir := t.TempDir()
	k, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]byte{"a": k.Seal("secret a", "a"), "b": k.Seal("secret b", "b")}
	read := func(k *keyring.Keyring) {
		t.Helper()
		for context, sealed := range values {
			if plain, err := k.Unseal(sealed, context); err != nil || string(plain) != "secret "+context {
				t.Fatalf("%s: %q, %v", context, plain, err)
			}
		}
	}
	reseal := func(k *keyring.Keyring, context string) bool {
		t.Helper()
		fresh, err := k.Reseal(values[context], context)
		if err != nil {
			t.Fatal(err)
		}
		if fresh != nil {
			values[context] = fresh
		}
		return fresh != nil
	}
	first, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	both, err := keyring.BeginRotation(dir)
	if err != nil {
		t.Fatal(err)
	}
	read(both)
	if !reseal(both, "a") {
		t.Fatal("a was not sealed anew")
	}
	// Cut off: the next process finds half of it done.
	again, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	read(again)
	values["c"] = again.Seal("secret c", "c")
	if again, err = keyring.BeginRotation(dir); err != nil {
		t.Fatal(err)
	}
	read(again)
	for context, want := range map[string]bool{"a": false, "b": true, "c": false} {
		if got := reseal(again, context); got != want {
			t.Errorf("%s was sealed anew: %v", context, got)
		}
	}
	for range 2 { // Cut off right after the end: it is ended once more.
		if err := keyring.FinishRotation(dir); err != nil {
			t.Fatal(err)
		}
		if k, err = keyring.Open(dir); err != nil {
			t.Fatal(err)
		}
		read(k)
	}
	second, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil || string(first) == string(second) {
		t.Errorf("the key is the same, %v", err)
	}
	old, err := keyring.Parse(string(first))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Unseal(values["a"], "a"); !errors.Is(err, keyring.ErrWrongKey) {
		t.Errorf("the old key: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if _, err := keyring.BeginRotation(t.TempDir()); err == nil {
		t.Error("a rotation without a key")
	}
}

func TestCommand(t *testing.T) {
	text := base64.StdEncoding.EncodeToString(make([]byte, 32))
	k, err := keyring.Command(t.Context(), "printf '"+text+"\\nmore\\n'")
	if err != nil {
		t.Fatal(err)
	}
	same, err := keyring.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := same.Unseal(k.Seal("x", "c"), "c"); err != nil || string(plain) != "x" {
		t.Errorf("got %q, %v", plain, err)
	}
	for command, hint := range map[string]string{"echo vault is sealed >&2; exit 3": "vault is sealed", "echo " + text[:20]: "must be the base64 of 32 bytes", "true": "must be"} {
		if _, err := keyring.Command(t.Context(), command); !errors.Is(err, ringback.FailedPrecondition) || !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), text[:20]) {
			t.Errorf("%s: %v", command, err)
		}
	}
}
