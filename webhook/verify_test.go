package webhook_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"ringback.dev/webhook"
)

// signed is a message that verifies until a test changes a part of it.
type signed struct {
	id     string
	at     time.Time
	body   []byte
	secret webhook.Secret
}

func newSigned(body string) signed {
	return signed{"msg_1", time.Unix(1614265330, 0), []byte(body), webhook.NewSecret()}
}

func (s signed) header() http.Header {
	h := make(http.Header)
	h.Set(webhook.HeaderID, s.id)
	h.Set(webhook.HeaderTimestamp, strconv.FormatInt(s.at.Unix(), 10))
	h.Set(webhook.HeaderSignature, webhook.Sign(s.id, s.at, s.body, s.secret))
	return h
}

func (s signed) verifier() *webhook.Verifier {
	return &webhook.Verifier{Secrets: []webhook.Secret{s.secret}, Now: func() time.Time { return s.at }}
}

// TestTimestampForms: only the form of the specification passes, so that no other
// spelling of the same second is taken for a second message, and no number wraps
// round into the tolerance.
func TestTimestampForms(t *testing.T) {
	s := newSigned("{}")
	for _, text := range []string{
		"+1614265330", "-1614265330", "01614265330", " 1614265330", "1614265330 ", "1614265330.0", "1614265330.5", "1.614265330e9", "1_614_265_330",
		"0x60378b32", "1614265330000", "１６１４２６５３３０", "2021-02-25T15:02:10Z", "NaN", "0", "-0", "-1",
		strconv.FormatInt(math.MaxInt64, 10), strconv.FormatInt(math.MinInt64, 10), "9223372036854775808", "18446744075323816946", strings.Repeat("9", 5000),
	} {
		h := s.header()
		h.Set(webhook.HeaderTimestamp, text)
		if _, err := s.verifier().Verify(h, s.body); !errors.Is(err, webhook.ErrTimestamp) {
			t.Errorf("%.40q: got %v", text, err)
		} else if len(err.Error()) > 200 {
			t.Errorf("%.40q: the error holds the header: %d bytes", text, len(err.Error()))
		}
	}
}

func TestTolerance(t *testing.T) {
	s := newSigned("{}")
	for _, c := range []struct {
		tolerance, age time.Duration
		want           error
		says           string
	}{
		{0, 5 * time.Minute, nil, ""},
		{0, -5 * time.Minute, nil, ""},
		{0, 5*time.Minute + time.Second, webhook.ErrTimestamp, "5m1s old, 5m0s is allowed"},
		{0, -5*time.Minute - time.Second, webhook.ErrTimestamp, "5m1s in the future"},
		{time.Hour, 59 * time.Minute, nil, ""},
		{time.Second, 2 * time.Second, webhook.ErrTimestamp, "2s old, 1s is allowed"},
	} {
		v := s.verifier()
		v.Tolerance, v.Now = c.tolerance, func() time.Time { return s.at.Add(c.age) }
		_, err := v.Verify(s.header(), s.body)
		if !errors.Is(err, c.want) || (err != nil && !strings.Contains(err.Error(), c.says)) {
			t.Errorf("tolerance %s, age %s: got %v", c.tolerance, c.age, err)
		}
	}
}

// TestSignatureHeader: what may stand beside the signature that counts.
func TestSignatureHeader(t *testing.T) {
	s := newSigned("{}")
	good := webhook.Sign(s.id, s.at, s.body, s.secret)
	other := webhook.Sign(s.id, s.at, s.body, webhook.NewSecret())
	for name, c := range map[string]struct {
		lines []string
		want  error
	}{
		"alone":                          {[]string{good}, nil},
		"after another":                  {[]string{other + " " + good}, nil},
		"on a second line":               {[]string{other, good}, nil},
		"between spaces":                 {[]string{"  " + good + "  "}, nil},
		"after what can't be decoded":    {[]string{"v1, v1,! v1,AAAA v1a,x nonsense , " + good}, nil},
		"as the last one that is tried":  {[]string{strings.Repeat(other+" ", 31) + good}, nil},
		"after more than are tried":      {[]string{strings.Repeat(other+" ", 32) + good}, webhook.ErrSignature},
		"under another scheme":           {[]string{"v1a" + strings.TrimPrefix(good, "v1")}, webhook.ErrSignature},
		"with an upper-case scheme":      {[]string{"V1" + strings.TrimPrefix(good, "v1")}, webhook.ErrSignature},
		"joined by commas":               {[]string{good + "," + other}, webhook.ErrSignature},
		"without padding":                {[]string{strings.TrimRight(good, "=")}, webhook.ErrSignature},
		"with a byte behind":             {[]string{"v1," + longer(t, good)}, webhook.ErrSignature},
		"a megabyte of other signatures": {[]string{strings.Repeat("v2,x ", 200_000)}, webhook.ErrSignature},
		"only the scheme":                {[]string{"v1,"}, webhook.ErrSignature},
	} {
		h := s.header()
		h[http.CanonicalHeaderKey(webhook.HeaderSignature)] = c.lines
		if _, err := s.verifier().Verify(h, s.body); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestHeaderTwice: of two values of a header one may be the signed one and the other
// what somebody behind the verifier reads.
func TestHeaderTwice(t *testing.T) {
	s := newSigned("{}")
	for name, want := range map[string]error{webhook.HeaderID: webhook.ErrSignature, webhook.HeaderTimestamp: webhook.ErrTimestamp} {
		for _, other := range []string{"msg_2", s.header().Get(name)} {
			h := s.header()
			h.Add(name, other)
			if _, err := s.verifier().Verify(h, s.body); !errors.Is(err, want) {
				t.Errorf("%s and %q: got %v", name, other, err)
			}
		}
	}
}

// TestZeroSecret: a secret that was not read, such as after an ignored error, must
// not be one that everybody knows.
func TestZeroSecret(t *testing.T) {
	s := newSigned("{}")
	s.secret = webhook.Secret{}
	if _, err := s.verifier().Verify(s.header(), s.body); !errors.Is(err, webhook.ErrNoSecret) {
		t.Errorf("alone: got %v", err)
	}
	v := s.verifier()
	v.Secrets = append(v.Secrets, webhook.NewSecret())
	if _, err := v.Verify(s.header(), s.body); !errors.Is(err, webhook.ErrSignature) {
		t.Errorf("beside another: got %v", err)
	}
}

// longer adds a byte to what a signature encodes.
func longer(t *testing.T, signature string) string {
	t.Helper()
	mac, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signature, "v1,"))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(append(mac, 0))
}

// TestWhiteSpaceAroundText: the hint also works for a body that is not JSON.
func TestWhiteSpaceAroundText(t *testing.T) {
	s := newSigned("not JSON")
	if _, err := s.verifier().Verify(s.header(), []byte("not JSON\r\n")); err == nil || !strings.Contains(err.Error(), "white space was added") {
		t.Errorf("got %v", err)
	}
}

// TestHandlerAnswers: refusals are JSON, why a message does not verify is in the log
// alone, and next never runs.
func TestHandlerAnswers(t *testing.T) {
	var log bytes.Buffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	s := newSigned("{}")
	h := webhook.Handler(s.verifier(), func(http.ResponseWriter, *http.Request, webhook.Message) {
		t.Error("next ran for a message that was not verified")
	})
	for _, c := range []struct {
		name, method string
		body         io.Reader
		header       http.Header
		status       int
		says         string
	}{
		{"broken off", "POST", iotest.ErrReader(io.ErrUnexpectedEOF), s.header(), 400, "broke off"},
		{"without headers", "POST", strings.NewReader("{}"), http.Header{}, 401, webhook.HeaderID},
		{"one byte too large", "POST", strings.NewReader(strings.Repeat("x", webhook.MaxBody+1)), s.header(), 413, "1 MiB"},
		{"as large as allowed", "POST", strings.NewReader(strings.Repeat("x", webhook.MaxBody)), s.header(), 401, "the message is not signed as it must be"},
		{"with PUT", "PUT", strings.NewReader("{}"), s.header(), 405, "POST"},
	} {
		r := httptest.NewRequest(c.method, "/", c.body)
		r.Header = c.header
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var answer struct{ Error struct{ Message string } }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != c.status || !strings.Contains(answer.Error.Message, c.says) ||
			w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %d %q (%v)", c.name, w.Code, w.Body, err)
		}
	}
	for _, why := range []string{webhook.ErrMissingHeader.Error(), webhook.ErrSignature.Error()} {
		if !strings.Contains(log.String(), why) {
			t.Errorf("%q is not in the log: %s", why, &log)
		}
	}
}

// FuzzTamper starts from a message that verifies: whatever is made of its parts,
// it may pass only if the signed text is still the same.
func FuzzTamper(f *testing.F) {
	const id, stamp, body, signature = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	f.Add(id, stamp, signature, []byte(body))
	f.Add(id, stamp, "v1,AAAA "+signature, []byte(body))
	f.Add(id, "1614265331", signature, []byte(body))
	f.Add(id+".", stamp, signature, []byte(body))
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		f.Fatal(err)
	}
	v := &webhook.Verifier{Secrets: []webhook.Secret{secret}, Now: func() time.Time { return time.Unix(1614265330, 0) }}
	f.Fuzz(func(t *testing.T, gotID, gotStamp, gotSignature string, gotBody []byte) {
		h := make(http.Header)
		h.Set(webhook.HeaderID, gotID)
		h.Set(webhook.HeaderTimestamp, gotStamp)
		h.Set(webhook.HeaderSignature, gotSignature)
		m, err := v.Verify(h, gotBody)
		same := gotID+"."+gotStamp+"."+string(gotBody) == id+"."+stamp+"."+body
		if err == nil && (!same || m.ID != gotID || string(m.Body) != string(gotBody)) {
			t.Fatalf("accepted %q %q %q %q as %+v", gotID, gotStamp, gotSignature, gotBody, m)
		}
		if err != nil && same && gotStamp == stamp && gotSignature == signature && gotID != "" {
			t.Fatalf("refused a message as it was sent: %v", err)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"type":"interaction.completed","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"v1_x"}}`))
	f.Add([]byte(`{"type":"ping","data":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := webhook.ParseEvent(body)
		if err != nil {
			return
		}
		if e.Type == "" || !json.Valid(body) || (e.Data != nil && !json.Valid(e.Data)) {
			t.Fatalf("%q was read as %+v", body, e)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := newSigned(strings.Repeat("x", 400))
	h, v := s.header(), s.verifier()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(h, s.body); err != nil {
			b.Fatal(err)
		}
	}
}
