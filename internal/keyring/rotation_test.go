package keyring_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ringback.dev"
	"ringback.dev/internal/keyring"
	"ringback.dev/webhook"
)

// TestSigningKeys: what is published verifies what is signed, and the private
// half comes out of the store only with the master key.
func TestSigningKeys(t *testing.T) {
	k, err := keyring.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	for _, algorithm := range []string{ringback.RS256, ringback.EdDSA} {
		key, err := keyring.NewSigningKey(k, algorithm, now)
		if err != nil {
			t.Fatal(err)
		}
		var public map[string]string
		if err := json.Unmarshal(key.Public, &public); err != nil {
			t.Fatal(err)
		}
		if public["kid"] != key.ID || len(key.ID) != 22 || public["alg"] != algorithm || public["use"] != "sig" || strings.Contains(string(key.Public), `"d"`) {
			t.Errorf("unexpected JWK %s", key.Public)
		}
		open, err := keyring.OpenSigningKey(k, key)
		if err != nil {
			t.Fatal(err)
		}
		switch o := open.(type) {
		case *webhook.TokenKey:
			if n := base64.RawURLEncoding.EncodeToString(o.Key.N.Bytes()); n != public["n"] || public["e"] != "AQAB" || public["kty"] != "RSA" || o.ID != key.ID {
				t.Errorf("unexpected JWK %s", key.Public)
			}
		case webhook.SigningKey:
			x, err := base64.RawURLEncoding.DecodeString(public["x"])
			if err != nil || o.Public().String() != "whpk_"+base64.StdEncoding.EncodeToString(x) || len(x) != ed25519.PublicKeySize || public["kty"] != "OKP" || public["crv"] != "Ed25519" {
				t.Errorf("unexpected JWK %s", key.Public)
			}
		default:
			t.Errorf("opened a %T", open)
		}
		other, err := keyring.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.OpenSigningKey(other, key); err == nil {
			t.Error("opened under another master key")
		}
		moved := key
		moved.ID = "another"
		if _, err := keyring.OpenSigningKey(k, moved); err == nil {
			t.Error("opened under another id")
		}
	}
	if _, err := keyring.NewSigningKey(k, "HS256", now); err == nil {
		t.Error("made a key for HS256")
	}
}

// TestRotation holds what receivers rely on, whatever happens in which order: one
// key signs at any time; what signed stays published for the overlap; the next
// key was published well before it signs, unless it was forced or the other
// revoked; a key that signs no more has lost its private half.
func TestRotation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const overlap, maxAge = time.Hour, 24 * time.Hour
		now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
		all := map[string]ringback.SigningKey{}
		signed := map[string]time.Time{} // When each signed last.
		firm := map[string]bool{}        // Revoked, so that nothing is promised.
		made := 0
		fresh := func() (ringback.SigningKey, error) {
			made++
			id := fmt.Sprintf("k%04d", made)
			return ringback.SigningKey{ID: id, Algorithm: ringback.EdDSA, Sealed: []byte{1}, Public: json.RawMessage(`{"kid":"` + id + `"}`), Created: now}, nil
		}
		list := func() (keys []ringback.SigningKey) {
			for i := 1; i <= made; i++ {
				if k, ok := all[fmt.Sprintf("k%04d", i)]; ok {
					keys = append(keys, k)
				}
			}
			return keys
		}
		hurried := true // The first key signs at once: nobody knows another.
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			before, had := keyring.Current(list(), ringback.EdDSA, now)
			var changed []ringback.SigningKey
			var err error
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				changed, err = keyring.Rotate(list(), ringback.EdDSA, now, overlap, false, fresh)
				if err != nil && ringback.CodeOf(err) != ringback.FailedPrecondition {
					t.Fatal(err)
				}
			case 1:
				hurried = true
				if changed, err = keyring.Rotate(list(), ringback.EdDSA, now, overlap, true, fresh); err != nil {
					t.Fatal(err)
				}
			case 2:
				if keys := list(); len(keys) > 0 {
					kid := rapid.SampledFrom(keys).Draw(t, "revoked").ID
					hurried, firm[kid] = true, true
					if changed, err = keyring.Revoke(keys, kid, now, fresh); err != nil {
						t.Fatal(err)
					}
				}
			default:
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(30*time.Hour)).Draw(t, "wait")))
				before, had = keyring.Current(list(), ringback.EdDSA, now)
				if changed, err = keyring.Plan(list(), ringback.EdDSA, now, maxAge, overlap, fresh); err != nil {
					t.Fatal(err)
				}
			}
			for _, k := range changed {
				all[k.ID] = k
			}
			for id, k := range all { // The store drops what is published no more.
				if !k.PublishedUntil.IsZero() && !now.Before(k.PublishedUntil) {
					delete(all, id)
				}
			}
			current, ok := keyring.Current(list(), ringback.EdDSA, now)
			if !ok && len(all) > 0 {
				t.Fatalf("no key signs: %+v", all)
			}
			if ok && (!had || current.ID != before.ID) && !hurried && now.Sub(current.Created) < keyring.PublishAhead {
				t.Fatalf("%s signs %s after it was published", current.ID, now.Sub(current.Created))
			}
			hurried = hurried && !ok
			signing := 0
			for _, k := range all {
				if !k.SignsFrom.IsZero() && k.SignsUntil.IsZero() {
					signing++
				} else if !k.SignsUntil.IsZero() && k.Sealed != nil {
					t.Fatalf("%s has kept its private half", k.ID)
				}
			}
			if ok && signing != 1 {
				t.Fatalf("%d keys sign", signing)
			}
			if ok {
				signed[current.ID] = now
			}
			set := string(keyring.JWKS(list(), []string{ringback.EdDSA}, now))
			for id, at := range signed {
				if in := strings.Contains(set, id); !in && !firm[id] && now.Before(at.Add(overlap)) {
					t.Fatalf("%s signed at %s and is not published at %s: %s", id, at, now, set)
				} else if in && firm[id] {
					t.Fatalf("%s was revoked and is published", id)
				}
			}
			if got := string(keyring.JWKS(list(), []string{ringback.RS256}, now)); got != `{"keys":[]}` {
				t.Fatalf("published %s", got)
			}
		}
	})
}
