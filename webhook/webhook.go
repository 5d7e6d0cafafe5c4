// Package webhook signs and verifies webhooks after Standard Webhooks 1.0.0, for
// senders and receivers alike. It needs nothing but the standard library.
//
// A message carries three headers: webhook-id, the same on every retry and so
// the key by which a receiver acts once; webhook-timestamp, the Unix seconds of
// the attempt; and webhook-signature, one or more signatures separated by a
// space. The signed text is id, timestamp and the body's exact bytes, joined by
// full stops.
//
// There are three schemes: "v1", HMAC-SHA256 under a shared [Secret]; "v1a", Ed25519
// under a [SigningKey]; and in place of signatures a JWT under a [TokenKey], as the
// Gemini API documents it for the addresses that a request names. A [Verifier] checks
// all of them.
package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
)

// The headers of a message, as the specification spells them. net/http finds
// them in any case.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

const (
	secretPrefix = "whsec_"
	scheme       = "v1,"
	// The specification asks for 24 to 64 random bytes.
	minKey, maxKey, newKey = 24, 64, 32
)

// Secret is a shared signing secret. Printing or logging one shows only its
// truncated form; Reveal gives the whole text.
type Secret struct {
	// A function, because fmt calls no method on what is held in another struct's
	// unexported field: it prints all it can follow, and it can't follow this.
	key func() *key
}

// key is a secret's bytes and hashes that were set up with them, for reuse.
type key struct {
	bytes  []byte
	hashes sync.Pool // Of hash.Hash.
}

func newSecret(b []byte) Secret {
	k := &key{bytes: b}
	return Secret{func() *key { return k }}
}

// bytes returns the key; the zero Secret has an empty one.
func (s Secret) bytes() []byte {
	if s.key == nil {
		return nil
	}
	return s.key().bytes
}

// NewSecret makes a secret of 32 random bytes.
func NewSecret() Secret {
	key := make([]byte, newKey)
	_, _ = rand.Read(key) // Never fails; it ends the program if it can't.
	return newSecret(key)
}

// ErrSecret is wrapped by every error of ParseSecret.
var ErrSecret = errors.New("webhook: malformed signing secret")

// ParseSecret reads a secret: "whsec_" and the padded standard base64 of 24 to
// 64 bytes. The prefix may be missing. The error never holds the secret.
func ParseSecret(text string) (Secret, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, secretPrefix))
	if err != nil {
		return Secret{}, fmt.Errorf("%w: what follows %q must be padded standard base64", ErrSecret, secretPrefix)
	}
	if len(key) < minKey || len(key) > maxKey {
		return Secret{}, fmt.Errorf("%w: it holds %d bytes, %d to %d are allowed", ErrSecret, len(key), minKey, maxKey)
	}
	return newSecret(key), nil
}

// Reveal returns the whole secret, "whsec_" and base64.
func (s Secret) Reveal() string { return secretPrefix + base64.StdEncoding.EncodeToString(s.bytes()) }

// Truncated returns what may be shown of a secret: "whsec_..." and the last four
// characters of its base64.
func (s Secret) Truncated() string {
	text := base64.StdEncoding.EncodeToString(s.bytes())
	return secretPrefix + "..." + text[max(len(text)-4, 0):]
}

// String returns the truncated form, so that a secret can't leak by being printed.
func (s Secret) String() string { return s.Truncated() }

// GoString returns the truncated form.
func (s Secret) GoString() string { return s.Truncated() }

// Format prints the truncated form whatever the verb, %d and %b included.
func (s Secret) Format(to fmt.State, _ rune) { _, _ = io.WriteString(to, s.Truncated()) }

// LogValue returns the truncated form.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.Truncated()) }

func (s Secret) appendSignature(to, prefix, body []byte) []byte {
	var sum [sha256.Size]byte
	return base64.StdEncoding.AppendEncode(append(to, scheme...), s.mac(sum[:0], prefix, body))
}

// appendPrefix appends what is signed before the body.
func appendPrefix(to []byte, id string, unix int64) []byte {
	to = append(to, id...)
	to = append(to, '.')
	to = strconv.AppendInt(to, unix, 10)
	return append(to, '.')
}

// mac appends the HMAC-SHA256 of prefix and body.
func (s Secret) mac(to, prefix, body []byte) []byte {
	if s.key == nil {
		s = newSecret(nil)
	}
	k := s.key()
	h, ok := k.hashes.Get().(hash.Hash)
	if ok {
		h.Reset()
	} else {
		h = hmac.New(sha256.New, k.bytes)
	}
	h.Write(prefix)
	h.Write(body)
	to = h.Sum(to)
	k.hashes.Put(h)
	return to
}
