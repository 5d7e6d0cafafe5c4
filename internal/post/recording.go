package post

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"ringback.dev/webhook"
)

// Record is a line of a recording: a message that was sent, and what came of it.
type Record struct {
	Sent    time.Time `json:"sent"`
	URL     string    `json:"url"`
	Attempt int       `json:"attempt,omitempty"`
	// Headers are what was sent, their names in lower case; those of several values
	// are joined by commas.
	Headers map[string]string `json:"headers"`
	// Body holds the exact bytes as text, or BodyBase64 if they are not UTF-8.
	Body       string `json:"body,omitempty"`
	BodyBase64 string `json:"body_base64,omitempty"`
	// Status and Error are what came back.
	Status int     `json:"status,omitempty"`
	Millis float64 `json:"ms"`
	Error  string  `json:"error,omitempty"`
}

// NewRecord notes a message and its result.
func NewRecord(url string, attempt int, body []byte, r *Result) *Record {
	rec := &Record{Sent: r.At.UTC(), URL: url, Attempt: attempt, Headers: make(map[string]string), Status: r.Status, Millis: float64(r.Took.Microseconds()) / 1000}
	for name, values := range r.Header {
		rec.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	if utf8.Valid(body) {
		rec.Body = string(body)
	} else {
		rec.BodyBase64 = base64.StdEncoding.EncodeToString(body)
	}
	if r.Err != nil {
		rec.Error = r.Why()
	}
	return rec
}

// Write appends the record as one line, in one write.
func (r *Record) Write(w io.Writer) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Message returns what was sent.
func (r *Record) Message() (http.Header, []byte, error) {
	h := make(http.Header)
	for name, value := range r.Headers {
		h.Set(name, value)
	}
	if r.BodyBase64 == "" {
		return h, []byte(r.Body), nil
	}
	body, err := base64.StdEncoding.DecodeString(r.BodyBase64)
	if err != nil {
		return nil, nil, errors.New("body_base64: it is not base64")
	}
	return h, body, nil
}

// ID is the webhook-id that was sent.
func (r *Record) ID() string { return r.Headers[webhook.HeaderID] }

const maxRecord = 16 << 20

// ReadRecords reads a recording and calls each with the number of each line. An
// error names the line.
func ReadRecords(from io.Reader, each func(line int, r *Record) error) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxRecord)
	n := 0
	for lines.Scan() {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		r, err := parseRecord(lines.Bytes())
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := each(n, r); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d: it is longer than %d bytes", n+1, maxRecord)
	}
	return lines.Err()
}

// parseRecord reads a line and makes sure that it can be sent.
func parseRecord(line []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, errors.New("it is not a record, as ringback listen --record writes them: a JSON object with url, headers and body")
	}
	if err := Check(r.URL); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	lower := make(map[string]string, len(r.Headers))
	for name, value := range r.Headers {
		if !token(name) || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			return nil, fmt.Errorf("headers: %q can't be sent", name)
		}
		lower[strings.ToLower(name)] = value
	}
	r.Headers = lower
	if id := r.ID(); id == "" || strings.Contains(id, ".") {
		return nil, fmt.Errorf("headers: %s is missing, or holds a full stop", webhook.HeaderID)
	}
	if r.Body != "" && r.BodyBase64 != "" {
		return nil, errors.New("body and body_base64: give one of them")
	}
	if _, _, err := r.Message(); err != nil {
		return nil, err
	}
	return &r, nil
}

// token reports whether a text is a header's name (RFC 9110 §5.6.2).
func token(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
