package webhook

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// TokenLife is how long a token is valid after the attempt that it was made for.
const TokenLife = 5 * time.Minute

// TokenKey signs messages as the Gemini API documents it for dynamic webhooks: the
// signature header holds nothing but a JWT (RFC 7519), signed with RS256
// (RFC 7518 §3.3).
type TokenKey struct {
	// ID is the key's kid in the JWKS.
	ID  string
	Key *rsa.PrivateKey
}

// Sign returns the value of the webhook-signature header for a message whose
// body is an event. The token's claims are the event itself, which is what
// receivers read, and besides: iss, aud, iat and exp; jti, which is the
// webhook-id; and body_sha256, the hexadecimal SHA-256 of the body's exact
// bytes, so that the token can't be put beside another body.
func (k *TokenKey) Sign(id string, at time.Time, body []byte, issuer string, audience []string) (string, error) {
	event := bytes.TrimSpace(body)
	if len(event) < 2 || event[0] != '{' || event[len(event)-1] != '}' {
		return "", errors.New("webhook: the body of a token's message must be a JSON object")
	}
	sum := sha256.Sum256(body)
	claims, err := json.Marshal(struct {
		Issuer   string   `json:"iss"`
		Audience []string `json:"aud"`
		IssuedAt int64    `json:"iat"`
		Expires  int64    `json:"exp"`
		ID       string   `json:"jti"`
		Body     string   `json:"body_sha256"`
	}{issuer, audience, at.Unix(), at.Add(TokenLife).Unix(), id, hex.EncodeToString(sum[:])})
	if err != nil {
		return "", fmt.Errorf("webhook: claims: %w", err)
	}
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ"`
		ID        string `json:"kid"`
	}{"RS256", "JWT", k.ID})
	if err != nil {
		return "", fmt.Errorf("webhook: header: %w", err)
	}
	// The two objects become one. Events have no members of these names.
	claims = claims[:len(claims)-1]
	if rest := bytes.TrimSpace(event[1:]); rest[0] != '}' {
		claims = append(claims, ',')
	}
	claims = append(claims, event[1:]...)
	b64 := base64.RawURLEncoding
	token := make([]byte, 0, b64.EncodedLen(len(header))+b64.EncodedLen(len(claims))+b64.EncodedLen(k.Key.Size())+2)
	token = b64.AppendEncode(token, header)
	token = append(token, '.')
	token = b64.AppendEncode(token, claims)
	digest := sha256.Sum256(token)
	signature, err := rsa.SignPKCS1v15(nil, k.Key, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("webhook: sign: %w", err)
	}
	token = append(token, '.')
	return string(b64.AppendEncode(token, signature)), nil
}
