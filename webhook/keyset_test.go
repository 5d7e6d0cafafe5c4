package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev/webhook"
)

// publisher serves a key set and counts how often it is fetched.
type publisher struct {
	*httptest.Server
	fetched atomic.Int32

	mu     sync.Mutex
	now    time.Time
	answer func(http.ResponseWriter)
}

func newPublisher(t *testing.T) (*publisher, *webhook.KeySet) {
	p := &publisher{now: time.Unix(vectorTime, 0)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.fetched.Add(1)
		p.mu.Lock()
		answer := p.answer
		p.mu.Unlock()
		answer(w)
	}))
	t.Cleanup(p.Close)
	p.publish(t, "", rsaJWK("test", rsaKey(t, "test")))
	set := webhook.NewKeySet(p.URL + "/.well-known/jwks.json")
	set.Now = p.clock
	return p, set
}

func (p *publisher) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *publisher) pass(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = p.now.Add(d)
}

func (p *publisher) set(answer func(http.ResponseWriter)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *publisher) publish(t *testing.T, cache string, keys ...map[string]any) {
	t.Helper()
	body, err := json.Marshal(jwks(keys...))
	if err != nil {
		t.Fatal(err)
	}
	p.set(func(w http.ResponseWriter) {
		if cache != "" {
			w.Header().Set("Cache-Control", cache)
		}
		_, _ = w.Write(body)
	})
}

// verify checks a token by a kid, made by the publisher's key of that name.
func (p *publisher) verify(t *testing.T, set *webhook.KeySet, kid, key string) error {
	t.Helper()
	now := p.clock()
	token, err := (&webhook.TokenKey{ID: kid, Key: rsaKey(t, key)}).Sign(vectorID, now, []byte(vectorBody), issuer, []string{audience})
	if err != nil {
		t.Fatal(err)
	}
	v := &webhook.Verifier{Keys: set, Audience: []string{audience}, Now: p.clock}
	h := http.Header{}
	h.Set(webhook.HeaderID, vectorID)
	h.Set(webhook.HeaderTimestamp, fmt.Sprint(now.Unix()))
	h.Set(webhook.HeaderSignature, token)
	_, err = v.VerifyContext(t.Context(), h, []byte(vectorBody))
	return err
}

func (p *publisher) want(t *testing.T, fetched int32) {
	t.Helper()
	if n := p.fetched.Load(); n != fetched {
		t.Errorf("fetched %d times, want %d", n, fetched)
	}
}

func TestKeySetIsKept(t *testing.T) {
	p, set := newPublisher(t)
	for range 10 {
		if err := p.verify(t, set, "test", "test"); err != nil {
			t.Fatal(err)
		}
	}
	p.want(t, 1)
	p.pass(5*time.Minute + time.Second)
	if err := p.verify(t, set, "test", "test"); err != nil {
		t.Fatal(err)
	}
	p.want(t, 2)
	p.publish(t, "public, max-age=1800", rsaJWK("test", rsaKey(t, "test")))
	p.pass(6 * time.Minute)
	for range 4 {
		if err := p.verify(t, set, "test", "test"); err != nil {
			t.Fatal(err)
		}
		p.pass(14 * time.Minute)
	}
	p.want(t, 4) // At 0, 5, 11 and 53 minutes: the third was kept for 30.
}

// TestKeySetUnknownKid: a new key is found at once, a made-up one can't make the
// receiver hammer the sender.
func TestKeySetUnknownKid(t *testing.T) {
	p, set := newPublisher(t)
	if err := p.verify(t, set, "test", "test"); err != nil {
		t.Fatal(err)
	}
	p.pass(time.Minute)
	p.publish(t, "", rsaJWK("test", rsaKey(t, "test")), rsaJWK("new", rsaKey(t, "other")))
	if err := p.verify(t, set, "new", "other"); err != nil {
		t.Fatal(err)
	}
	p.want(t, 2)
	for range 20 {
		if err := p.verify(t, set, "made up", "other"); !errors.Is(err, webhook.ErrUnknownKey) || !strings.Contains(err.Error(), `"made up" is not among the 2 keys`) {
			t.Fatal(err)
		}
		p.pass(time.Second)
	}
	p.want(t, 2)
	p.pass(30 * time.Second)
	if err := p.verify(t, set, "made up", "other"); !errors.Is(err, webhook.ErrUnknownKey) {
		t.Fatal(err)
	}
	p.want(t, 3)
}

// TestKeySetCannotBeHad: what is known goes on for a day; without it the sender is
// asked to come again.
func TestKeySetCannotBeHad(t *testing.T) {
	p, set := newPublisher(t)
	p.set(func(w http.ResponseWriter) { w.WriteHeader(500) })
	if err := p.verify(t, set, "test", "test"); !errors.Is(err, webhook.ErrKeySet) {
		t.Fatal(err)
	}
	if err := p.verify(t, set, "test", "test"); !errors.Is(err, webhook.ErrKeySet) {
		t.Fatal(err)
	}
	p.want(t, 1) // Not asked again at once.
	p.pass(31 * time.Second)
	p.publish(t, "", rsaJWK("test", rsaKey(t, "test")))
	if err := p.verify(t, set, "test", "test"); err != nil {
		t.Fatal(err)
	}
	p.set(func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) })
	for range 23 {
		p.pass(time.Hour)
		if err := p.verify(t, set, "test", "test"); err != nil {
			t.Fatal(err)
		}
	}
	p.pass(2 * time.Hour)
	if err := p.verify(t, set, "test", "test"); !errors.Is(err, webhook.ErrKeySet) {
		t.Fatal(err)
	}
	for name, answer := range map[string]func(http.ResponseWriter){
		"redirect": func(w http.ResponseWriter) { w.Header().Set("Location", p.URL); w.WriteHeader(302) },
		"huge":     func(w http.ResponseWriter) { _, _ = w.Write([]byte(strings.Repeat(" ", 2<<20))) },
		"private": func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"keys":[{"kty":"RSA","kid":"x","n":"AQ","e":"AQAB","d":"AQ"}]}`))
		},
	} {
		p.set(answer)
		p.pass(time.Minute)
		if err := p.verify(t, set, "test", "test"); !errors.Is(err, webhook.ErrKeySet) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeySetIsNotNeeded: what a secret or a key at hand verifies does not fail
// because there is a signature of another kind beside it, and no key set to be had.
func TestKeySetIsNotNeeded(t *testing.T) {
	p, set := newPublisher(t)
	p.set(func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) })
	secret, key, other := webhook.NewSecret(), webhook.NewSigningKey(), webhook.NewSigningKey()
	v := &webhook.Verifier{Secrets: []webhook.Secret{secret}, PublicKeys: []webhook.PublicKey{key.Public()}, Keys: set, Now: p.clock}
	verify := func(with ...webhook.Signer) error {
		body := []byte(`{"type":"ping"}`)
		_, err := v.Verify(http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {fmt.Sprint(p.clock().Unix())},
			"Webhook-Signature": {webhook.Sign("msg_1", p.clock(), body, with...)}}, body)
		return err
	}
	for _, with := range [][]webhook.Signer{{other, secret}, {secret, other}, {other, key}} {
		if err := verify(with...); err != nil {
			t.Error(err)
		}
	}
	if n := p.fetched.Load(); n != 0 {
		t.Errorf("the set was fetched %d times", n)
	}
	if err := verify(other); !errors.Is(err, webhook.ErrKeySet) {
		t.Errorf("got %v", err)
	}
}

func TestKeySetAddress(t *testing.T) {
	for _, url := range []string{"http://keys.example/jwks.json", "ftp://127.0.0.1/", "nonsense", "", "http:///x"} {
		set := webhook.NewKeySet(url)
		v := &webhook.Verifier{Keys: set, Audience: []string{audience}, Now: func() time.Time { return time.Unix(vectorTime, 0) }}
		h := http.Header{}
		h.Set(webhook.HeaderID, vectorID)
		h.Set(webhook.HeaderTimestamp, fmt.Sprint(vectorTime))
		h.Set(webhook.HeaderSignature, tokenOf(t, rsaKey(t, "test"), `{"alg":"RS256","kid":"test"}`, claimsWith(nil)))
		if _, err := v.Verify(h, []byte(vectorBody)); err == nil || url != "" && !strings.Contains(err.Error(), "address") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// TestKeySetFetchedOnce: many messages at once cause one fetch, and one that goes
// away does not spoil it for the others.
func TestKeySetFetchedOnce(t *testing.T) {
	p, set := newPublisher(t)
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	body, err := json.Marshal(jwks(rsaJWK("test", rsaKey(t, "test"))))
	if err != nil {
		t.Fatal(err)
	}
	p.set(func(w http.ResponseWriter) {
		arrived <- struct{}{}
		<-release
		_, _ = w.Write(body)
	})
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	for range 20 {
		wg.Go(func() { errs <- p.verify(t, set, "test", "test") })
	}
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := &webhook.Verifier{Keys: set, Audience: []string{audience}, Now: p.clock}
	h := http.Header{}
	h.Set(webhook.HeaderID, vectorID)
	h.Set(webhook.HeaderTimestamp, fmt.Sprint(vectorTime))
	h.Set(webhook.HeaderSignature, tokenOf(t, rsaKey(t, "test"), `{"alg":"RS256","kid":"test"}`, claimsWith(nil)))
	if _, err := v.VerifyContext(ctx, h, []byte(vectorBody)); !errors.Is(err, webhook.ErrKeySet) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	p.want(t, 1)
}

// TestKeySetCallerGoesAway: whoever hangs up while the set is fetched, again and
// again, causes no more fetches than whoever stays.
func TestKeySetCallerGoesAway(t *testing.T) {
	p, set := newPublisher(t)
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	p.set(func(w http.ResponseWriter) {
		arrived <- struct{}{}
		<-release
		w.WriteHeader(http.StatusInternalServerError)
	})
	v := &webhook.Verifier{Keys: set, Audience: []string{audience}, Now: p.clock}
	h := http.Header{}
	h.Set(webhook.HeaderID, vectorID)
	h.Set(webhook.HeaderTimestamp, fmt.Sprint(vectorTime))
	h.Set(webhook.HeaderSignature, tokenOf(t, rsaKey(t, "test"), `{"alg":"RS256","kid":"made up"}`, claimsWith(nil)))
	for i := range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() {
			_, err := v.VerifyContext(ctx, h, []byte(vectorBody))
			result <- err
		}()
		if i == 0 {
			<-arrived
		}
		cancel()
		if err := <-result; !errors.Is(err, webhook.ErrKeySet) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	close(release)
	if _, err := v.VerifyContext(t.Context(), h, []byte(vectorBody)); !errors.Is(err, webhook.ErrKeySet) || !strings.Contains(err.Error(), "500") {
		t.Errorf("got %v", err)
	}
	p.want(t, 1)
}

// TestKeySetHangs: a client without a time-out of its own does not hold messages up
// for ever.
func TestKeySetHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := webhook.NewKeySet("https://keys.example/jwks.json")
		set.Client = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		v := &webhook.Verifier{Keys: set, Audience: []string{audience}}
		begin := time.Now()
		h := http.Header{}
		h.Set(webhook.HeaderID, vectorID)
		h.Set(webhook.HeaderTimestamp, fmt.Sprint(begin.Unix()))
		h.Set(webhook.HeaderSignature, tokenOf(t, rsaKey(t, "test"), `{"alg":"RS256","kid":"test"}`, claimsWith(nil)))
		if _, err := v.Verify(h, []byte(vectorBody)); !errors.Is(err, webhook.ErrKeySet) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestKeySetErrorHoldsNoAddress: the handler's answer, or a log, is no place for the
// address of a set, which may hold a password.
func TestKeySetErrorHoldsNoAddress(t *testing.T) {
	p, set := newPublisher(t)
	p.Close()
	err := p.verify(t, set, "test", "test")
	if !errors.Is(err, webhook.ErrKeySet) || strings.Contains(err.Error(), "jwks.json") {
		t.Errorf("got %v", err)
	}
}

// TestHandlerAsksToComeAgain: a receiver that can't get the keys must not refuse
// for good.
func TestHandlerAsksToComeAgain(t *testing.T) {
	p, set := newPublisher(t)
	p.set(func(w http.ResponseWriter) { w.WriteHeader(500) })
	hook := webhook.Handler(&webhook.Verifier{Keys: set, Audience: []string{audience}, Now: p.clock}, func(http.ResponseWriter, *http.Request, webhook.Message) {
		t.Error("let in")
	})
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(vectorBody))
	r.Header.Set(webhook.HeaderID, vectorID)
	r.Header.Set(webhook.HeaderTimestamp, fmt.Sprint(vectorTime))
	r.Header.Set(webhook.HeaderSignature, tokenOf(t, rsaKey(t, "test"), `{"alg":"RS256","kid":"test"}`, claimsWith(nil)))
	rec := httptest.NewRecorder()
	hook.ServeHTTP(rec, r)
	if rec.Code != 503 || rec.Header().Get("Retry-After") == "" || strings.Contains(rec.Body.String(), "500") {
		t.Errorf("got %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
}

func TestEventData(t *testing.T) {
	e, err := webhook.ParseEvent([]byte(`{"type":"batch.succeeded","version":"v1","timestamp":"2026-01-22T12:00:00Z","data":{"id":"batches/1","output_file_uri":"https://h/f","file_name":"files/1"},"user_metadata":{"a":1}}`))
	if err != nil || e.Type != webhook.BatchSucceeded || string(e.UserMetadata) != `{"a":1}` {
		t.Fatalf("got %+v, %v", e, err)
	}
	d, err := e.ParseData()
	if err != nil || d != (webhook.Data{ID: "batches/1", OutputFileURI: "https://h/f", FileName: "files/1"}) {
		t.Errorf("got %+v, %v", d, err)
	}
	for _, data := range []string{"", "7"} {
		e.Data = json.RawMessage(data)
		if _, err := e.ParseData(); err == nil {
			t.Errorf("%q: no error", data)
		}
	}
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"x","n":"AQ","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AQ"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Add([]byte(`{"keys":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := webhook.ParseKeySet(data)
		if (set == nil) == (err == nil) {
			t.Fatalf("got %v, %v", set, err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add("whsk_" + strings.Repeat("A", 43) + "=")
	f.Add("whpk_" + strings.Repeat("A", 43) + "=")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := webhook.ParseSigningKey(text); err == nil {
			again, err := webhook.ParseSigningKey(k.Reveal())
			if err != nil || again.Public().String() != k.Public().String() {
				t.Errorf("%q: %v", text, err)
			}
		}
		if k, err := webhook.ParsePublicKey(text); err == nil {
			if again, err := webhook.ParsePublicKey(k.String()); err != nil || again.String() != k.String() {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}

// FuzzVerifyAny: no header makes the verifier accept what its keys did not sign,
// or panic.
func FuzzVerifyAny(f *testing.F) {
	data, err := json.Marshal(jwks(okpJWK("a", seed(1)), map[string]any{"kty": "RSA", "kid": "weak", "n": "AQ", "e": "Aw"}))
	if err != nil {
		f.Fatal(err)
	}
	set, err := webhook.ParseKeySet(data)
	if err != nil {
		f.Fatal(err)
	}
	v := &webhook.Verifier{Secrets: []webhook.Secret{webhook.NewSecret()}, Keys: set, Audience: []string{audience}, Now: func() time.Time { return time.Unix(vectorTime, 0) }}
	f.Add(vectorID, fmt.Sprint(vectorTime), "v1,AAAA v1a,AAAA", vectorBody)
	f.Add(vectorID, fmt.Sprint(vectorTime), "eyJhbGciOiJSUzI1NiIsImtpZCI6IndlYWsifQ.e30.AA", vectorBody)
	f.Fuzz(func(t *testing.T, id, stamp, signature, body string) {
		h := http.Header{webhook.HeaderID: {id}}
		h.Set(webhook.HeaderID, id)
		h.Set(webhook.HeaderTimestamp, stamp)
		h.Set(webhook.HeaderSignature, signature)
		if m, err := v.Verify(h, []byte(body)); err == nil {
			t.Errorf("accepted %+v", m)
		}
	})
}
