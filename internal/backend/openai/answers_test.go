package openai_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/openai"
	"ringback.dev/internal/genai"
)

// TestDecode holds what becomes of a whole answer.
func TestDecode(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"thought, text, usage": {`{"id":"r","model":"v","choices":[{"index":0,"message":{"reasoning_content":"hm","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"hm","thought":true},{"text":"hi"}]},"finishReason":"STOP","index":0}],` +
				`"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":2,"totalTokenCount":5,"promptTokensDetails":[{"modality":"TEXT","tokenCount":3}]},"modelVersion":"v","responseId":"r"}`},
		"calls": {`{"choices":[{"message":{"content":null,"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{ \"x\" : 1 }"}},{"id":"b","function":{"name":"g","arguments":" "}}]},"finish_reason":"tool_calls"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"id":"a","name":"f","args":{"x":1}}},{"functionCall":{"id":"b","name":"g","args":{}}}]},"finishReason":"STOP","index":0}]}`},
		"two candidates": {`{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"length"},{"index":1,"message":{"content":""},"finish_reason":"content_filter"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"finishReason":"MAX_TOKENS","index":0},{"content":{"role":"model","parts":[{"text":""}]},"finishReason":"SAFETY","index":1}]}`},
		"the other name of thoughts": {`{"choices":[{"message":{"reasoning":"hm","content":"hi"},"finish_reason":"stop"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"hm","thought":true},{"text":"hi"}]},"finishReason":"STOP","index":0}]}`},
		"both names": {`{"choices":[{"message":{"reasoning":"hm","reasoning_content":"hm","content":null},"finish_reason":"length"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"hm","thought":true}]},"finishReason":"MAX_TOKENS","index":0}]}`},
		"details of the usage": {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":30,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":20,"audio_tokens":4},"completion_tokens_details":{"reasoning_tokens":9}}}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":30,"candidatesTokenCount":3,"totalTokenCount":42,"thoughtsTokenCount":9,"cachedContentTokenCount":20,` +
				`"promptTokensDetails":[{"modality":"TEXT","tokenCount":26},{"modality":"AUDIO","tokenCount":4}]}}`},
		"more thoughts than tokens": {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":null,"completion_tokens_details":{"reasoning_tokens":5}}}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":1,"totalTokenCount":3,"thoughtsTokenCount":2,"promptTokensDetails":[{"modality":"TEXT","tokenCount":1}]}}`},
		"refusal": {`{"error":null,"choices":[{"message":{"content":null,"refusal":"I won't."},"finish_reason":"stop"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"I won't."}]},"finishReason":"SAFETY","index":0}]}`},
		"speech": {`{"choices":[{"message":{"content":null,"audio":{"id":"x","data":"UklGRiQAAABXQVZFZm10IA==","transcript":"hi","expires_at":1}},"finish_reason":"stop"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"hi"},{"inlineData":{"mimeType":"audio/wav","data":"UklGRiQAAABXQVZFZm10IA=="}}]},"finishReason":"STOP","index":0}]}`},
		"speech of other kinds": {`{"choices":[{"message":{"audio":{"data":"SUQzBAA="}},"finish_reason":"stop"},{"index":1,"message":{"audio":{"data":"ZkxhQwA="}}},{"index":2,"message":{"audio":{"data":"__NA"}}},{"index":3,"message":{"audio":{"data":"AAAA"}}}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"inlineData":{"mimeType":"audio/mpeg","data":"SUQzBAA="}}]},"finishReason":"STOP","index":0},` +
				`{"content":{"role":"model","parts":[{"inlineData":{"mimeType":"audio/flac","data":"ZkxhQwA="}}]},"finishReason":"STOP","index":1},` +
				`{"content":{"role":"model","parts":[{"inlineData":{"mimeType":"audio/mpeg","data":"//NA"}}]},"finishReason":"STOP","index":2},` +
				`{"content":{"role":"model","parts":[{"inlineData":{"mimeType":"audio/L16;codec=pcm;rate=24000","data":"AAAA"}}]},"finishReason":"STOP","index":3}]}`},
		"images": {`{"choices":[{"message":{"content":"look","images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO"}}]},"finish_reason":"stop"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"look"},{"inlineData":{"mimeType":"image/png","data":"iVBO"}}]},"finishReason":"STOP","index":0}]}`},
		"content in parts": {`{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO"}}]},"finish_reason":"stop"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"hm","thought":true},{"text":"hi"},{"inlineData":{"mimeType":"image/png","data":"iVBO"}}]},"finishReason":"STOP","index":0}]}`},
		"a call without an id": {`{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}},{"function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"id":"call_f","name":"f","args":{}}},{"functionCall":{"id":"call_f_2","name":"f","args":{}}}]},"finishReason":"STOP","index":0}]}`},
		"a reason of its own": {`{"choices":[{"message":{"content":"a"},"finish_reason":"eos"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"finishReason":"OTHER","index":0}]}`},
	} {
		r, err := connect(t, func(*http.Request) (*http.Response, error) { return reply(200, c.body), nil }).Generate(t.Context(), ask(genai.TextPart("hi")))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, string(got)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// failure is the error of one try.
func failure(t *testing.T, answer network) *backend.Error {
	t.Helper()
	b, err := openai.New(openai.Config{BaseURL: "http://user:pass@model.example/v1", APIKey: "sk-secret", Transport: answer, MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Generate(t.Context(), ask(genai.TextPart("hi")))
	var e *backend.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v", err)
	}
	for _, secret := range []string{"sk-secret", "pass", "model.example"} {
		if strings.Contains(e.Error(), secret) {
			t.Errorf("%q is in %q", secret, e.Error())
		}
	}
	return e
}

func TestStatus(t *testing.T) {
	for status, want := range map[int]backend.Kind{
		400: backend.InvalidRequest, 401: backend.Unauthorized, 403: backend.Unauthorized, 404: backend.ModelNotFound, 408: backend.Unavailable, 413: backend.InvalidRequest,
		402: backend.OutOfBudget, 422: backend.InvalidRequest, 429: backend.RateLimited, 500: backend.Internal, 501: backend.Internal, 502: backend.Unavailable, 503: backend.Unavailable, 504: backend.Unavailable,
	} {
		e := failure(t, func(*http.Request) (*http.Response, error) {
			return reply(status, `{"error":{"message":"its own words"}}`), nil
		})
		if e.Kind != want {
			t.Errorf("%d: got %s, want %s", status, e.Kind, want)
		}
		if told := strings.Contains(e.Message, "its own words"); told == (want == backend.Unauthorized) {
			t.Errorf("%d: the caller is told %q", status, e.Message)
		}
	}
	// Some say with another status that there is no money left.
	for _, body := range []string{`{"error":{"message":"m","code":"insufficient_quota"}}`, `{"error":{"message":"m","type":"budget_exceeded","code":"400"}}`} {
		for _, status := range []int{400, 429} {
			if e := failure(t, func(*http.Request) (*http.Response, error) { return reply(status, body), nil }); e.Kind != backend.OutOfBudget {
				t.Errorf("%d %s: got %s", status, body, e.Kind)
			}
		}
	}
	for body, want := range map[string]string{`{"error":"short"}`: "400: short", `<html>`: "400: Bad Request", `{"error":{}}`: "400: Bad Request", ``: "400: Bad Request", `[]`: "400: Bad Request"} {
		if e := failure(t, func(*http.Request) (*http.Response, error) { return reply(400, body), nil }); !strings.HasSuffix(e.Message, want) {
			t.Errorf("%s: the caller is told %q", body, e.Message)
		}
	}
}

// TestRetryAfter: seconds, a date, and what is neither (RFC 9110 §10.2.3).
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for header, want := range map[string]time.Duration{
			"120": 2 * time.Minute, " 5 ": 5 * time.Second, "0": 0, "-1": 0, "1.5": 0, "soon": 0, "": 0, "99999999999999999999": 0,
			time.Now().Add(time.Minute).UTC().Format(http.TimeFormat): time.Minute, time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat): 0,
		} {
			e := failure(t, func(*http.Request) (*http.Response, error) { return reply(429, ``, "Retry-After", header), nil })
			if e.Kind != backend.RateLimited || e.RetryAfter != want {
				t.Errorf("%q: got %s, %s, want %s", header, e.Kind, e.RetryAfter, want)
			}
		}
	})
}

// TestNobodyListens uses the real network: nothing answers at a port that was
// given back.
func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := openai.New(openai.Config{BaseURL: "http://" + address, MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Generate(t.Context(), ask(genai.TextPart("hi")))
	var e *backend.Error
	if !errors.As(err, &e) || e.Kind != backend.Unavailable || strings.Contains(e.Message, address) || e.Cause == nil {
		t.Errorf("got %v", err)
	}
}

// TestCancelledWhileWaiting: a cancelled job does not wait for the next try, and
// its own reason comes out.
func TestCancelledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		b := connect(t, func(*http.Request) (*http.Response, error) {
			calls++
			return reply(429, `{}`, "Retry-After", "20"), nil
		})
		reason := errors.New("cancelled by its owner")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer time.AfterFunc(3*time.Second, func() { cancel(reason) }).Stop()
		begin := time.Now()
		if _, err := b.Generate(ctx, ask(genai.TextPart("hi"))); !errors.Is(err, reason) || calls != 1 || time.Since(begin) != 3*time.Second {
			t.Errorf("%v after %d calls and %s", err, calls, time.Since(begin))
		}
	})
}

// cut is a body that breaks off.
type cut struct{ io.Reader }

func (c cut) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// endless never stops sending.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, strings.Repeat("x", 1<<16)), nil }

func body(r io.Reader) network {
	return func(*http.Request) (*http.Response, error) {
		answer := reply(200, "")
		answer.Body = io.NopCloser(r)
		return answer, nil
	}
}

// TestBrokenBodies: an answer that breaks off or never ends is an error that
// says so, and is not read without bound.
func TestBrokenBodies(t *testing.T) {
	for name, c := range map[string]struct {
		stream bool
		body   io.Reader
		kind   backend.Kind
		hint   string
	}{
		"answer cut":     {false, cut{strings.NewReader(`{"choices":[`)}, backend.Unavailable, "reached"},
		"endless answer": {false, endless{}, backend.Internal, "64 MiB"},
		"stream cut":     {true, cut{strings.NewReader("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n")}, backend.Unavailable, "reached"},
		"endless line":   {true, endless{}, backend.Internal, "32 MiB"},
		"empty stream":   {true, strings.NewReader(""), backend.Unavailable, "broke off"},
	} {
		b := connect(t, body(c.body))
		var err error
		if c.stream {
			for _, err = range b.Stream(t.Context(), ask(genai.TextPart("hi"))) {
			}
		} else {
			_, err = b.Generate(t.Context(), ask(genai.TextPart("hi")))
		}
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != c.kind || !strings.Contains(e.Message, c.hint) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestStreamUsage: the usage comes after the finish reason and is in the last
// chunk, with two calls whose pieces arrive interleaved.
func TestStreamUsage(t *testing.T) {
	b := connect(t, body(strings.NewReader(`data: {"id":"r","model":"v","choices":[{"delta":{"content":"a"}}]}

data: {"id":"r","model":"v","choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\":"}},{"index":1,"id":"y","function":{"name":"g"}}]}}]}

data: {"id":"r","model":"v","choices":[{"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\"b\":2}"}},{"index":0,"function":{"arguments":"1}"}}]}}]}

data: {"id":"r","model":"v","choices":[{"delta":{},"finish_reason":"tool_calls"}]}

data: {"id":"r","model":"v","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}

data: [DONE]
`)))
	var got []string
	for chunk, err := range b.Stream(t.Context(), ask(genai.TextPart("hi"))) {
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(chunk)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(text))
	}
	want := []string{`{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"index":0}],"modelVersion":"v","responseId":"r"}`,
		`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"id":"x","name":"f","args":{"a":1}}},{"functionCall":{"id":"y","name":"g","args":{"b":2}}}]},"finishReason":"STOP","index":0}],` +
			`"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2,"totalTokenCount":3,"promptTokensDetails":[{"modality":"TEXT","tokenCount":1}]},"modelVersion":"v","responseId":"r"}`}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestBrokenAnswersAreNamed: what can't be passed on is an error that says what it
// is, in a stream as well.
func TestBrokenAnswersAreNamed(t *testing.T) {
	for message, hint := range map[string]string{
		`{"images":[{"image_url":{"url":"https://cdn.example/x.png"}}]}`: "an image that is not within it",
		`{"images":[{"image_url":{"url":"data:image/png;base64,*"}}]}`:   "an image that is not base64",
		`{"audio":{"data":"*"}}`:                                                     "audio that is not base64",
		`{"content":[{"type":"video","video":"x"}]}`:                                 `a part of type "video"`,
		`{"content":1}`:                                                              "not the JSON of a chat completion",
		`{"tool_calls":[{"id":"a","function":{"arguments":"{}"}}]}`:                  "without saying which",
		`{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"null"}}]}`:     "f with arguments that are not a JSON object",
		`{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\"a\":1"}}]}`: "f with arguments that are not a JSON object",
	} {
		check := func(err error) {
			t.Helper()
			var e *backend.Error
			if !errors.As(err, &e) || e.Kind != backend.Internal || !strings.Contains(e.Message, hint) || strings.Contains(e.Message, "cdn.example") {
				t.Errorf("%s: got %v, want a word of %q", message, err, hint)
			}
		}
		_, err := connect(t, body(strings.NewReader(`{"choices":[{"message":`+message+`,"finish_reason":"stop"}]}`))).Generate(t.Context(), ask(genai.TextPart("hi")))
		check(err)
		for _, pieces := range []bool{false, true} {
			q := ask(genai.TextPart("hi"))
			q.Pieces = pieces
			var last error
			for _, last = range connect(t, body(strings.NewReader(`data: {"choices":[{"delta":`+message+`,"finish_reason":"stop"}]}`))).Stream(t.Context(), q) {
			}
			check(last)
		}
	}
}

// TestErrorsWithinAnswers: an error that comes with status 200, as a whole answer or
// in a stream, keeps the server's words, but no address and no key.
func TestErrorsWithinAnswers(t *testing.T) {
	for said, want := range map[string]struct {
		kind backend.Kind
		says string
	}{
		`{"error":{"message":"The server had an error","type":"server_error"}}`:                                               {backend.Internal, "an error: The server had an error"},
		`{"error":{"code":429,"message":"slow down"},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}`:           {backend.RateLimited, "an error: slow down"},
		`{"choices":[{"index":0,"delta":{},"message":{},"error":{"code":502,"message":"upstream"},"finish_reason":"error"}]}`: {backend.Unavailable, "an error: upstream"},
		`{"choices":[{"index":0,"delta":{},"message":{},"finish_reason":"error"}]}`:                                           {backend.Internal, "ended its answer with an error"},
		`{"object":"error","message":"too long","type":"BadRequestError","code":400}`:                                         {backend.InvalidRequest, "an error: too long"},
		`{"error":"short"}`: {backend.Internal, "an error: short"},
		`{"error":{"message":"busy","type":"overloaded_error"}}`:                                 {backend.Unavailable, "an error: busy"},
		`{"error":{"message":"gone","code":"404"}}`:                                              {backend.ModelNotFound, "an error: gone"},
		`{"error":{"message":["x"],"code":"odd"}}`:                                               {backend.Internal, "broke off its answer with an error"},
		`{"error":{"error":{"message":"deep","code":429}}}`:                                      {backend.RateLimited, "an error: deep"},
		`{"error":{"message":"Incorrect API key provided: sk-secret","code":"invalid_api_key"}}`: {backend.Unauthorized, "refused the server's credentials (401)"},
		`{"error":{"message":"can't reach http://user:pass@10.0.0.5:8000/v1 or 10.0.0.6:99 or model.example with sk-secret, sk-proj-1234567890 and Bearer abc.def"}}`: {backend.Internal,
			"an error: can't reach (address) or (address) or (address) with (key), (key) and (key)"},
	} {
		check := func(err error) {
			t.Helper()
			var e *backend.Error
			if !errors.As(err, &e) || e.Kind != want.kind || !strings.HasSuffix(e.Message, want.says) {
				t.Errorf("%s: got %v, want %s, %q", said, err, want.kind, want.says)
			}
		}
		_, err := connect(t, body(strings.NewReader(said))).Generate(t.Context(), ask(genai.TextPart("hi")))
		check(err)
		for _, event := range []string{"data: " + said + "\n\n", "event: error\ndata: " + said + "\n\n", "event: error\r\ndata: " + said, "error: " + said + "\n"} {
			var got []string
			var last error
			for chunk, err := range connect(t, body(strings.NewReader("data: {\"choices\":[{\"delta\":{\"content\":\"begun\"}}]}\n\n"+event))).Stream(t.Context(), ask(genai.TextPart("hi"))) {
				if last = err; err == nil {
					got = append(got, *chunk.Candidates[0].Content.Parts[0].Text)
				}
			}
			if check(last); len(got) != 1 || got[0] != "begun" {
				t.Errorf("%q: got %q before the error", event, got)
			}
		}
	}
	b, err := openai.New(openai.Config{BaseURL: "http://gpu.corp.example:8000/v1", MaxRetries: -1,
		Transport: network(func(*http.Request) (*http.Response, error) {
			return reply(400, `{"message":"gpu.corp.example:8000 (gpu.corp.example) is cold"}`), nil
		})})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Generate(t.Context(), ask(genai.TextPart("hi"))); err == nil || err.Error() != "the back-end answered 400: (address) ((address)) is cold" {
		t.Errorf("got %v", err)
	}
	long := connect(t, body(strings.NewReader("event: error\ndata: not JSON, "+strings.Repeat("é", 5000)+"\n\n")))
	for _, err := range long.Stream(t.Context(), ask(genai.TextPart("hi"))) {
		if e := backend.AsError(err); err == nil || !strings.Contains(e.Message, "error: not JSON, é") || len(e.Message) > 1100 {
			t.Errorf("got %v", err)
		}
	}
}

func TestModels(t *testing.T) {
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet || r.URL.String() != "http://model.example/v1/models" || r.Header.Get("Content-Type") != "" {
			t.Errorf("unexpected %s %s", r.Method, r.URL)
		}
		return reply(200, `{"object":"list","data":[{"id":"a","object":"model","max_model_len":4096},{"id":"org/b"}]}`), nil
	})
	models, err := b.Models(t.Context())
	if err != nil || len(models) != 2 || models[0].Name != "models/a" || models[0].InputTokenLimit != 4096 || models[1].Name != "models/org/b" {
		t.Errorf("got %+v, %v", models, err)
	}
	if _, err := connect(t, func(*http.Request) (*http.Response, error) { return reply(200, `<html>`), nil }).Models(t.Context()); backend.AsError(err).Kind != backend.Internal || err == nil {
		t.Errorf("got %v", err)
	}
}

// FuzzAnswer: whatever a server answers with 200, it is an answer with content or
// an *Error, and it can be sent on.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"id":"r","choices":[{"index":1,"message":{"reasoning_content":"t","content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{\"a\":[1]}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r, err := connect(t, func(*http.Request) (*http.Response, error) { return reply(200, string(answer)), nil }).Generate(t.Context(), ask(genai.TextPart("hi")))
		if err != nil {
			var e *backend.Error
			if !errors.As(err, &e) {
				t.Fatalf("%q: %v is no *Error", answer, err)
			}
			return
		}
		if len(r.Candidates) == 0 || r.Candidates[0].Content == nil || r.Candidates[0].FinishReason == "" {
			t.Fatalf("%q: an empty answer %+v", answer, r)
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatalf("%q: can't be sent on: %v", answer, err)
		}
	})
}
