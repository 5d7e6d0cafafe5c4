package examine

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"ringback.dev/internal/jsjson"
	"ringback.dev/webhook"
)

// asymmetric are the cases of Ed25519 signatures, when another scheme is the one
// that is examined throughout.
func asymmetric() []kase {
	beside := func(c *Config) bool { return c.Key != nil && c.Scheme != webhook.SchemeV1a }
	return []kase{
		{Case{"v1a-valid", groupV1a, "an event signed with the Ed25519 key",
			"2xx, and the effect", "Webhooks of ringback can be signed so, and callbacks to addresses of a request.",
			"Verify with the public key (whpk_…, or OKP in the JWKS) over id.timestamp.body."},
			webhook.SchemeV1a, true, beside, oneAccepted(nil)},
		{Case{"v1a-forged", groupV1a, "an event signed with another Ed25519 key",
			"4xx, and no effect", "Anybody can make a key.", "Accept signatures by the sender's published keys only."},
			webhook.SchemeV1a, false, func(c *Config) bool { return c.Key != nil }, oneRefused(func(_ *exam, m *message) error {
				other := webhook.NewSigningKey()
				m.edit = func(h http.Header) { h.Set(webhook.HeaderSignature, webhook.Sign(m.id, m.at, m.body, other)) }
				return nil
			})},
		{Case{"v1a-tampered", groupV1a, "a body that was changed after it was signed with the Ed25519 key",
			"4xx, and no effect", "As for v1.", "Include the body's exact bytes in what is verified."},
			webhook.SchemeV1a, false, beside, oneRefused(tampered)},
	}
}

func tampered(_ *exam, m *message) (err error) {
	m.sent, err = jsjson.Set(m.body, "data.id", []byte(`"somebody-elses"`))
	return err
}

// tokens are the cases of JWTs.
func tokens() []kase {
	beside := func(c *Config) bool { return c.Token != nil && c.Scheme != webhook.SchemeJWT }
	refused := func(name, sent, why, fix string, to change) kase {
		return kase{Case{name, groupJWT, sent, "4xx, and no effect", why, fix}, webhook.SchemeJWT, false, nil, oneRefused(to)}
	}
	return []kase{
		{Case{"jwt-valid", groupJWT, "an event with a token by a key of the key set, for this receiver",
			"2xx, and the effect", "Callbacks to addresses of a request (webhook_config) are signed so.",
			"Fetch the JWKS, pick the key by kid, verify RS256, aud and exp, then jti and body_sha256."},
			webhook.SchemeJWT, true, beside, oneAccepted(nil)},
		refused("jwt-unknown-kid", "a token whose kid is not in the key set", "The sender does not have that key.",
			"Fetch the set anew once, at most every half minute; if the key is still not there, refuse.",
			func(_ *exam, m *message) error { return forge(m, "examine-unknown", nil) }),
		refused("jwt-forged", "a token with a known kid, signed by another key", "kid is only a name; the signature counts.",
			"Verify the signature with the key of that name.",
			func(x *exam, m *message) error { return forge(m, x.Token.ID, nil) }),
		refused("jwt-own-key", "a token that brings the key by which it verifies (jwk, jku)", "Who trusts a key because the message says so verifies nothing.",
			"Take keys from the sender's address in your configuration only.",
			func(x *exam, m *message) error { return forge(m, x.Token.ID, &x.Issuer) }),
		refused("jwt-none", "a token with “alg”: “none” and no signature", "Libraries have accepted it; the token's own header must not choose how it is verified.",
			"Pass the list of allowed algorithms: RS256, nothing else.",
			func(x *exam, m *message) error {
				m.edit = func(h http.Header) {
					head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT","kid":"` + x.Token.ID + `"}`))
					h.Set(webhook.HeaderSignature, head+"."+strings.Split(h.Get(webhook.HeaderSignature), ".")[1]+".")
				}
				return nil
			}),
		{Case{"jwt-hs256", groupJWT, "tokens signed with HMAC (HS256), its secret being the public key's text",
			"4xx, and no effect", "The public key is public: a verifier that lets the token choose HMAC takes it for the secret.",
			"Pass the list of allowed algorithms: RS256, nothing else."},
			webhook.SchemeJWT, false, nil, confused},
		refused("jwt-audience", "a token that is meant for somebody else", "Another customer of the same sender could send you his events.",
			"Compare aud with your own address.",
			func(x *exam, m *message) error {
				return token(x, m, func(id string, at time.Time, body []byte) (string, error) {
					return x.Token.Sign(id, at, body, x.Issuer, []string{"https://somebody-else.example/hook"})
				})
			}),
		refused("jwt-expired", "a token that expired a quarter of an hour ago, with a fresh webhook-timestamp", "Only exp bounds how long a token that was recorded can be used; the header beside it is not signed.",
			"Check exp, with the same tolerance as for timestamps.",
			func(x *exam, m *message) error {
				return token(x, m, func(id string, at time.Time, body []byte) (string, error) {
					return x.Token.Sign(id, at.Add(-webhook.TokenLife-3*x.Tolerance), body, x.Issuer, []string{x.Audience})
				})
			}),
		refused("jwt-body", "the token of another body", "The token is signed, the body is not: without body_sha256 anything can stand beside it.",
			"Compare body_sha256 with the hash of the raw body; or read the event from the token and ignore the body.",
			func(x *exam, m *message) error {
				return token(x, m, func(id string, at time.Time, body []byte) (string, error) {
					other, err := jsjson.Set(body, "data.id", []byte(`"somebody-elses"`))
					if err != nil {
						return "", err
					}
					return x.Token.Sign(id, at, other, x.Issuer, []string{x.Audience})
				})
			}),
		refused("jwt-id", "a token under another webhook-id than its jti", "Who can change the id can have one event acted on as often as he likes.",
			"Compare jti with webhook-id, or take jti for the id.",
			func(x *exam, m *message) error {
				return token(x, m, func(id string, at time.Time, body []byte) (string, error) {
					return x.Token.Sign(id+"x", at, body, x.Issuer, []string{x.Audience})
				})
			}),
	}
}

// token has a message bear a token that sign makes.
func token(_ *exam, m *message, sign func(id string, at time.Time, body []byte) (string, error)) error {
	text, err := sign(m.id, m.at, m.body)
	if err == nil {
		m.edit = func(h http.Header) { h.Set(webhook.HeaderSignature, text) }
	}
	return err
}

// strangersKey is a key that no receiver knows. Making one takes a while.
var strangersKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// forge has a message bear a token by a key that nobody knows, under a kid. If own
// is not nil the token brings that key, and an address below it.
func forge(m *message, kid string, own *string) error {
	stranger, err := strangersKey()
	if err != nil {
		return err
	}
	b64 := base64.RawURLEncoding
	m.edit = func(h http.Header) {
		parts := strings.Split(h.Get(webhook.HeaderSignature), ".")
		head := map[string]any{"alg": "RS256", "typ": "JWT", "kid": kid}
		if own != nil {
			head["jwk"] = map[string]string{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid,
				"n": b64.EncodeToString(stranger.N.Bytes()), "e": b64.EncodeToString(big.NewInt(int64(stranger.E)).Bytes())}
			head["jku"] = *own + "/stranger.json"
		}
		text, _ := json.Marshal(head) // Of strings only.
		signed := b64.EncodeToString(text) + "." + parts[1]
		digest := sha256.Sum256([]byte(signed))
		mac, _ := rsa.SignPKCS1v15(nil, stranger, crypto.SHA256, digest[:]) // The key was made here.
		h.Set(webhook.HeaderSignature, signed+"."+b64.EncodeToString(mac))
	}
	return nil
}

// confused sends tokens that are signed with HMAC under what a receiver may have in
// hand as its key: the public key in its usual forms of PEM.
func confused(ctx context.Context, x *exam) error {
	spki, err := x509.MarshalPKIXPublicKey(&x.Token.Key.PublicKey)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&x.Token.Key.PublicKey)})
	b64 := base64.RawURLEncoding
	head, err := json.Marshal(map[string]string{"alg": "HS256", "typ": "JWT", "kid": x.Token.ID})
	if err != nil {
		return err
	}
	var all []refusal
	for i, secret := range [][]byte{text, bytes.TrimSpace(text), pkcs1, spki} {
		all = append(all, refusal{fmt.Sprintf("form %d", i+1), func(x *exam, m *message) error {
			m.edit = func(h http.Header) {
				signed := b64.EncodeToString(head) + "." + strings.Split(h.Get(webhook.HeaderSignature), ".")[1]
				mac := hmac.New(sha256.New, secret)
				mac.Write([]byte(signed))
				h.Set(webhook.HeaderSignature, signed+"."+b64.EncodeToString(mac.Sum(nil)))
			}
			return nil
		}})
	}
	return eachRefused(all...)(ctx, x)
}

// JWKS publishes the public halves of a token key and, if not nil, of an Ed25519
// key (RFC 7517), for the receiver to verify with.
func JWKS(token *webhook.TokenKey, key *webhook.SigningKey) ([]byte, error) {
	b64 := base64.RawURLEncoding
	keys := []map[string]string{}
	if token != nil {
		keys = append(keys, map[string]string{"kty": "RSA", "kid": token.ID, "alg": "RS256", "use": "sig",
			"n": b64.EncodeToString(token.Key.N.Bytes()), "e": b64.EncodeToString(big.NewInt(int64(token.Key.E)).Bytes())})
	}
	if key != nil {
		public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Public().String(), "whpk_"))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(public)
		keys = append(keys, map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": b64.EncodeToString(sum[:8]), "alg": "EdDSA", "use": "sig", "x": b64.EncodeToString(public)})
	}
	return json.Marshal(map[string]any{"keys": keys})
}
