package main

import (
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringback.dev/webhook"
)

// env is what all receivers have: their keys, and the work that they do.
type env struct {
	secret   webhook.Secret
	keys     *webhook.KeySet // Nil if the sender publishes none.
	jwks     string          // Its address.
	audience string

	mu      sync.Mutex
	effects int
	failed  map[string]bool // Events at which the work has failed, for the trial.
}

// errWork is what the work may meet: a database that is locked, a service that is down.
var errWork = errors.New("the work failed")

// act is the work: think of a row that is written, or an e-mail that is sent. An
// event with examine_fail in its data fails the first time.
func (e *env) act(body []byte) error {
	var event struct {
		Data struct {
			ID   string
			Fail string `json:"examine_fail"`
		}
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if event.Data.Fail != "" && !e.failed[event.Data.ID] {
		if e.failed == nil {
			e.failed = make(map[string]bool)
		}
		e.failed[event.Data.ID] = true
		return errWork
	}
	e.effects++
	return nil
}

func (e *env) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.effects
}

// verifier verifies as it should be done.
func (e *env) verifier() *webhook.Verifier {
	return &webhook.Verifier{Secrets: []webhook.Secret{e.secret}, Keys: e.keys, Audience: []string{e.audience}}
}

// answer answers as a sender expects: 2xx if it went well, 500 if it is to come
// again.
func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func refuse(w http.ResponseWriter, why string) { http.Error(w, why, http.StatusUnauthorized) }

// read reads a body, but not one that is too large.
func read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, webhook.MaxBody))
	if err != nil {
		http.Error(w, "the body is too large or broke off", http.StatusRequestEntityTooLarge)
		return nil, false
	}
	return body, true
}

// hmacOf is the HMAC of a message under the secret, as base64.
func (e *env) hmacOf(key []byte, h http.Header, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// key is the bytes of the secret.
func (e *env) key() []byte {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(e.secret.Reveal(), "whsec_")) // It was parsed before.
	return key
}

// signed reports whether one of the signatures is that of the body. What it leaves
// out is up to its users.
func (e *env) signed(h http.Header, body []byte) bool {
	want := e.hmacOf(e.key(), h, body)
	for token := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
		if version, mac, _ := strings.Cut(token, ","); version == "v1" && hmac.Equal([]byte(mac), []byte(want)) {
			return true
		}
	}
	return false
}

// distance is how far a message's timestamp is from now.
func distance(h http.Header) (time.Duration, bool) {
	n, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	return time.Since(time.Unix(n, 0)), err == nil
}

// fresh reports whether the timestamp is within five minutes, and the id there.
func fresh(h http.Header) bool {
	d, ok := distance(h)
	return ok && d.Abs() <= 5*time.Minute && h.Get("webhook-id") != ""
}

// claims are the ids that were acted on. It is in memory for the example's sake: a
// real receiver keeps them in the database that has the effect.
type claims struct {
	mu  sync.Mutex
	all map[string]*claim
}

type claim struct {
	done chan struct{} // Closed when the work is over.
	err  error
}

// once has act done once for each id. A double waits for the one at work; after a
// failure the id is free again.
func (c *claims) once(id string, act func() error) error {
	c.mu.Lock()
	if c.all == nil {
		c.all = make(map[string]*claim)
	}
	if known := c.all[id]; known != nil {
		c.mu.Unlock()
		<-known.done
		return known.err
	}
	own := &claim{done: make(chan struct{})}
	c.all[id] = own
	c.mu.Unlock()
	own.err = act()
	if own.err != nil {
		c.mu.Lock()
		delete(c.all, id)
		c.mu.Unlock()
	}
	close(own.done)
	return own.err
}

// token is a JWT, taken apart and not verified.
type token struct {
	header struct {
		Alg, Kid string
		JWK      *jwk
	}
	claims struct {
		Aud  []string
		Exp  int64
		Jti  string
		Body string `json:"body_sha256"`
	}
	signed    string // What is signed.
	signature []byte
}

type jwk struct{ Kty, Kid, N, E string }

// public is the key that a JWK stands for.
func (k *jwk) public() *rsa.PublicKey {
	n, _ := base64.RawURLEncoding.DecodeString(k.N) // Of a malformed one nothing verifies.
	e, _ := base64.RawURLEncoding.DecodeString(k.E)
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
}

func parseToken(text string) (t token, err error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return t, errors.New("it is not a token")
	}
	t.signed = parts[0] + "." + parts[1]
	for i, into := range []any{&t.header, &t.claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return t, err
		}
	}
	t.signature, err = base64.RawURLEncoding.DecodeString(parts[2])
	return t, err
}

// published is the sender's key of a name, nil if there is none.
func (e *env) published(kid string) *rsa.PublicKey {
	resp, err := http.Get(e.jwks)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var set struct{ Keys []jwk }
	if json.NewDecoder(resp.Body).Decode(&set) != nil {
		return nil
	}
	for i := range set.Keys {
		if set.Keys[i].Kid == kid && set.Keys[i].Kty == "RSA" {
			return set.Keys[i].public()
		}
	}
	return nil
}
