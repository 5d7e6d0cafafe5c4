package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Reasons for which a message is refused. Every error of Verify wraps one.
var (
	ErrMissingHeader = errors.New("webhook: missing header")
	ErrTimestamp     = errors.New("webhook: timestamp not acceptable")
	ErrSignature     = errors.New("webhook: no matching signature")
	ErrNoSecret      = errors.New("webhook: the verifier has no secret")
)

// DefaultTolerance is how far a message's timestamp may be from the receiver's
// clock, in either direction.
const DefaultTolerance = 5 * time.Minute

// maxSignatures bounds how many signatures of one header are tried, so that a
// sender can't make the receiver compute without end.
const maxSignatures = 32

// Verifier checks messages. It may be used by any number of goroutines.
type Verifier struct {
	// Secrets are the secrets that are accepted: usually one, two during a
	// rotation.
	Secrets []Secret
	// Tolerance bounds the distance of the timestamp from now; zero means
	// DefaultTolerance.
	Tolerance time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Message is a verified message.
type Message struct {
	// ID is the same on every retry: act once per ID, and remember it for as long
	// as the sender may retry.
	ID string
	// Timestamp is when this attempt was made.
	Timestamp time.Time
	Body      []byte
}

// Verify checks that the message was signed with one of the secrets, just now,
// over exactly these bytes. body must be the raw body as received: a body that
// was parsed and printed again has other bytes. The error says what is wrong in
// words fit for a log; it holds nothing secret.
func (v *Verifier) Verify(h http.Header, body []byte) (Message, error) {
	id, stamp, signature := h.Get(HeaderID), h.Get(HeaderTimestamp), strings.Join(h.Values(HeaderSignature), " ")
	for _, x := range [...]struct{ name, value string }{{HeaderID, id}, {HeaderTimestamp, stamp}, {HeaderSignature, signature}} {
		if x.value == "" {
			return Message{}, fmt.Errorf("%w: %s", ErrMissingHeader, x.name)
		}
	}
	at, err := v.timestamp(stamp)
	if err != nil {
		return Message{}, err
	}
	if len(v.Secrets) == 0 {
		return Message{}, ErrNoSecret
	}
	candidates := candidates(signature)
	if len(candidates) == 0 {
		return Message{}, fmt.Errorf("%w: %s holds no %q signature", ErrSignature, HeaderSignature, "v1")
	}
	prefix := appendPrefix(nil, id, at.Unix())
	if !v.match(candidates, prefix, body) {
		return Message{}, fmt.Errorf("%w: %s", ErrSignature, v.why(candidates, prefix, body))
	}
	return Message{ID: id, Timestamp: at, Body: body}, nil
}

// timestamp reads and judges the timestamp header.
func (v *Verifier) timestamp(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || text[0] == '+' || len(text) > 1 && text[0] == '0' {
		return time.Time{}, fmt.Errorf("%w: %s must be Unix seconds as a decimal integer", ErrTimestamp, HeaderTimestamp)
	}
	tolerance := v.Tolerance
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	at := time.Unix(seconds, 0)
	switch age := now().Sub(at); {
	case age > tolerance:
		return time.Time{}, fmt.Errorf("%w: the message is %s old, %s is allowed", ErrTimestamp, age.Round(time.Second), tolerance)
	case age < -tolerance:
		return time.Time{}, fmt.Errorf("%w: the message is %s in the future, %s is allowed; compare the clocks", ErrTimestamp, (-age).Round(time.Second), tolerance)
	}
	return at, nil
}

// candidates decodes the v1 signatures of the header. Other schemes and what
// can't be decoded are passed over, as the specification asks.
func candidates(header string) [][]byte {
	var found [][]byte
	for token := range strings.SplitSeq(header, " ") {
		encoded, ok := strings.CutPrefix(token, scheme)
		if !ok {
			continue
		}
		mac, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(mac) != sha256.Size {
			continue
		}
		if found = append(found, mac); len(found) == maxSignatures {
			break
		}
	}
	return found
}

// match compares every candidate under every secret, so that the time taken
// does not tell which of them came close.
func (v *Verifier) match(candidates [][]byte, prefix, body []byte) bool {
	matched := false
	for _, s := range v.Secrets {
		want := s.mac(nil, prefix, body)
		for _, c := range candidates {
			if hmac.Equal(want, c) {
				matched = true
			}
		}
	}
	return matched
}

// why looks for a likely reason for which nothing matched.
func (v *Verifier) why(candidates [][]byte, prefix, body []byte) string {
	var compact bytes.Buffer
	if json.Compact(&compact, body) == nil && compact.Len() != len(body) && v.match(candidates, prefix, compact.Bytes()) {
		return "the body was re-serialised on the way: it matches once its white space is removed; verify the raw bytes as received"
	}
	if trimmed := bytes.TrimSpace(body); len(trimmed) != len(body) && v.match(candidates, prefix, trimmed) {
		return "white space was added around the body; verify the raw bytes as received"
	}
	return "wrong secret, or the id, timestamp or body was changed on the way"
}

// Event is the envelope of the events that ringback and the Gemini API send.
type Event struct {
	// Type is full-stop separated, such as "interaction.completed".
	Type    string `json:"type"`
	Version string `json:"version"`
	// Timestamp is when the event happened, not when this attempt was made.
	Timestamp time.Time       `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
}

// ParseEvent reads the body of a verified message.
func ParseEvent(body []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, fmt.Errorf("webhook: read event: %w", err)
	}
	if e.Type == "" {
		return Event{}, errors.New("webhook: read event: it has no type")
	}
	return e, nil
}
