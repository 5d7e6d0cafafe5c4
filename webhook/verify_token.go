package webhook

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// maxToken bounds the bytes of a token.
const maxToken = 64 << 10

// isToken reports whether a signature header is a JWT in compact form and not a
// list of signatures, each of which holds a comma.
func isToken(header string) bool {
	return strings.Count(header, ".") == 2 && !strings.ContainsAny(header, ", ")
}

// tokenHeader is what is read of a token's header. Keys and addresses of keys in
// it (jwk, jku, x5c, x5u) are not even looked at.
type tokenHeader struct {
	Algorithm string          `json:"alg"`
	ID        string          `json:"kid"`
	Critical  json.RawMessage `json:"crit"`
}

// claims are the claims that are checked (RFC 7519 §4.1) beside the event's.
type claims struct {
	Issuer   string          `json:"iss"`
	Audience json.RawMessage `json:"aud"`
	IssuedAt *json.Number    `json:"iat"`
	Expires  *json.Number    `json:"exp"`
	Before   *json.Number    `json:"nbf"`
	ID       string          `json:"jti"`
	Body     *string         `json:"body_sha256"`
}

// token checks a JWT: that a key of the set signed it with RS256, for this
// receiver, about this message, just now.
func (v *Verifier) token(ctx context.Context, token, id string, body []byte) error {
	if v.Keys == nil {
		return fmt.Errorf("%w: the message is signed with a JWT; the verifier has no key set", ErrNoSecret)
	}
	if len(v.Audience) == 0 {
		return fmt.Errorf("%w: the message is signed with a JWT; the verifier has no audience to compare", ErrNoSecret)
	}
	if len(token) > maxToken {
		return fmt.Errorf("%w: it is larger than %d bytes", ErrToken, maxToken)
	}
	parts := strings.Split(token, ".")
	var header tokenHeader
	if err := decodePart(parts[0], &header); err != nil {
		return fmt.Errorf("%w: its header is malformed", ErrToken)
	}
	switch {
	case header.Algorithm != "RS256":
		return fmt.Errorf("%w: it is signed with %q; only RS256 is accepted", ErrToken, header.Algorithm)
	case header.Critical != nil:
		return fmt.Errorf("%w: it has critical extensions", ErrToken)
	case header.ID == "":
		return fmt.Errorf("%w: it names no key (kid)", ErrUnknownKey)
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil {
		return fmt.Errorf("%w: its signature is malformed", ErrToken)
	}
	keys, err := v.Keys.rsa(ctx, header.ID)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !slices.ContainsFunc(keys, func(k *rsa.PublicKey) bool {
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], signature) == nil
	}) {
		return fmt.Errorf("%w: the token's signature is not by key %q, or the token was changed", ErrSignature, header.ID)
	}
	// From here on the sender is known; what can be wrong is what it is about.
	var c claims
	if err := decodePart(parts[1], &c); err != nil {
		return fmt.Errorf("%w: its claims are malformed", ErrToken)
	}
	if err := v.claims(&c, id); err != nil {
		return err
	}
	return v.bound(&c, parts[1], body)
}

// claims checks who the token is by and for, its time, and its message's id.
func (v *Verifier) claims(c *claims, id string) error {
	if v.Issuer != "" && c.Issuer != v.Issuer {
		return fmt.Errorf("%w: it was issued by %q, not %q", ErrToken, c.Issuer, v.Issuer)
	}
	var audience []string
	var one string
	if json.Unmarshal(c.Audience, &one) == nil && one != "" {
		audience = []string{one}
	} else if json.Unmarshal(c.Audience, &audience) != nil || len(audience) == 0 {
		return fmt.Errorf("%w: it names no audience", ErrAudience)
	}
	if !slices.ContainsFunc(audience, func(a string) bool { return slices.Contains(v.Audience, a) }) {
		return fmt.Errorf("%w: it names %q, the verifier expects %q", ErrAudience, audience, v.Audience)
	}
	now, tolerance := v.now(), v.tolerance()
	issued, err1 := instant(c.IssuedAt)
	expires, err2 := instant(c.Expires)
	switch {
	case err1 != nil || err2 != nil:
		return fmt.Errorf("%w: iat or exp is missing or malformed", ErrToken)
	case now.After(expires.Add(tolerance)):
		return fmt.Errorf("%w: the token expired %s ago", ErrTimestamp, now.Sub(expires).Round(time.Second))
	case issued.After(now.Add(tolerance)):
		return fmt.Errorf("%w: the token was issued %s in the future; compare the clocks", ErrTimestamp, issued.Sub(now).Round(time.Second))
	}
	if c.Before != nil {
		if before, err := instant(c.Before); err != nil || before.After(now.Add(tolerance)) {
			return fmt.Errorf("%w: the token is not valid yet", ErrTimestamp)
		}
	}
	if subtle.ConstantTimeCompare([]byte(c.ID), []byte(id)) != 1 {
		return fmt.Errorf("%w: it is about message %q, %s says %q", ErrToken, c.ID, HeaderID, id)
	}
	return nil
}

// bound checks that the token belongs to this body.
func (v *Verifier) bound(c *claims, part string, body []byte) error {
	if c.Body == nil {
		if !v.AllowUnbound {
			return fmt.Errorf("%w: it has no body_sha256, so anybody could put another body beside it", ErrToken)
		}
		return sameEvent(part, body)
	}
	match := func(b []byte) bool {
		sum := sha256.Sum256(b)
		return subtle.ConstantTimeCompare([]byte(strings.ToLower(*c.Body)), []byte(hex.EncodeToString(sum[:]))) == 1
	}
	if match(body) {
		return nil
	}
	if reason := restored(body, match); reason != "" {
		return fmt.Errorf("%w: %s", ErrSignature, reason)
	}
	return fmt.Errorf("%w: the token belongs to another body", ErrSignature)
}

// sameEvent compares the event in a token's claims with the body, as values.
func sameEvent(part string, body []byte) error {
	var claimed, sent map[string]any
	if decodePart(part, &claimed) != nil || json.Unmarshal(body, &sent) != nil {
		return fmt.Errorf("%w: the body is not a JSON object", ErrToken)
	}
	for name, value := range sent {
		if !reflect.DeepEqual(claimed[name], value) {
			return fmt.Errorf("%w: the token belongs to another body: %q differs", ErrSignature, name)
		}
	}
	if sent["type"] == nil || sent["data"] == nil {
		return fmt.Errorf("%w: the body is not an event", ErrToken)
	}
	return nil
}

// decodePart reads a part of a token: base64url without padding, then one JSON
// value with nothing after it.
func decodePart(part string, into any) error {
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// instant reads a NumericDate (RFC 7519 §2).
func instant(n *json.Number) (time.Time, error) {
	if n == nil {
		return time.Time{}, ErrToken
	}
	seconds, err := n.Float64()
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, ErrToken
	}
	return time.Unix(int64(seconds), 0), nil
}
