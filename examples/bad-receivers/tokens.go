package main

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"slices"
	"time"

	"ringback.dev/webhook"
)

// checks are what a receiver of tokens looks at; each of the receivers below
// leaves one out, or does it otherwise.
type checks struct {
	key      func(*token) *rsa.PublicKey
	verify   func(*token, *rsa.PublicKey) bool
	anybody  bool // Tokens for others are taken.
	forEver  bool // Tokens that have expired are taken.
	anyBody  bool // Whatever stands beside the token is taken.
	anyID    bool // Whatever webhook-id stands beside the token is taken.
	mustHave bool // A key that is missing is an exception.
}

// tokens is a receiver that verifies tokens by hand. What has none is verified as
// it should be.
func (e *env) tokens(c checks) http.Handler {
	if c.key == nil {
		c.key = func(t *token) *rsa.PublicKey { return e.published(t.header.Kid) }
	}
	if c.verify == nil {
		c.verify = func(t *token, key *rsa.PublicKey) bool { return t.header.Alg == "RS256" && rs256(t, key) }
	}
	return e.by(func(h http.Header, body []byte) bool {
		t, err := parseToken(h.Get("webhook-signature"))
		if err != nil {
			_, err := e.verifier().Verify(h, body)
			return err == nil
		}
		key := c.key(&t)
		if key == nil && c.mustHave {
			panic("KeyError: " + t.header.Kid)
		}
		sum := sha256.Sum256(body)
		return fresh(h) && c.verify(&t, key) &&
			(c.anybody || slices.Contains(t.claims.Aud, e.audience)) &&
			(c.forEver || time.Since(time.Unix(t.claims.Exp, 0)) <= webhook.DefaultTolerance) &&
			(c.anyBody || t.claims.Body == hex.EncodeToString(sum[:])) &&
			(c.anyID || t.claims.Jti == h.Get("webhook-id"))
	})
}

// rs256 verifies a token's signature.
func rs256(t *token, key *rsa.PublicKey) bool {
	digest := sha256.Sum256([]byte(t.signed))
	return key != nil && rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], t.signature) == nil
}

// The mistake: jwt.decode(token, options={"verify_signature": False}), left over
// from the first trial.
// The fix: verify, with the sender's published keys.
func jwtUnverified(e *env) http.Handler {
	return e.tokens(checks{verify: func(*token, *rsa.PublicKey) bool { return true }})
}

// The mistake: the token's own header chooses the algorithm, and “none” is one.
// The fix: algorithms=["RS256"].
func jwtNone(e *env) http.Handler {
	return e.tokens(checks{verify: func(t *token, key *rsa.PublicKey) bool { return t.header.Alg == "none" || rs256(t, key) }})
}

// The mistake: verify(token, public_key) with whatever algorithm the token names:
// for HMAC the public key becomes the secret, and everybody has it.
// The fix: algorithms=["RS256"].
func jwtAnyAlgorithm(e *env) http.Handler {
	return e.tokens(checks{verify: func(t *token, key *rsa.PublicKey) bool {
		if t.header.Alg != "HS256" || key == nil {
			return rs256(t, key)
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return false
		}
		mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		mac.Write([]byte(t.signed))
		return hmac.Equal(mac.Sum(nil), t.signature)
	}})
}

// The mistake: the key is taken from the token's header, where the library offers
// it.
// The fix: keys come from the sender's address in your configuration.
func jwtOwnKey(e *env) http.Handler {
	return e.tokens(checks{key: func(t *token) *rsa.PublicKey {
		if t.header.JWK != nil {
			return t.header.JWK.public()
		}
		return e.published(t.header.Kid)
	}})
}

// The mistake: keys[kid] without a look whether it is there.
// The fix: an unknown key is a reason to refuse (after one look at the fresh set).
func jwtKeyError(e *env) http.Handler { return e.tokens(checks{mustHave: true}) }

// The mistake: verify_aud: False, since “audience doesn't match” was in the way.
// The fix: aud is your own address; compare it.
func jwtAnyAudience(e *env) http.Handler { return e.tokens(checks{anybody: true}) }

// The mistake: verify_exp: False.
// The fix: compare exp with the clock.
func jwtForEver(e *env) http.Handler { return e.tokens(checks{forEver: true}) }

// The mistake: the token verifies, so the body beside it is acted on.
// The fix: compare body_sha256, or read the event from the token's claims.
func jwtAnyBody(e *env) http.Handler { return e.tokens(checks{anyBody: true}) }

// The mistake: doubles are dropped by the header webhook-id, which is not signed.
// The fix: jti is the id, and must be the same.
func jwtAnyID(e *env) http.Handler { return e.tokens(checks{anyID: true}) }
