package webhook

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reasons for which a message is refused. Every error of Verify wraps one.
var (
	ErrMissingHeader = errors.New("webhook: missing header")
	ErrTimestamp     = errors.New("webhook: timestamp not acceptable")
	ErrSignature     = errors.New("webhook: no matching signature")
	// ErrNoSecret: the message may be good, but the verifier has nothing to check
	// its scheme with.
	ErrNoSecret = errors.New("webhook: no key for this scheme")
	// ErrToken: the JWT is malformed, expired or belongs to another message.
	ErrToken    = errors.New("webhook: token not acceptable")
	ErrAudience = errors.New("webhook: the token is meant for somebody else")
	// ErrUnknownKey: the token names a key that is not in the key set.
	ErrUnknownKey = errors.New("webhook: unknown key")
	// ErrKeySet: the key set can't be fetched. The sender should try again later.
	ErrKeySet = errors.New("webhook: the key set can't be had")
)

// DefaultTolerance is how far a message's timestamp may be from the receiver's
// clock, in either direction.
const DefaultTolerance = 5 * time.Minute

// These bound how many signatures of one header are tried, and how large a body may
// be for which a reason is searched, so that a forger can't make the receiver compute
// for long. A signature of v1a costs a hash of the body for each key.
const (
	maxSignatures = 32
	maxV1a        = 8
	maxHint       = 64 << 10
)

// The schemes of messages.
const (
	SchemeV1  = "v1"  // HMAC-SHA256 under a shared secret.
	SchemeV1a = "v1a" // Ed25519.
	SchemeJWT = "jwt" // A JWT signed with RS256, in place of signatures.
)

// Verifier checks messages of all three schemes. What may sign a message is what
// is set here: nothing of the message itself is trusted to say so. It may be
// used by any number of goroutines.
type Verifier struct {
	// Secrets are the secrets that are accepted for v1: usually one, two during a
	// rotation. A zero Secret verifies nothing.
	Secrets []Secret
	// PublicKeys are the keys that are accepted for v1a.
	PublicKeys []PublicKey
	// Keys, if not nil, are the sender's published keys: RSA keys for JWT, Ed25519
	// keys for v1a.
	Keys *KeySet
	// Audience are the names by which the receiver is known: a token must be meant
	// for one of them, usually the receiver's own address. Without any, tokens are
	// refused.
	Audience []string
	// Issuer, if not empty, must have issued the tokens.
	Issuer string
	// AllowUnbound accepts tokens without body_sha256, which other senders than
	// ringback may send. Their events are compared with the body instead.
	AllowUnbound bool
	// Tolerance bounds the distance of the timestamp from now; zero means
	// DefaultTolerance.
	Tolerance time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Message is a verified message.
type Message struct {
	// ID is the same on every retry: act once per ID, and remember it for as long
	// as the sender may retry.
	ID string
	// Timestamp is when this attempt was made.
	Timestamp time.Time
	Body      []byte
	// Scheme is how the message was signed: SchemeV1, SchemeV1a or SchemeJWT.
	Scheme string
}

// Verify is VerifyContext without a context. It waits at most 10 s for a key set.
func (v *Verifier) Verify(h http.Header, body []byte) (Message, error) {
	return v.VerifyContext(context.Background(), h, body)
}

// VerifyContext checks that the message was signed by a key of the verifier, just
// now, over exactly these bytes. body must be the raw body as received: a body
// that was parsed and printed again has other bytes. The error says what is wrong
// in words fit for a log; it holds nothing secret. ctx bounds the wait for a key
// set, if there is one to fetch.
func (v *Verifier) VerifyContext(ctx context.Context, h http.Header, body []byte) (Message, error) {
	// Only signatures may stand in several lines. Joined, two ids or timestamps are
	// none, whichever of them is the signed one.
	one := func(name string) string { return strings.Join(h.Values(name), " ") }
	id, stamp, signature := one(HeaderID), one(HeaderTimestamp), one(HeaderSignature)
	for _, x := range [...]struct{ name, value string }{{HeaderID, id}, {HeaderTimestamp, stamp}, {HeaderSignature, signature}} {
		if x.value == "" {
			return Message{}, fmt.Errorf("%w: %s", ErrMissingHeader, x.name)
		}
	}
	at, err := v.timestamp(stamp)
	if err != nil {
		return Message{}, err
	}
	m := Message{ID: id, Timestamp: at, Body: body}
	if isToken(signature) {
		m.Scheme = SchemeJWT
		err = v.token(ctx, signature, id, body)
	} else {
		m.Scheme, err = v.signatures(ctx, signature, appendPrefix(nil, id, at.Unix()), body)
	}
	if err != nil {
		return Message{}, err
	}
	return m, nil
}

func (v *Verifier) now() time.Time {
	if v.Now != nil {
		return v.Now()
	}
	return time.Now()
}

func (v *Verifier) tolerance() time.Duration {
	if v.Tolerance == 0 {
		return DefaultTolerance
	}
	return v.Tolerance
}

// secrets are those that verify anything: the zero Secret's key is known to all.
func (v *Verifier) secrets() []Secret {
	zero := func(s Secret) bool { return s.key == nil }
	if !slices.ContainsFunc(v.Secrets, zero) {
		return v.Secrets
	}
	return slices.DeleteFunc(slices.Clone(v.Secrets), zero)
}

// signatures checks a header of v1 and v1a signatures, and returns the scheme
// that matched.
func (v *Verifier) signatures(ctx context.Context, header string, prefix, body []byte) (string, error) {
	found := candidates(header)
	secrets, keys := v.secrets(), v.PublicKeys
	// What is at hand comes first: a message that it verifies needs no key set, and
	// must not fail because that can't be had.
	if found.match(secrets, nil, prefix, body) {
		return SchemeV1, nil
	}
	if found.match(nil, keys, prefix, body) {
		return SchemeV1a, nil
	}
	if len(found.v1a) > 0 && v.Keys != nil {
		published, err := v.Keys.ed25519(ctx)
		if err != nil {
			return "", err
		}
		if found.match(nil, published, prefix, body) {
			return SchemeV1a, nil
		}
		keys = append(published[:len(published):len(published)], keys...)
	}
	switch {
	case len(found.v1)+len(found.v1a) == 0:
		return "", fmt.Errorf("%w: %s holds no well-formed v1 or v1a signature", ErrSignature, HeaderSignature)
	case len(found.v1) == 0 && len(keys) == 0:
		return "", fmt.Errorf("%w: the message is signed with v1a; the verifier has no public key", ErrNoSecret)
	case len(found.v1a) == 0 && len(secrets) == 0:
		return "", fmt.Errorf("%w: the message is signed with v1; the verifier has no secret", ErrNoSecret)
	}
	return "", fmt.Errorf("%w: %s", ErrSignature, found.why(secrets, keys, prefix, body))
}

// timestamp reads and judges the timestamp header.
func (v *Verifier) timestamp(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || text[0] == '+' || len(text) > 1 && text[0] == '0' {
		return time.Time{}, fmt.Errorf("%w: %s must be Unix seconds as a decimal integer", ErrTimestamp, HeaderTimestamp)
	}
	tolerance := v.tolerance()
	at := time.Unix(seconds, 0)
	switch age := v.now().Sub(at); {
	case age > tolerance:
		return time.Time{}, fmt.Errorf("%w: the message is %s old, %s is allowed", ErrTimestamp, age.Round(time.Second), tolerance)
	case age < -tolerance:
		return time.Time{}, fmt.Errorf("%w: the message is %s in the future, %s is allowed; compare the clocks", ErrTimestamp, (-age).Round(time.Second), tolerance)
	}
	return at, nil
}

// tokens are the signatures of a header, decoded.
type tokens struct{ v1, v1a [][]byte }

// candidates decodes the signatures of the header. Other schemes and what can't
// be decoded are passed over, as the specification asks.
func candidates(header string) (found tokens) {
	for token := range strings.SplitSeq(header, " ") {
		if len(found.v1)+len(found.v1a) == maxSignatures {
			break
		}
		if encoded, ok := strings.CutPrefix(token, scheme); ok {
			if mac, err := base64.StdEncoding.Strict().DecodeString(encoded); err == nil && len(mac) == sha256.Size {
				found.v1 = append(found.v1, mac)
			}
		} else if encoded, ok := strings.CutPrefix(token, schemeV1a); ok && len(found.v1a) < maxV1a {
			if sig, err := base64.StdEncoding.Strict().DecodeString(encoded); err == nil && len(sig) == ed25519.SignatureSize {
				found.v1a = append(found.v1a, sig)
			}
		}
	}
	return found
}

// match compares every candidate under every secret and key, so that the time
// taken does not tell which of them came close.
func (t tokens) match(secrets []Secret, keys []PublicKey, prefix, body []byte) bool {
	matched := false
	for _, s := range secrets {
		if len(t.v1) == 0 {
			break
		}
		want := s.mac(nil, prefix, body)
		for _, c := range t.v1 {
			if hmac.Equal(want, c) {
				matched = true
			}
		}
	}
	if len(t.v1a) == 0 || len(keys) == 0 {
		return matched
	}
	message := append(prefix[:len(prefix):len(prefix)], body...)
	for _, k := range keys {
		for _, c := range t.v1a {
			if len(k.key) == ed25519.PublicKeySize && ed25519.Verify(k.key, message, c) {
				matched = true
			}
		}
	}
	return matched
}

// why looks for a likely reason for which nothing matched.
func (t tokens) why(secrets []Secret, keys []PublicKey, prefix, body []byte) string {
	if reason := restored(body, func(b []byte) bool { return t.match(secrets, keys, prefix, b) }); reason != "" {
		return reason
	}
	return "wrong secret or key, or the id, timestamp or body was changed on the way"
}

// restored tries what a body was before somebody printed it anew, and says so if
// that is it.
func restored(body []byte, match func([]byte) bool) string {
	if len(body) > maxHint {
		return ""
	}
	var compact bytes.Buffer
	if json.Compact(&compact, body) == nil && compact.Len() != len(body) && match(compact.Bytes()) {
		return "the body was re-serialised on the way: it matches once its white space is removed; verify the raw bytes as received"
	}
	if trimmed := bytes.TrimSpace(body); len(trimmed) != len(body) && match(trimmed) {
		return "white space was added around the body; verify the raw bytes as received"
	}
	return ""
}
