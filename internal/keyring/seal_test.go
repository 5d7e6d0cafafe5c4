package keyring_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/keyring"
)

// TestDamagedValues: no bit of a sealed value can change and no byte can go or
// come without Unseal noticing.
func TestDamagedValues(t *testing.T) {
	k, err := keyring.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.Seal("whsec_secret", "endpoint/1")
	for i := range len(sealed) * 8 {
		damaged := bytes.Clone(sealed)
		damaged[i/8] ^= 1 << (i % 8)
		if got, err := k.Unseal(damaged, "endpoint/1"); err == nil {
			t.Errorf("bit %d was changed: got %q", i, got)
		}
	}
	for n := range sealed {
		if got, err := k.Unseal(sealed[:n], "endpoint/1"); err == nil {
			t.Errorf("cut to %d bytes: got %q", n, got)
		}
	}
	if got, err := k.Unseal(append(bytes.Clone(sealed), 0), "endpoint/1"); err == nil {
		t.Errorf("a byte was added: got %q", got)
	}
	for _, context := range []string{"", "endpoint/", "endpoint/10", "Endpoint/1", "endpoint/1\x00"} {
		if got, err := k.Unseal(sealed, context); err == nil || errors.Is(err, keyring.ErrWrongKey) {
			t.Errorf("context %q: got %q, %v", context, got, err)
		}
	}
	if got, err := k.Unseal(sealed, "endpoint/1"); err != nil || string(got) != "whsec_secret" {
		t.Errorf("the value itself: got %q, %v", got, err)
	}
}

// TestSealTwice: equal secrets can't be told by their sealed values.
func TestSealTwice(t *testing.T) {
	k, err := keyring.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(k.Seal("whsec_secret", "c"), k.Seal("whsec_secret", "c")) {
		t.Error("the nonce was used twice")
	}
	if got, err := k.Unseal(k.Seal("", ""), ""); err != nil || len(got) != 0 {
		t.Errorf("an empty secret: got %q, %v", got, err)
	}
}

func TestParse(t *testing.T) {
	key := bytes.Repeat([]byte{0xfb}, 32)
	text := base64.StdEncoding.EncodeToString(key)
	for _, good := range []string{text, text + "\n", " " + text + "\r\n"} {
		if _, err := keyring.Parse(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for name, bad := range map[string]string{
		"empty": "", "white space": " \n", "16 bytes": base64.StdEncoding.EncodeToString(key[:16]), "33 bytes": base64.StdEncoding.EncodeToString(append(key, 1)),
		"hexadecimal": strings.Repeat("fb", 32), "URL-safe": base64.URLEncoding.EncodeToString(key), "no padding": strings.TrimRight(text, "="), "two": text + "\n" + text,
	} {
		_, err := keyring.Parse(bad)
		if !errors.Is(err, ringback.FailedPrecondition) {
			t.Errorf("%s: got %v", name, err)
		} else if len(bad) > 10 && strings.Contains(err.Error(), bad[:10]) {
			t.Errorf("%s: the error holds the key: %v", name, err)
		}
	}
}

// TestBadFolders: a key that can't be read or made is an error, never a new key
// over an old one, and nothing is left lying about.
func TestBadFolders(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "master.key")
	if _, err := keyring.Open(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing folder was accepted")
	}
	const text = "not a key\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(path); err == nil {
		t.Error("a file was accepted as folder")
	}
	if _, err := keyring.Open(dir); err == nil {
		t.Error("a malformed key was accepted")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("the malformed key was touched: %q, %v", got, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(dir); err == nil {
		t.Error("a folder was accepted as key")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

// TestModes: any right of others than the owner is too much.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	if _, err := keyring.Open(dir); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666, 0o777} {
		if err := os.Chmod(filepath.Join(dir, "master.key"), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Open(dir); !errors.Is(err, ringback.FailedPrecondition) {
			t.Errorf("mode %o: got %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400} {
		if err := os.Chmod(filepath.Join(dir, "master.key"), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Open(dir); err != nil {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestShownPrefix(t *testing.T) {
	for key, want := range map[string]string{"rbk_abcdefghijkl": "rbk_abcdef", "rbk_": "rbk_", "": ""} {
		if got := keyring.ShownPrefix(key); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("# comment\nAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := keyring.Parse(text)
		if err != nil {
			if !errors.Is(err, ringback.FailedPrecondition) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if got, err := k.Unseal(k.Seal(text, "c"), "c"); err != nil || string(got) != text {
			t.Fatalf("got %q, %v", got, err)
		}
	})
}
