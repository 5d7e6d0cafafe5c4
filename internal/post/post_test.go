package post_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/post"
	"ringback.dev/webhook"
)

func TestSend(t *testing.T) {
	secret, key := webhook.NewSecret(), webhook.NewSigningKey()
	v := &webhook.Verifier{Secrets: []webhook.Secret{secret}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if _, err := v.Verify(r.Header, body); err != nil || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Tenant") != "7" {
			t.Errorf("%v, %v", err, r.Header)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "elsewhere")
	}))
	defer srv.Close()
	s := &post.Sender{Signers: []webhook.Signer{key, secret}}
	r := s.SendWith(t.Context(), srv.URL, "msg_1", []byte(`{"type":"ping"}`), http.Header{"X-Tenant": {"7"}, "Webhook-Signature": {"old"}})
	if r.OK() || r.Status != 302 || r.Why() != "redirects are not followed" || !strings.Contains(string(r.Answer), "elsewhere") || r.Took <= 0 {
		t.Errorf("got %+v", r)
	}
}

func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	l.Close()
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
		<-release
	}))
	defer slow.Close()
	defer close(release)
	s := &post.Sender{Timeout: 20 * time.Millisecond}
	for address, why := range map[string]string{nobody: "nobody listens there", slow.URL: "no answer in time", slow.URL + "/cut": "the connection was closed without an answer"} {
		if r := s.Send(context.Background(), address, "msg_1", nil); r.OK() || r.Status != 0 || r.Why() != why {
			t.Errorf("%s: got %q, %+v", address, r.Why(), r)
		}
	}
	for _, bad := range []string{"", "localhost:3000", "ftp://x/", "http:///x", "http://a:b@c/", "http://a/#b", "http://%"} {
		if post.Check(bad) == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

func TestRecording(t *testing.T) {
	var file bytes.Buffer
	want := []*post.Record{
		post.NewRecord("http://localhost:3000/", 1, []byte("{\"a\":\"<\u2028>\"}\n"), &post.Result{At: time.Unix(1790000000, 5000), Status: 204, Took: 1500 * time.Microsecond,
			Header: http.Header{"Webhook-Id": {"msg_1"}, "X": {"a", "b"}}}),
		post.NewRecord("http://localhost:3000/", 2, []byte("\xff\x00"), &post.Result{At: time.Unix(1790000000, 0), Err: context.DeadlineExceeded, Header: http.Header{"Webhook-Id": {"msg_2"}}}),
	}
	for _, r := range want {
		if err := r.Write(&file); err != nil {
			t.Fatal(err)
		}
	}
	var got []*post.Record
	err := post.ReadRecords(&file, func(_ int, r *post.Record) error { got = append(got, r); return nil })
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	if h, body, err := got[1].Message(); err != nil || string(body) != "\xff\x00" || h.Get("webhook-id") != "msg_2" {
		t.Errorf("got %v %q %v", h, body, err)
	}
	for line, names := range map[string]string{
		"\n[]":               "line 2: it is not a record",
		`{"url":"x"}`:        "line 1: url:",
		`{"url":"http://a"}`: "webhook-id is missing",
		`{"url":"http://a","headers":{"webhook-id":"a.b"}}`:                               "full stop",
		`{"url":"http://a","headers":{"webhook-id":"a","x y":"b"}}`:                       `"x y" can't be sent`,
		`{"url":"http://a","headers":{"webhook-id":"a\nb"}}`:                              "can't be sent",
		`{"url":"http://a","headers":{"webhook-id":"a"},"body_base64":"*"}`:               "body_base64",
		`{"url":"http://a","headers":{"webhook-id":"a"},"body":"x","body_base64":"eA=="}`: "one of them",
	} {
		err := post.ReadRecords(strings.NewReader(line), func(int, *post.Record) error { return nil })
		if err == nil || !strings.Contains(err.Error(), names) {
			t.Errorf("%s: got %v", line, err)
		}
	}
}

// FuzzReadRecords: whatever a file holds, what is read of it can be sent, and
// written down and read again.
func FuzzReadRecords(f *testing.F) {
	f.Add([]byte(`{"sent":"2026-10-01T12:00:00Z","url":"http://localhost:3000/","headers":{"Webhook-Id":"msg_1","x":"é"},"body":"{}","status":204,"ms":1.5}`))
	f.Add([]byte("\n{\"url\":\"http://[::1]\",\"headers\":{\"webhook-id\":\"a\"},\"body_base64\":\"/w==\"}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		_ = post.ReadRecords(bytes.NewReader(file), func(_ int, r *post.Record) error {
			h, body, err := r.Message()
			if err != nil {
				t.Fatal(err)
			}
			q, err := http.NewRequest("POST", r.URL, bytes.NewReader(body))
			if err != nil {
				t.Fatalf("%q: %v", r.URL, err)
			}
			q.Header = h
			if err := q.Write(io.Discard); err != nil {
				t.Fatal(err)
			}
			var again bytes.Buffer
			if err := r.Write(&again); err != nil {
				t.Fatal(err)
			}
			n := 0
			if err := post.ReadRecords(&again, func(_ int, x *post.Record) error { n++; return nil }); err != nil || n != 1 {
				t.Fatalf("read again: %d records, %v", n, err)
			}
			return nil
		})
	})
}
