// Package keyring seals secrets at rest under the server's master key, and makes
// and hashes API keys. It keeps nothing but the master key in memory.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ringback.dev"
)

const (
	fileName = "master.key"
	keySize  = 32
	// version begins every sealed value: AES-256-GCM, random nonce, four bytes of
	// the master key's hash to tell a wrong key from a damaged value.
	version = 1
	idSize  = 4
)

// Keyring seals and unseals. It may be used by any number of goroutines.
type Keyring struct {
	aead cipher.AEAD
	id   [idSize]byte
	// previous, if not nil, unseals what was sealed before the master key was
	// replaced.
	previous *Keyring
}

// ErrWrongKey is wrapped when a value was sealed under another master key.
var ErrWrongKey = errors.New("the master key does not match the data folder")

// Open reads the master key from the file master.key in dir, making it on first
// use. The file must be readable by its owner only. If a rotation of the key was
// cut off, both keys unseal and the new one seals.
func Open(dir string) (*Keyring, error) {
	k, err := openFile(dir, fileName, true)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, nextName)); errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	next, err := openFile(dir, nextName, false)
	if err != nil {
		return nil, err
	}
	next.previous = k
	return next, nil
}

// openFile reads a key file, and makes one if it is missing and may be made.
func openFile(dir, name string, makeIt bool) (*Keyring, error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && makeIt {
		return create(dir, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the master key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the master key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf(
			"%s can be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)}
	}
	return Parse(string(text))
}

// Parse makes a Keyring from the master key's text: the standard base64 of 32 bytes.
func Parse(text string) (*Keyring, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != keySize {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: "the master key must be the base64 of 32 bytes; restore it from your backup"}
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	k := &Keyring{}
	if k.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	sum := sha256.Sum256(append([]byte("ringback master key id\x00"), key...))
	copy(k.id[:], sum[:])
	return k, nil
}

// create makes the key file. It is written under another name, synced and then
// linked into place, so that a crash leaves a whole file or none.
func create(dir, path string) (*Keyring, error) {
	key := make([]byte, keySize)
	_, _ = rand.Read(key)
	text := base64.StdEncoding.EncodeToString(key) + "\n"
	f, err := os.CreateTemp(dir, fileName+".*") // Mode 0600.
	if err != nil {
		return nil, fmt.Errorf("write the master key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // Fails if another process was first.
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("write the master key: %w", err)
	}
	return Parse(text)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Seal encrypts a secret. The context, such as "endpoint/ID", is bound to the
// result: Unseal needs the same, so a sealed value can't be moved elsewhere.
func (k *Keyring) Seal(secret, context string) []byte {
	out := append([]byte{version}, k.id[:]...)
	return k.aead.Seal(out, nil, []byte(secret), []byte(context))
}

// Unseal decrypts what Seal made with the same context.
func (k *Keyring) Unseal(sealed []byte, context string) ([]byte, error) {
	if len(sealed) < 1+idSize || sealed[0] != version {
		return nil, errors.New("not a sealed value of a known version")
	}
	if [idSize]byte(sealed[1:1+idSize]) != k.id {
		if k.previous != nil {
			return k.previous.Unseal(sealed, context)
		}
		return nil, ErrWrongKey
	}
	secret, err := k.aead.Open(nil, nil, sealed[1+idSize:], []byte(context))
	if err != nil {
		return nil, errors.New("a sealed value is damaged or belongs elsewhere")
	}
	return secret, nil
}

// keyPrefix lets people and secret scanners recognise an API key.
const keyPrefix = "rbk_"

// NewAPIKey makes an API key: "rbk_" and 52 characters that encode 32 random
// bytes.
func NewAPIKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return keyPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// HashKey returns what is stored of an API key. A plain SHA-256 is enough: the
// key has 256 random bits, so there is nothing to guess.
func HashKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:]
}

// ShownPrefix returns the part of an API key by which people tell it from others.
func ShownPrefix(key string) string { return key[:min(len(key), len(keyPrefix)+6)] }
