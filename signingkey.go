package ringback

import (
	"encoding/json"
	"time"
)

// The algorithms of signing keys, named as in RFC 7518 §3.1 and RFC 8037 §3.1.
const (
	RS256 = "RS256"
	EdDSA = "EdDSA"
)

// SigningKey is one of the server's own keys, by which it signs the callbacks
// of dynamic webhooks and which receivers find in the JWKS. A key is first
// published and waits, then signs, then stays published until nothing that it
// signed can still be valid.
type SigningKey struct {
	// ID is the key's kid.
	ID        string `json:"id"`
	Algorithm string `json:"algorithm"`
	// Sealed is the private key encrypted under the master key; nil once the key
	// signs no more.
	Sealed []byte `json:"sealed,omitempty"`
	// Public is the public key as a JWK (RFC 7517), as it is published.
	Public  json.RawMessage `json:"public"`
	Created time.Time       `json:"created"`
	// SignsFrom is zero while the key waits for its turn; SignsUntil and
	// PublishedUntil are zero while no end is known.
	SignsFrom      time.Time `json:"signs_from,omitzero"`
	SignsUntil     time.Time `json:"signs_until,omitzero"`
	PublishedUntil time.Time `json:"published_until,omitzero"`
}
