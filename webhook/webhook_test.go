package webhook_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"ringback.dev/webhook"
)

type vector struct {
	Name       string         `json:"name"`
	Secrets    []string       `json:"secrets,omitempty"`
	PublicKeys []string       `json:"public_keys,omitempty"`
	JWKS       map[string]any `json:"jwks,omitempty"`
	Audience   []string       `json:"audience,omitempty"`
	Issuer     string         `json:"issuer,omitempty"`
	ID         string         `json:"id"`
	Timestamp  string         `json:"timestamp"`
	Now        int64          `json:"now"`
	Body       string         `json:"body"`
	Signature  string         `json:"signature"`
	Error      string         `json:"error"`
}

func vectors(t *testing.T) []vector {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 10 {
		t.Fatalf("only %d vectors", len(file.Vectors))
	}
	return file.Vectors
}

func (v vector) header() http.Header {
	h := make(http.Header)
	h.Set(webhook.HeaderID, v.ID)
	h.Set(webhook.HeaderTimestamp, v.Timestamp)
	h.Set(webhook.HeaderSignature, v.Signature)
	return h
}

func (v vector) verifier(t *testing.T) *webhook.Verifier {
	t.Helper()
	w := &webhook.Verifier{Now: func() time.Time { return time.Unix(v.Now, 0) }}
	for _, s := range v.Secrets {
		secret, err := webhook.ParseSecret(s)
		if err != nil {
			t.Fatal(err)
		}
		w.Secrets = append(w.Secrets, secret)
	}
	for _, k := range v.PublicKeys {
		key, err := webhook.ParsePublicKey(k)
		if err != nil {
			t.Fatal(err)
		}
		w.PublicKeys = append(w.PublicKeys, key)
	}
	w.Audience, w.Issuer = v.Audience, v.Issuer
	if v.JWKS != nil {
		set, err := json.Marshal(v.JWKS)
		if err != nil {
			t.Fatal(err)
		}
		if w.Keys, err = webhook.ParseKeySet(set); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func TestVectors(t *testing.T) {
	reasons := map[string]error{"": nil, "timestamp": webhook.ErrTimestamp, "signature": webhook.ErrSignature, "header": webhook.ErrMissingHeader,
		"no key": webhook.ErrNoSecret, "token": webhook.ErrToken, "audience": webhook.ErrAudience, "unknown key": webhook.ErrUnknownKey}
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			want, known := reasons[v.Error]
			if !known {
				t.Fatalf("unknown reason %q", v.Error)
			}
			m, err := v.verifier(t).Verify(v.header(), []byte(v.Body))
			if !errors.Is(err, want) || (want == nil && err != nil) {
				t.Fatalf("got error %v, want %v", err, want)
			}
			if err == nil && (m.ID != v.ID || string(m.Body) != v.Body || m.Timestamp.Unix() != 1614265330) {
				t.Errorf("unexpected message %+v", m)
			}
		})
	}
}

func TestSignPublishedVector(t *testing.T) {
	v := vectors(t)[0]
	got := webhook.Sign(v.ID, time.Unix(v.Now, 0), []byte(v.Body), v.verifier(t).Secrets[0])
	if got != v.Signature {
		t.Errorf("got %s, want %s", got, v.Signature)
	}
}

func TestRotation(t *testing.T) {
	now := time.Now()
	older, newer := webhook.NewSecret(), webhook.NewSecret()
	body := []byte(`{"type":"ping"}`)
	h := make(http.Header)
	h.Set(webhook.HeaderID, "msg_1")
	h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(webhook.HeaderSignature, webhook.Sign("msg_1", now, body, newer, older))
	for name, secret := range map[string]webhook.Secret{"older": older, "newer": newer} {
		if _, err := (&webhook.Verifier{Secrets: []webhook.Secret{secret}}).Verify(h, body); err != nil {
			t.Errorf("%s secret: %v", name, err)
		}
	}
	first, _, _ := strings.Cut(h.Get(webhook.HeaderSignature), " ")
	if first != webhook.Sign("msg_1", now, body, newer) {
		t.Error("the newest secret's signature is not the first")
	}
}

func TestHints(t *testing.T) {
	now := time.Now()
	secret := webhook.NewSecret()
	v := &webhook.Verifier{Secrets: []webhook.Secret{secret}}
	h := make(http.Header)
	h.Set(webhook.HeaderID, "msg_1")
	h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(webhook.HeaderSignature, webhook.Sign("msg_1", now, []byte(`{"a":1}`), secret))
	for body, hint := range map[string]string{
		"{\n  \"a\": 1\n}": "re-serialised",
		"{\"a\":1}\n":      "re-serialised",
		`{"a":2}`:          "wrong secret",
	} {
		_, err := v.Verify(h, []byte(body))
		if !errors.Is(err, webhook.ErrSignature) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: got %v, want a hint of %q", body, err, hint)
		}
	}
	if _, err := (&webhook.Verifier{}).Verify(h, []byte(`{"a":1}`)); !errors.Is(err, webhook.ErrNoSecret) {
		t.Errorf("without secrets: got %v", err)
	}
}

func TestSecretNeverPrints(t *testing.T) {
	s := webhook.NewSecret()
	whole := strings.TrimPrefix(s.Reveal(), "whsec_")
	for _, shown := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %s %q", s, s, s, s), s.LogValue().String()} {
		if strings.Contains(shown, whole) {
			t.Errorf("a secret was printed: %s", shown)
		}
	}
	again, err := webhook.ParseSecret(s.Reveal())
	if err != nil || again.Reveal() != s.Reveal() {
		t.Errorf("a secret does not survive: %v", err)
	}
	if want := "whsec_..." + whole[len(whole)-4:]; s.Truncated() != want {
		t.Errorf("got %s, want %s", s.Truncated(), want)
	}
}

func TestParseSecretRefuses(t *testing.T) {
	for _, text := range []string{"", "whsec_", "whsec_abc", "whsec_AAAA", "whsec_" + strings.Repeat("A", 88) + "AA==", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!"} {
		_, err := webhook.ParseSecret(text)
		if !errors.Is(err, webhook.ErrSecret) {
			t.Errorf("%q: got %v", text, err)
		} else if len(text) > 20 && strings.Contains(err.Error(), text[7:]) {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
}

func TestHandler(t *testing.T) {
	v := vectors(t)[0]
	h := webhook.Handler(v.verifier(t), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		w.Header().Set("Got", m.ID)
		w.WriteHeader(http.StatusNoContent)
	})
	for _, c := range []struct {
		name, method, body string
		status             int
	}{
		{"good", "POST", v.Body, 204},
		{"tampered", "POST", v.Body + " ", 401},
		{"too large", "POST", strings.Repeat("x", webhook.MaxBody+1), 413},
		{"wrong method", "GET", "", 405},
	} {
		r := httptest.NewRequest(c.method, "/", strings.NewReader(c.body))
		r.Header = v.header()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%s: got %d, want %d: %s", c.name, w.Code, c.status, w.Body)
		}
	}
}

func TestParseEvent(t *testing.T) {
	e, err := webhook.ParseEvent([]byte(`{"type":"interaction.completed","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"v1_x"}}`))
	if err != nil || e.Type != "interaction.completed" || e.Timestamp.Hour() != 12 || string(e.Data) != `{"id":"v1_x"}` {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, bad := range []string{"", "[]", "{}", `{"type":1}`} {
		if _, err := webhook.ParseEvent([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("msg_1", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte(`{"a":1}`))
	f.Add("", "-1", "v1, v1,= ,,", []byte(nil))
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		f.Fatal(err)
	}
	v := &webhook.Verifier{Secrets: []webhook.Secret{secret}, Now: func() time.Time { return time.Unix(1614265330, 0) }}
	f.Fuzz(func(t *testing.T, id, stamp, signature string, body []byte) {
		h := make(http.Header)
		h.Set(webhook.HeaderID, id)
		h.Set(webhook.HeaderTimestamp, stamp)
		h.Set(webhook.HeaderSignature, signature)
		if m, err := v.Verify(h, body); err == nil {
			// Only a signature that we would make ourselves may pass.
			if !strings.Contains(signature, webhook.Sign(m.ID, m.Timestamp, body, secret)) {
				t.Fatalf("accepted %q", signature)
			}
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := webhook.ParseSecret(text)
		if err != nil {
			return
		}
		again, err := webhook.ParseSecret(s.Reveal())
		if err != nil || again.Reveal() != s.Reveal() {
			t.Fatalf("%q does not survive: %v", text, err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	secret, body, now := webhook.NewSecret(), make([]byte, 400), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		webhook.Sign("msg_06gfenfjfeq66efbnw1eyg08c8", now, body, secret)
	}
}
