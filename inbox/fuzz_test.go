package inbox_test

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/webhook"
)

// FuzzRequest gives the receiver what comes over the wire. Nobody has signed it, so
// nothing of it may be stored, and the answer says nothing of why.
func FuzzRequest(f *testing.F) {
	hook := newFixture(f, nil)
	hook.MaxBody = 1 << 12
	for _, seed := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nwebhook-id: msg_1\r\nwebhook-timestamp: 1790000000\r\nwebhook-signature: v1,AAAA\r\n\r\n{}",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nwebhook-id: msg_1\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nwebhook-id: a.b\r\nwebhook-timestamp: -1\r\nwebhook-signature: eyJhbGciOiJub25lIn0.e30.\r\n\r\n{}",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		w := hook.post(r)
		switch w.Code {
		case 400, 401, 405, 413:
		default:
			t.Fatalf("answered %d %s", w.Code, w.Body)
		}
		if w.Body.Len() > 200 || w.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("answered %s", w.Body)
		}
		counts, err := hook.store.Counts(t.Context())
		if err != nil || len(counts) != 0 {
			t.Fatalf("stored: %v, %v", counts, err)
		}
	})
}

// FuzzMessage gives the receiver messages that the sender has signed, whatever is in
// them, and some that were changed on the way. What is acknowledged is stored as it
// was signed, and nothing else is.
func FuzzMessage(f *testing.F) {
	hook := newFixture(f, nil)
	from := newSenders(f)
	hook.Receiver = inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{hook.secret}, Keys: from.set, Audience: []string{audience}}, hook.store, nil)
	hook.Log, hook.MaxBody = slog.New(slog.DiscardHandler), 1<<12
	seen := make(map[string]bool) // Accepted by this process.
	f.Add("msg_1", []byte(body), []byte{}, "", int16(0), false)
	f.Add("msg_1", []byte(body), []byte{}, "v1,AAAA", int16(299), true)
	f.Add("a.b", []byte(`{"type":"\u0000"}`), []byte(" "), "x", int16(-301), false)
	f.Add("\xff", []byte{0}, []byte("y"), "v1a,", int16(1), true)
	f.Fuzz(func(t *testing.T, id string, signedBody, added []byte, beside string, age int16, token bool) {
		at := time.Now().Add(-time.Duration(age) * time.Second)
		sent := append(signedBody[:len(signedBody):len(signedBody)], added...)
		r := httptest.NewRequest(http.MethodPost, "/hook", bytes.NewReader(sent))
		signature := webhook.Sign(id, at, signedBody, hook.secret)
		if token {
			var err error
			if signature, err = from.token.Sign(id, at, signedBody, "x", []string{audience}); err != nil {
				return
			}
		}
		if beside != "" {
			signature = beside + " " + signature
		}
		for name, value := range map[string]string{webhook.HeaderID: id, webhook.HeaderTimestamp: strconv.FormatInt(at.Unix(), 10), webhook.HeaderSignature: signature} {
			r.Header[http.CanonicalHeaderKey(name)] = []string{value}
		}
		first := false
		hook.OnRequest = func(_ int, is bool, _ time.Duration, _ error) { first = is }
		w := hook.post(r)
		accepted := w.Code == http.StatusNoContent
		e, err := hook.store.Entry(t.Context(), "", id)
		if err != nil && !errors.Is(err, inbox.ErrNotFound) || (err == nil) != (accepted || seen[id]) || first != (accepted && !seen[id]) {
			t.Fatalf("answered %d, first is %v, stored: %v", w.Code, first, err)
		}
		seen[id] = seen[id] || accepted
		switch {
		case accepted && (first && !bytes.Equal(e.Body, signedBody) || len(added) > 0 || age > 302 || age < -302 || inbox.CheckID(id) != nil || len(sent) > 1<<12):
			t.Fatalf("accepted: %+v", e)
		case !accepted && !token && beside == "" && len(added) == 0 && age < 298 && age > -298 && inbox.CheckID(id) == nil && len(sent) <= 1<<12:
			t.Fatalf("a good message was answered %d %s", w.Code, w.Body)
		}
	})
}
