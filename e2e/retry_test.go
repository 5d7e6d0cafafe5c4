package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// asDocuments verifies as the Go sample of Google's guide on webhooks does: the
// signature is worked out by hand and looked for anywhere in the header.
func asDocuments(secret string, c callback) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(c.Header.Get("webhook-id") + "." + c.Header.Get("webhook-timestamp") + "."))
	mac.Write(c.Body)
	if !strings.Contains(c.Header.Get("webhook-signature"), base64.StdEncoding.EncodeToString(mac.Sum(nil))) {
		return errors.New("the signature is not in the header")
	}
	return nil
}

// TestRetry has a receiver refuse the first attempt. The second one brings the
// same bytes under the same webhook-id, signed anew; then there is silence.
func TestRetry(t *testing.T) {
	c := goClient(t, dev(t), "any")
	attempts := make(chan callback, 10)
	first := true // Only the handler's; attempts to one receiver come one after the other.
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Errorf("callback: %v", err)
		}
		attempts <- callback{Header: q.Header, Body: body}
		if first {
			first = false
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer hook.Close()
	w := register(t, c, hook.URL)
	next := func() callback {
		t.Helper()
		select {
		case a := <-attempts:
			if err := errors.Join(verify(t, *w.NewSigningSecret, a), asDocuments(*w.NewSigningSecret, a)); err != nil {
				t.Error(err)
			}
			return a
		case <-time.After(30 * time.Second):
			t.Fatal("no callback arrived")
			return callback{}
		}
	}
	stamp := func(a callback) int64 {
		t.Helper()
		n, err := strconv.ParseInt(a.Header.Get("webhook-timestamp"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	create(t, c, `{"model":"m","input":"hi","background":true}`)
	one, two := next(), next()
	if one.Header.Get("webhook-id") != two.Header.Get("webhook-id") {
		t.Errorf("the webhook-id changed from %s to %s", one.Header.Get("webhook-id"), two.Header.Get("webhook-id"))
	}
	if !bytes.Equal(one.Body, two.Body) {
		t.Errorf("the body changed from %s to %s", one.Body, two.Body)
	}
	if wait := stamp(two) - stamp(one); wait < 3 || wait > 8 {
		t.Errorf("the second attempt was signed %d s after the first; it is due after 5 s", wait)
	}
	// A ping comes after whatever else is under way to this receiver.
	ping(t, c, *w.ID)
	if p := next(); !bytes.Contains(p.Body, []byte(`"type":"ping"`)) || p.Header.Get("webhook-id") == one.Header.Get("webhook-id") {
		t.Errorf("after it was accepted the callback came again: %s", p.Body)
	}
}
