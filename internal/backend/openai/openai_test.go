package openai_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/backendtest"
	"ringback.dev/internal/backend/openai"
	"ringback.dev/internal/genai"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a server as a function.
type network func(*http.Request) (*http.Response, error)

func (n network) RoundTrip(r *http.Request) (*http.Response, error) { return n(r) }

func reply(status int, body string, header ...string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func connect(t *testing.T, n network) *openai.Backend {
	t.Helper()
	b, err := openai.New(openai.Config{BaseURL: "http://model.example/v1/", APIKey: "sk-secret", Transport: n, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type chat struct {
	Model    string
	Messages []struct {
		Role       string
		Content    json.RawMessage
		ToolCallID string `json:"tool_call_id"`
	}
	Tools          []json.RawMessage
	MaxTokens      *int            `json:"max_tokens"`
	ResponseFormat json.RawMessage `json:"response_format"`
	Stream         bool
}

// server behaves as the suite asks, in the protocol's own way.
func server(r *http.Request) (*http.Response, error) {
	var q chat
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return reply(400, `{"error":{"message":"bad JSON"}}`), nil
	}
	last := q.Messages[len(q.Messages)-1]
	content, finish := fmt.Sprintf("%d messages, the last: %s", len(q.Messages), last.Content), "stop"
	_ = json.Unmarshal(last.Content, &content) // A plain text is echoed as it is.
	content = fmt.Sprintf("%d: %s", len(q.Messages), content)
	calls := ""
	switch {
	case q.Model == "fail":
		return reply(501, `{"error":"not today"}`), nil
	case q.Model == "hang":
		<-r.Context().Done()
		return nil, r.Context().Err()
	case q.Model == "call" && last.Role != "tool":
		calls, finish = `[{"index":0,"id":"call_1","type":"function","function":{"name":"get_weather","arguments":"{ \"city\": \"Paris\" }"}}]`, "tool_calls"
	case q.ResponseFormat != nil:
		content = `{"name":"Ada"}`
	case q.MaxTokens != nil:
		finish = "length"
	}
	text, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	const usage = `{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}`
	if !q.Stream {
		message := `"content":` + string(text)
		if calls != "" {
			message = `"content":null,"tool_calls":` + calls
		}
		return reply(200, fmt.Sprintf(`{"id":"c1","model":%q,"choices":[{"index":0,"message":{"role":"assistant",%s},"finish_reason":%q}],"usage":%s}`, q.Model, message, finish, usage)), nil
	}
	var events strings.Builder
	for _, word := range strings.SplitAfter(content, " ") {
		w, err := json.Marshal(word)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&events, ": keep-alive\n\ndata: {\"id\":\"c1\",\"model\":%q,\"choices\":[{\"index\":0,\"delta\":{\"content\":%s}}]}\n\n", q.Model, w)
	}
	if calls != "" {
		fmt.Fprintf(&events, "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":%s}}]}\n\n", calls)
	}
	fmt.Fprintf(&events, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":%q}]}\n\ndata: {\"choices\":[],\"usage\":%s}\n\ndata: [DONE]\n\n", finish, usage)
	return reply(200, events.String(), "Content-Type", "text/event-stream"), nil
}

func TestSuite(t *testing.T) {
	b, err := openai.New(openai.Config{BaseURL: "http://model.example/v1", Transport: network(server), MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Run(t, b)
}

func ask(parts ...genai.Part) *backend.Request {
	return &backend.Request{Model: "m", Body: &genai.GenerateContentRequest{Contents: []genai.Content{{Role: "user", Parts: parts}}}}
}

const good = `{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}]}`

// TestRetries runs in a bubble where waiting takes no time.
func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		answers  []*http.Response
		min, max time.Duration
		kind     backend.Kind // "" if it succeeds.
		calls    int32
	}{
		"429 with seconds": {[]*http.Response{reply(429, `{}`, "Retry-After", "7"), reply(200, good)}, 7 * time.Second, 7 * time.Second, "", 2},
		"503 without":      {[]*http.Response{reply(503, ``), reply(500, ``), reply(200, good)}, 750 * time.Millisecond, 2250 * time.Millisecond, "", 3},
		"too long a wait":  {[]*http.Response{reply(429, `{"error":{"message":"slow down"}}`, "Retry-After", "3600")}, 0, 0, backend.RateLimited, 1},
		"never better":     {[]*http.Response{reply(503, ``)}, time.Second, 6 * time.Second, backend.Unavailable, 4},
		"bad request":      {[]*http.Response{reply(400, `{"error":{"message":"no such field"}}`)}, 0, 0, backend.InvalidRequest, 1},
		"no such model":    {[]*http.Response{reply(404, `{"error":{"message":"model m does not exist"}}`)}, 0, 0, backend.ModelNotFound, 1},
		"bad credentials":  {[]*http.Response{reply(401, `{"error":{"message":"Incorrect API key provided: sk-secret"}}`)}, 0, 0, backend.Unauthorized, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				b := connect(t, func(r *http.Request) (*http.Response, error) {
					if got := r.Header.Get("Authorization"); got != "Bearer sk-secret" || r.URL.String() != "http://model.example/v1/chat/completions" {
						t.Errorf("unexpected request to %s with %q", r.URL, got)
					}
					n := min(int(calls.Add(1)), len(c.answers))
					a := *c.answers[n-1]
					return &a, nil
				})
				begin := time.Now()
				_, err := b.Generate(t.Context(), ask(genai.TextPart("hi")))
				if took := time.Since(begin); took < c.min || took > c.max {
					t.Errorf("took %s, want %s to %s", took, c.min, c.max)
				}
				var e *backend.Error
				if c.kind == "" && err != nil || c.kind != "" && (!errors.As(err, &e) || e.Kind != c.kind) {
					t.Errorf("got %v, want %q", err, c.kind)
				}
				if err != nil && strings.Contains(err.Error(), "sk-secret") {
					t.Errorf("the key leaks: %v", err)
				}
				if calls.Load() != c.calls {
					t.Errorf("%d calls, want %d", calls.Load(), c.calls)
				}
			})
		})
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := connect(t, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		begin := time.Now()
		_, err := b.Generate(t.Context(), ask(genai.TextPart("hi")))
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != backend.Timeout || time.Since(begin) != time.Minute {
			t.Errorf("got %v after %s", err, time.Since(begin))
		}
	})
}

func TestRefusesWhatItCannotSay(t *testing.T) {
	b := connect(t, func(*http.Request) (*http.Response, error) {
		t.Error("a request that can't be said was sent")
		return reply(200, good), nil
	})
	tools := ask(genai.TextPart("hi"))
	tools.Body.Tools = []genai.Tool{{GoogleSearch: json.RawMessage(`{}`)}}
	for field, q := range map[string]*backend.Request{
		"fileData":     ask(genai.Part{FileData: &genai.FileData{FileURI: "files/x"}}),
		"audio/midi":   ask(genai.Part{InlineData: &genai.Blob{MimeType: "audio/midi", Data: "AA=="}}),
		"googleSearch": tools,
	} {
		_, err := b.Generate(t.Context(), q)
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != backend.InvalidRequest || !strings.Contains(e.Message, field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestBrokenAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"not JSON": `<html>`, "no choices": `{"choices":[]}`,
		"arguments": `{"choices":[{"message":{"tool_calls":[{"id":"1","function":{"name":"f","arguments":"[1"}}]}}]}`,
	} {
		_, err := connect(t, func(*http.Request) (*http.Response, error) { return reply(200, body), nil }).Generate(t.Context(), ask(genai.TextPart("hi")))
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != backend.Internal {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestStreams(t *testing.T) {
	for name, c := range map[string]struct {
		events string
		kind   backend.Kind
		text   string
		args   string
	}{
		"cut off":       {"data: {\"choices\":[{\"delta\":{\"content\":\"he\"}}]}\n\n", backend.Unavailable, "he", ""},
		"error inside":  {"data: {\"error\":{\"message\":\"x\"}}\n\n", backend.Internal, "", ""},
		"not JSON":      {"data: {\n\n", backend.Internal, "", ""},
		"absurd index":  {"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":99999,\"function\":{}}]}}]}\n\n", backend.Internal, "", ""},
		"call in parts": {"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\"\"}}]}}]}\n\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\":1}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n", "", "", `{"a":1}`},
		"CRLF, thought": {"data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\r\n\r\ndata: [DONE]\r\n\r\n", "", "hi", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := connect(t, func(*http.Request) (*http.Response, error) { return reply(200, c.events), nil })
			var text, args strings.Builder
			var kind backend.Kind
			for chunk, err := range b.Stream(t.Context(), ask(genai.TextPart("hi"))) {
				if err != nil {
					kind = backend.AsError(err).Kind
					continue
				}
				for _, p := range chunk.Candidates[0].Content.Parts {
					if p.Text != nil && !p.Thought {
						text.WriteString(*p.Text)
					}
					if p.FunctionCall != nil {
						args.Write(p.FunctionCall.Args)
					}
				}
			}
			if kind != c.kind || text.String() != c.text || args.String() != c.args {
				t.Errorf("got %q, %q, %q", kind, text.String(), args.String())
			}
		})
	}
}

func TestBadURL(t *testing.T) {
	for _, u := range []string{"", "localhost:8000", "ftp://x/v1", "http://"} {
		if _, err := openai.New(openai.Config{BaseURL: u}); err == nil {
			t.Errorf("%q was accepted", u)
		}
	}
}

func TestThinkingLevel(t *testing.T) {
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(string(body), `"reasoning_effort":"low"`) {
			t.Errorf("got %s, %v", body, err)
		}
		return reply(200, good), nil
	})
	q := ask(genai.TextPart("hi"))
	q.Body.GenerationConfig = &genai.GenerationConfig{ThinkingConfig: json.RawMessage(`{"thinkingLevel":"LOW"}`)}
	if _, err := b.Generate(t.Context(), q); err != nil {
		t.Error(err)
	}
}
