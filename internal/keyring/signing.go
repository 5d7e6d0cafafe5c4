package keyring

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"time"

	"ringback.dev"
	"ringback.dev/webhook"
)

const (
	signingContext = "signing/"
	rsaBits        = 2048
)

// jwk is a public key as it is published (RFC 7517, RFC 7518 §6.3, RFC 8037 §2).
type jwk struct {
	Type  string `json:"kty"`
	Curve string `json:"crv,omitempty"`
	X     string `json:"x,omitempty"`
	ID    string `json:"kid"`
	N     string `json:"n,omitempty"`
	E     string `json:"e,omitempty"`
	Alg   string `json:"alg"`
	Use   string `json:"use"`
}

// NewSigningKey makes a key for an algorithm, RS256 (RSA with 2048 bits) or EdDSA
// (Ed25519). Its kid is the public key's thumbprint (RFC 7638), cut to 22
// characters. The key waits: it signs nothing yet.
func NewSigningKey(k *Keyring, algorithm string, now time.Time) (ringback.SigningKey, error) {
	b64 := base64.RawURLEncoding
	var private any
	var public jwk
	var thumb string
	switch algorithm {
	case ringback.RS256:
		key, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return ringback.SigningKey{}, fmt.Errorf("make an RSA key: %w", err)
		}
		private = key
		public = jwk{Type: "RSA", N: b64.EncodeToString(key.N.Bytes()), E: b64.EncodeToString(big.NewInt(int64(key.E)).Bytes())}
		thumb = `{"e":"` + public.E + `","kty":"RSA","n":"` + public.N + `"}`
	case ringback.EdDSA:
		open, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return ringback.SigningKey{}, fmt.Errorf("make an Ed25519 key: %w", err)
		}
		private = key
		public = jwk{Type: "OKP", Curve: "Ed25519", X: b64.EncodeToString(open)}
		thumb = `{"crv":"Ed25519","kty":"OKP","x":"` + public.X + `"}`
	default:
		return ringback.SigningKey{}, fmt.Errorf("there is no signing algorithm %q", algorithm)
	}
	sum := sha256.Sum256([]byte(thumb))
	public.ID, public.Alg, public.Use = b64.EncodeToString(sum[:])[:22], algorithm, "sig"
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return ringback.SigningKey{}, fmt.Errorf("encode a signing key: %w", err)
	}
	shown, err := json.Marshal(public)
	if err != nil {
		return ringback.SigningKey{}, fmt.Errorf("encode a public key: %w", err)
	}
	return ringback.SigningKey{ID: public.ID, Algorithm: algorithm, Sealed: k.Seal(string(der), signingContext+public.ID), Public: shown, Created: now}, nil
}

// OpenSigningKey unseals a key for use: a *webhook.TokenKey for RS256, a
// webhook.SigningKey for EdDSA.
func OpenSigningKey(k *Keyring, key ringback.SigningKey) (any, error) {
	der, err := k.Unseal(key.Sealed, signingContext+key.ID)
	if err != nil {
		return nil, fmt.Errorf("open signing key %s: %w", key.ID, err)
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read signing key %s: %w", key.ID, err)
	}
	switch p := private.(type) {
	case *rsa.PrivateKey:
		return &webhook.TokenKey{ID: key.ID, Key: p}, nil
	case ed25519.PrivateKey:
		return webhook.SigningKeyOf(p), nil
	}
	return nil, fmt.Errorf("signing key %s is a %T", key.ID, private)
}

// JWKS is the set of public keys to publish at now: those of the given
// algorithms that sign, then those that wait, then those that have signed.
func JWKS(keys []ringback.SigningKey, algorithms []string, now time.Time) []byte {
	var signing, next, old []json.RawMessage
	for _, k := range keys {
		switch {
		case !slices.Contains(algorithms, k.Algorithm) || !published(&k, now):
		case signs(&k, now):
			signing = append(signing, k.Public)
		case k.SignsFrom.IsZero():
			next = append(next, k.Public)
		default:
			old = append(old, k.Public)
		}
	}
	all := append(append(append([]json.RawMessage{}, signing...), next...), old...)
	set, err := json.Marshal(map[string][]json.RawMessage{"keys": all})
	if err != nil {
		return []byte(`{"keys":[]}`) // A public key in the store is not JSON.
	}
	return set
}
