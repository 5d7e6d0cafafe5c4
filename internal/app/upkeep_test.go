package app

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
)

// TestUpkeep: old events go, young ones stay, and a key's use is noted.
func TestUpkeep(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	now := time.Now()
	for i := range 1200 {
		at := now.Add(-31 * 24 * time.Hour)
		if i >= 1100 {
			at = now
		}
		h := &store.Happening{Event: ringback.Event{ID: ringback.NewID("evt", at), Project: s.Project(), Type: ringback.Ping, Body: []byte("{}"), Created: at}}
		if err := s.Store().AddEvent(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	s.sweep(t.Context(), now)
	left, err := s.Store().EventsAfter(t.Context(), s.Project(), store.EventFilter{}, 0, 2000)
	if err != nil || len(left) != 100 {
		t.Errorf("%d events are left, %v", len(left), err)
	}
	if status, body := s.call("GET", "/v1/webhooks", s.FirstKey, ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	s.storeKeysUsed(t.Context())
	keys, err := s.Store().APIKeys(t.Context(), s.Project())
	if err != nil || len(keys) != 1 || now.Sub(keys[0].LastUsed) > time.Minute {
		t.Errorf("got %+v, %v", keys, err)
	}
}

// TestSigningKeys: the server has a key that signs and a next one soon after its
// start, replaces them by age, and publishes what it should.
func TestSigningKeys(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	states := func() (n int) {
		keys, err := s.Store().SigningKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(keys)
	}
	until(t, "two keys", func() bool { return states() == 2 })
	first, err := s.signing.current(ringback.RS256, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.signing.current(ringback.RS256, time.Now()); err != nil || again != first {
		t.Errorf("opened twice: %v", err)
	}
	// Nothing happens before their time.
	if err := s.signing.keep(t.Context(), time.Now().Add(24*time.Hour)); err != nil || states() != 2 {
		t.Errorf("%d keys, %v", states(), err)
	}
	later := time.Now().Add(91 * 24 * time.Hour)
	if err := s.signing.keep(t.Context(), later); err != nil || states() != 3 {
		t.Errorf("%d keys, %v", states(), err)
	}
	if second, err := s.signing.current(ringback.RS256, later); err != nil || second == first {
		t.Errorf("the same key signs after 91 days: %v", err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(s.signing.jwks(), &set); err != nil || len(set.Keys) != 3 {
		t.Errorf("%d keys are published, %v", len(set.Keys), err)
	}
	// A kind that was not in use is made when it is asked for.
	if sig, err := s.signing.Sign(ringback.V1a, "msg_1", time.Now(), []byte("{}"), nil); err == nil {
		t.Errorf("signed by a kind that no project uses: %s", sig)
	}
	p, err := s.Store().Project(t.Context(), s.Project())
	if err != nil {
		t.Fatal(err)
	}
	p.DynamicSignature = ringback.V1a
	if err := s.Store().UpdateProject(t.Context(), p, byServer(time.Now())); err != nil {
		t.Fatal(err)
	}
	if sig, err := s.signing.Sign(ringback.V1a, "msg_1", time.Now(), []byte("{}"), nil); err != nil || !strings.HasPrefix(sig, "v1a,") {
		t.Errorf("got %q, %v", sig, err)
	}
	for _, err := range []error{s.signing.rotate(t.Context(), "HS256", false, byServer(time.Now())), s.signing.revoke(t.Context(), "none", byServer(time.Now()))} {
		if ringback.CodeOf(err) == "" {
			t.Errorf("got %v", err)
		}
	}
}

// TestRotateMaster: everything that was sealed is good afterwards, under another
// key; while the server runs it is refused.
func TestRotateMaster(t *testing.T) {
	dir := t.TempDir()
	c := config(t, dir)
	s := start(t, c)
	status, body := s.call("POST", "/v1/webhooks", s.FirstKey, `{"uri":"https://example.com/","subscribed_events":["interaction.completed"]}`)
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	key := s.FirstKey
	if _, err := RotateMaster(t.Context(), c); ringback.CodeOf(err) != ringback.Locked {
		t.Errorf("while the server runs: %v", err)
	}
	until(t, "two signing keys", func() bool { keys, err := s.Store().SigningKeys(t.Context()); return err == nil && len(keys) == 2 })
	s.stop()
	before, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := RotateMaster(t.Context(), c); err != nil || n != 3 {
		t.Fatalf("%d values, %v", n, err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil || string(after) == string(before) {
		t.Errorf("the same key, %v", err)
	}
	s = start(t, c)
	if status, body := s.call("GET", "/v1/webhooks", key, ""); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	s.stop()
	// From the outside: the key moves out of the folder.
	c.MasterKey = string(after)
	if _, err := RotateMaster(t.Context(), c); err == nil || !strings.Contains(err.Error(), "RINGBACK_MASTER_KEY_NEXT") {
		t.Errorf("got %v", err)
	}
	c.NextMasterKey = string(before)
	if n, err := RotateMaster(t.Context(), c); err != nil || n != 3 {
		t.Fatalf("%d values, %v", n, err)
	}
	if _, err := New(t.Context(), c, quiet()); err == nil || !strings.Contains(err.Error(), keyring.ErrWrongKey.Error()) {
		t.Errorf("started with the old key: %v", err)
	}
	c.MasterKey = ""
	c.MasterKeyCommand = "cat " + filepath.Join(dir, "elsewhere")
	if err := os.WriteFile(filepath.Join(dir, "elsewhere"), before, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, c).stop()
}
