package e2e

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"net/http"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/genai/interactions/models/interactions"
)

// TestGoDynamic names a receiver in the request, and verifies its callback's
// token with a library that Go programs use.
func TestGoDynamic(t *testing.T) {
	s := dev(t)
	c := goClient(t, s, "any")
	r := receive(t)
	job := create(t, c, `{"model":"gemini-3.6-flash","input":"hi","background":true,"webhook_config":{"uris":["`+r.URI+`"],"user_metadata":{"job_group":"nightly-eval"}}}`)
	if job.Status != interactions.InteractionStatusInProgress {
		t.Errorf("unexpected status %s", job.Status)
	}
	got := r.wait(t, "interaction.completed", *job.ID)
	keys := serverKeys(t, s.URL)
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(got.Header.Get("webhook-signature"), claims, keys, jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(r.URI), jwt.WithIssuer(s.URL)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(got.Body)
	if claims["type"] != "interaction.completed" || claims["jti"] != got.Header.Get("webhook-id") || claims["body_sha256"] != hex.EncodeToString(sum[:]) {
		t.Errorf("unexpected claims %v", claims)
	}
	if meta, ok := claims["user_metadata"].(map[string]any); !ok || meta["job_group"] != "nightly-eval" {
		t.Errorf("unexpected metadata %v", claims["user_metadata"])
	}
	if _, err := jwt.Parse(got.Header.Get("webhook-signature"), keys, jwt.WithAudience("https://another.example/")); err == nil {
		t.Error("the token is good for another audience")
	}
}

// serverKeys finds the keys by which a server signs tokens.
func serverKeys(t *testing.T, url string) jwt.Keyfunc {
	return func(token *jwt.Token) (any, error) {
		resp, err := http.Get(url + "/.well-known/jwks.json")
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		var set struct{ Keys []struct{ Kid, N, E string } }
		if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
			return nil, err
		}
		for _, k := range set.Keys {
			if k.Kid == token.Header["kid"] {
				n, err1 := base64.RawURLEncoding.DecodeString(k.N)
				e, err2 := base64.RawURLEncoding.DecodeString(k.E)
				if err1 != nil || err2 != nil {
					t.Errorf("malformed key %+v", k)
				}
				return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
			}
		}
		return nil, jwt.ErrTokenUnverifiable
	}
}
