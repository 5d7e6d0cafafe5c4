package webhook

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

const (
	signingPrefix = "whsk_"
	publicPrefix  = "whpk_"
	schemeV1a     = "v1a,"
)

// Signer is a Secret (scheme "v1") or a SigningKey (scheme "v1a").
type Signer interface {
	// appendSignature appends a token of the signature header.
	appendSignature(to, prefix, body []byte) []byte
}

// Sign returns the value of the webhook-signature header for a message: one
// signature per signer, in the order given, separated by a space. During a
// rotation pass every live secret or key, the newest first.
func Sign(id string, at time.Time, body []byte, with ...Signer) string {
	const size = len(schemeV1a) + 88 // The base64 of 64 bytes.
	header := make([]byte, 0, len(with)*(size+1))
	prefix := appendPrefix(make([]byte, 0, 64), id, at.Unix())
	for i, s := range with {
		if i > 0 {
			header = append(header, ' ')
		}
		header = s.appendSignature(header, prefix, body)
	}
	return string(header)
}

// SigningKey is a private Ed25519 key for the asymmetric scheme "v1a". Printing or
// logging one shows only its public half; Reveal gives the whole text.
type SigningKey struct {
	// A function for the same reason as in Secret.
	key func() ed25519.PrivateKey
}

// NewSigningKey makes a random key.
func NewSigningKey() SigningKey {
	_, key, _ := ed25519.GenerateKey(rand.Reader) // Fails only if rand does, which ends the program.
	return SigningKeyOf(key)
}

// SigningKeyOf wraps a key.
func SigningKeyOf(key ed25519.PrivateKey) SigningKey {
	return SigningKey{func() ed25519.PrivateKey { return key }}
}

// ErrKey is wrapped by every error about a malformed key.
var ErrKey = errors.New("webhook: malformed key")

// ParseSigningKey reads a private key: "whsk_" and the standard base64 of the 32
// bytes of its seed, or of seed and public key. The error never holds the key.
func ParseSigningKey(text string) (SigningKey, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, signingPrefix))
	if err != nil {
		return SigningKey{}, fmt.Errorf("%w: what follows %q must be padded standard base64", ErrKey, signingPrefix)
	}
	if len(b) != ed25519.SeedSize && len(b) != ed25519.PrivateKeySize {
		return SigningKey{}, fmt.Errorf("%w: it holds %d bytes, %d or %d are allowed", ErrKey, len(b), ed25519.SeedSize, ed25519.PrivateKeySize)
	}
	key := ed25519.NewKeyFromSeed(b[:ed25519.SeedSize])
	if len(b) == ed25519.PrivateKeySize && string(key) != string(b) {
		return SigningKey{}, fmt.Errorf("%w: its two halves don't belong together", ErrKey)
	}
	return SigningKeyOf(key), nil
}

// Reveal returns the whole key, "whsk_" and base64.
func (k SigningKey) Reveal() string {
	return signingPrefix + base64.StdEncoding.EncodeToString(k.key())
}

// Public returns the key by which receivers verify.
func (k SigningKey) Public() PublicKey {
	return PublicKey{k.key().Public().(ed25519.PublicKey)}
}

// String returns the public half, so that a key can't leak by being printed.
func (k SigningKey) String() string {
	if k.key == nil {
		return signingPrefix
	}
	return "private key of " + k.Public().String()
}

// GoString is String.
func (k SigningKey) GoString() string { return k.String() }

// Format is String whatever the verb.
func (k SigningKey) Format(to fmt.State, _ rune) { _, _ = io.WriteString(to, k.String()) }

// LogValue is String.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

func (k SigningKey) appendSignature(to, prefix, body []byte) []byte {
	message := make([]byte, 0, len(prefix)+len(body))
	message = append(append(message, prefix...), body...)
	to = append(to, schemeV1a...)
	return base64.StdEncoding.AppendEncode(to, ed25519.Sign(k.key(), message))
}

// PublicKey verifies what a SigningKey signed.
type PublicKey struct{ key ed25519.PublicKey }

// ParsePublicKey reads a public key: "whpk_" and the standard base64 of 32 bytes.
func ParsePublicKey(text string) (PublicKey, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, publicPrefix))
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: what follows %q must be padded standard base64", ErrKey, publicPrefix)
	}
	if len(b) != ed25519.PublicKeySize {
		return PublicKey{}, fmt.Errorf("%w: it holds %d bytes, a public key has %d", ErrKey, len(b), ed25519.PublicKeySize)
	}
	return PublicKey{b}, nil
}

// String returns the key, "whpk_" and base64.
func (k PublicKey) String() string { return publicPrefix + base64.StdEncoding.EncodeToString(k.key) }
