package gemini_test

import (
	"context"
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

	next "github.com/go-json-experiment/json/v1"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/gemini"
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
	return &http.Response{StatusCode: status, Header: h, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}
}

func connect(t *testing.T, n network) *gemini.Backend {
	t.Helper()
	b, err := gemini.New(gemini.Config{URL: "https://gemini.example/v1beta/", APIKey: "AIza-secret", Transport: n, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func body(t *testing.T, r *http.Request) string {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func decode(t *testing.T, text string) *genai.GenerateContentRequest {
	t.Helper()
	var q genai.GenerateContentRequest
	if err := genai.Decode([]byte(text), &q); err != nil {
		t.Fatal(err)
	}
	return &q
}

func print(t *testing.T, v any) string {
	t.Helper()
	text, err := next.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func ask(text string) *backend.Request {
	return &backend.Request{Model: "m", Body: &genai.GenerateContentRequest{Contents: []genai.Content{{Parts: []genai.Part{genai.TextPart(text)}}}}}
}

const good = `{"candidates":[{"content":{"role":"model","parts":[{"text":"ok"}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":1,"totalTokenCount":2}}`

// TestEverythingPasses: a request arrives as the client sent it, but for its
// model, and so does the answer.
func TestEverythingPasses(t *testing.T) {
	const request = `{"contents":[{"role":"user","parts":[{"text":"a < b"},{"fileData":{"mimeType":"video/mp4","fileUri":"https://youtu.be/x"},"videoMetadata":{"fps":2}}]}],` +
		`"tools":[{"googleSearch":{"timeRangeFilter":{}}},{"newTool":{}}],"safetySettings":[{"category":"C","threshold":"OFF"}],` +
		`"generationConfig":{"thinkingConfig":{"thinkingBudget":0},"speechConfig":{"languageCode":"de"},"imageConfig":{"imageSize":"2K"},"mediaResolution":"MEDIA_RESOLUTION_HIGH"},"serviceTier":"flex"}`
	const answer = `{"candidates":[{"content":{"role":"model","parts":[{"text":"c","thoughtSignature":"c2ln"}]},"finishReason":"STOP","index":0,` +
		`"safetyRatings":[{"category":"C","probability":"LOW"}],"groundingMetadata":{"webSearchQueries":["q"]},"citationMetadata":{"citationSources":[{"uri":"https://a.example/"}]},` +
		`"avgLogprobs":-0.1,"logprobsResult":{"chosenCandidates":[{"token":"c"}]}}],"usageMetadata":{"promptTokenCount":1,"totalTokenCount":2,"toolUsePromptTokenCount":1},"modelStatus":{}}`
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		if got := r.Method + " " + r.URL.String(); got != "POST https://gemini.example/v1beta/models/gemini-x:generateContent" {
			t.Error(got)
		}
		if r.Header.Get("X-Goog-Api-Key") != "AIza-secret" || r.Header.Get("Authorization") != "" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("headers: %v", r.Header)
		}
		if d := cmp.Diff(request, body(t, r)); d != "" {
			t.Errorf("the request (-want +got):\n%s", d)
		}
		return reply(200, answer), nil
	})
	q := decode(t, request)
	q.Model = "models/as-the-client-knows-it"
	got, err := b.Generate(t.Context(), &backend.Request{Model: "gemini-x", Body: q})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(answer, print(t, got)); d != "" {
		t.Errorf("the answer (-want +got):\n%s", d)
	}
	if q.Model == "" {
		t.Error("the caller's request was changed")
	}
}

func rpc(code int, status, message, details string) string {
	return fmt.Sprintf(`{"error":{"code":%d,"message":%q,"status":%q,"details":[%s]}}`, code, message, status, details)
}

const (
	retryInfo  = `{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"7s"}`
	badKey     = `{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}`
	quotaError = `{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"x"}]}`
)

// TestRetries runs in a bubble where waiting takes no time.
func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		answers  []*http.Response
		min, max time.Duration
		kind     backend.Kind // "" if it succeeds.
		calls    int32
	}{
		"429 with RetryInfo":     {[]*http.Response{reply(429, rpc(429, "RESOURCE_EXHAUSTED", "slow", quotaError+","+retryInfo)), reply(200, good)}, 7 * time.Second, 7 * time.Second, "", 2},
		"429 with the header":    {[]*http.Response{reply(429, rpc(429, "RESOURCE_EXHAUSTED", "slow", retryInfo), "Retry-After", "9"), reply(200, good)}, 9 * time.Second, 9 * time.Second, "", 2},
		"503 without":            {[]*http.Response{reply(503, ``), reply(500, ``), reply(200, good)}, 750 * time.Millisecond, 2250 * time.Millisecond, "", 3},
		"too long a wait":        {[]*http.Response{reply(429, `{}`, "Retry-After", "3600")}, 0, 0, backend.RateLimited, 1},
		"never better":           {[]*http.Response{reply(503, rpc(503, "UNAVAILABLE", "overloaded", ""))}, time.Second, 6 * time.Second, backend.Unavailable, 4},
		"bad request":            {[]*http.Response{reply(400, rpc(400, "INVALID_ARGUMENT", "no such field", ""))}, 0, 0, backend.InvalidRequest, 1},
		"bad key":                {[]*http.Response{reply(400, rpc(400, "INVALID_ARGUMENT", "API key not valid: AIza-secret", badKey))}, 0, 0, backend.Unauthorized, 1},
		"no such model":          {[]*http.Response{reply(404, rpc(404, "NOT_FOUND", "models/m is not found", ""))}, 0, 0, backend.ModelNotFound, 1},
		"the request took long":  {[]*http.Response{reply(504, rpc(504, "DEADLINE_EXCEEDED", "too long", ""))}, 0, 0, backend.Timeout, 1},
		"a file that is missing": {[]*http.Response{reply(403, rpc(403, "PERMISSION_DENIED", "You do not have permission to access the File x or it may not exist.", ""))}, 0, 0, backend.InvalidRequest, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				b := connect(t, func(*http.Request) (*http.Response, error) {
					a := *c.answers[min(int(calls.Add(1)), len(c.answers))-1]
					return &a, nil
				})
				begin := time.Now()
				_, err := b.Generate(t.Context(), ask("hi"))
				if took := time.Since(begin); took < c.min || took > c.max {
					t.Errorf("took %s, want %s to %s", took, c.min, c.max)
				}
				var e *backend.Error
				if c.kind == "" && err != nil || c.kind != "" && (!errors.As(err, &e) || e.Kind != c.kind) {
					t.Errorf("got %v, want %q", err, c.kind)
				}
				if err != nil && strings.Contains(err.Error(), "AIza-secret") {
					t.Errorf("the key leaks: %v", err)
				}
				if calls.Load() != c.calls {
					t.Errorf("%d calls, want %d", calls.Load(), c.calls)
				}
			})
		})
	}
}

// TestRowsAreNotRepeated: the runner of a batch does that.
func TestRowsAreNotRepeated(t *testing.T) {
	calls := 0
	b := connect(t, func(*http.Request) (*http.Response, error) {
		calls++
		return reply(503, ``), nil
	})
	q := ask("hi")
	q.Turn.Batch = "x"
	if _, err := b.Generate(t.Context(), q); backend.AsError(err).Kind != backend.Unavailable || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestStatus(t *testing.T) {
	for status, want := range map[int]backend.Kind{
		400: backend.InvalidRequest, 401: backend.Unauthorized, 403: backend.Unauthorized, 404: backend.ModelNotFound, 408: backend.Unavailable, 409: backend.InvalidRequest,
		413: backend.InvalidRequest, 429: backend.RateLimited, 499: backend.Unavailable, 500: backend.Internal, 501: backend.Internal, 502: backend.Unavailable,
		503: backend.Unavailable, 504: backend.Unavailable,
	} {
		const words = "Its own words, see https://gemini.example/help?key=AIza-secret and gemini.example"
		b := connect(t, func(*http.Request) (*http.Response, error) { return reply(status, rpc(status, "X", words, "")), nil })
		q := ask("hi")
		q.Turn.Batch = "no further tries"
		_, err := b.Generate(t.Context(), q)
		e := backend.AsError(err)
		if e.Kind != want {
			t.Errorf("%d: got %s, want %s", status, e.Kind, want)
		}
		if told := strings.Contains(e.Message, "Its own words, see [address] and [address]"); told == (want == backend.Unauthorized) {
			t.Errorf("%d: the caller is told %q", status, e.Message)
		}
		for _, secret := range []string{"AIza-secret", "gemini.example"} {
			if strings.Contains(e.Error(), secret) {
				t.Errorf("%d: %q is in %q", status, secret, e.Error())
			}
		}
	}
	for text, want := range map[string]string{`[{"error":{"message":"in a list"}}]`: "400: in a list", `<html>`: "400: Bad Request", `{"error":{}}`: "400: Bad Request", ``: "400: Bad Request", `[]`: "400: Bad Request"} {
		b := connect(t, func(*http.Request) (*http.Response, error) { return reply(400, text), nil })
		if _, err := b.Generate(t.Context(), ask("hi")); !strings.HasSuffix(backend.AsError(err).Message, want) {
			t.Errorf("%s: the caller is told %v", text, err)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := connect(t, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		begin := time.Now()
		if _, err := b.Generate(t.Context(), ask("hi")); backend.AsError(err).Kind != backend.Timeout || time.Since(begin) != time.Minute {
			t.Errorf("got %v after %s", err, time.Since(begin))
		}
		reason := errors.New("cancelled by its owner")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer time.AfterFunc(3*time.Second, func() { cancel(reason) }).Stop()
		if _, err := b.Generate(ctx, ask("hi")); !errors.Is(err, reason) {
			t.Errorf("got %v", err)
		}
	})
	b := connect(t, func(*http.Request) (*http.Response, error) { return nil, errors.New("dial tcp: refused") })
	q := ask("hi")
	q.Turn.Batch = "no further tries"
	if _, err := b.Generate(t.Context(), q); backend.AsError(err).Kind != backend.Unavailable || strings.Contains(err.Error(), "gemini.example") {
		t.Errorf("got %v", err)
	}
}

func TestBrokenAnswers(t *testing.T) {
	for name, text := range map[string]string{"not JSON": `<html>`, "nothing": `{}`, "usage alone": `{"usageMetadata":{"promptTokenCount":1,"totalTokenCount":1}}`} {
		b := connect(t, func(*http.Request) (*http.Response, error) { return reply(200, text), nil })
		if _, err := b.Generate(t.Context(), ask("hi")); backend.AsError(err).Kind != backend.Internal {
			t.Errorf("%s: got %v", name, err)
		}
	}
	b := connect(t, func(*http.Request) (*http.Response, error) {
		return reply(200, `{"promptFeedback":{"blockReason":"SAFETY"}}`), nil
	})
	if r, err := b.Generate(t.Context(), ask("hi")); err != nil || r.PromptFeedback.BlockReason != "SAFETY" {
		t.Errorf("a prompt that is blocked: %+v, %v", r, err)
	}
}

// TestModelNames: what a client calls a model does not lead to another method.
func TestModelNames(t *testing.T) {
	var asked string
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		asked = r.URL.EscapedPath()
		return reply(200, good), nil
	})
	for model, want := range map[string]string{
		"gemini-2.5-flash": "/v1beta/models/gemini-2.5-flash:generateContent", "models/x": "/v1beta/models/x:generateContent", "tunedModels/x": "/v1beta/tunedModels/x:generateContent",
		"org/name": "/v1beta/models/org/name:generateContent", "a b?c#d": "/v1beta/models/a%20b%3Fc%23d:generateContent",
		"../files": "", "a/../../files": "", "": "", "a//b": "", ".": "",
	} {
		asked = ""
		q := ask("hi")
		q.Model = model
		_, err := b.Generate(t.Context(), q)
		if asked != want || want == "" && backend.AsError(err).Kind != backend.ModelNotFound {
			t.Errorf("%q: asked %q, %v", model, asked, err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for _, u := range []string{"localhost:8000", "ftp://x", "http://", "https://user:pass@x", "https://x?key=k"} {
		if _, err := gemini.New(gemini.Config{URL: u, APIKey: "k"}); err == nil || strings.Contains(err.Error(), "pass") {
			t.Errorf("%q: %v", u, err)
		}
	}
	if _, err := gemini.New(gemini.Config{}); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("no key: %v", err)
	}
}

func TestStreams(t *testing.T) {
	const piece, end = "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"he\"}]}}],\"usageMetadata\":{\"promptTokenCount\":1,\"totalTokenCount\":2}}",
		"data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"llo\"}]},\"finishReason\":\"STOP\",\"safetyRatings\":[]}]"
	for name, c := range map[string]struct {
		events string
		chunks int
		kind   backend.Kind
		last   string // A part of the last chunk.
	}{
		"as Google sends it": {piece + "\r\n\r\n" + end + ",\"usageMetadata\":{\"promptTokenCount\":1,\"totalTokenCount\":9}}\r\n\r\n", 2, "", `"totalTokenCount":9`},
		"usage at the end":   {piece + "\n\n" + end + "}\n\ndata: {\"usageMetadata\":{\"promptTokenCount\":1,\"totalTokenCount\":7}}\n\n", 2, "", `"totalTokenCount":7`},
		"usage before":       {piece + "\n\n" + end + "}\n\n", 2, "", `"totalTokenCount":2`},
		"two candidates":     {end + "}\n\ndata: {\"candidates\":[{\"index\":1,\"finishReason\":\"SAFETY\"}]}\n\n", 2, "", `"SAFETY"`},
		"no blank lines":     {piece + "\n" + end + "}", 2, "", `"safetyRatings":[]`},
		"others' additions":  {": ping\nevent: message\nid: 1\n" + end + "}\n\ndata: [DONE]\n\n", 1, "", "llo"},
		"a blocked prompt":   {"data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\",\"x\":1}}\n\n", 1, "", `"x":1`},
		"cut off":            {piece + "\n\n", 1, backend.Unavailable, ""},
		"empty":              {"", 0, backend.Unavailable, ""},
		"an error inside":    {piece + "\n\ndata: {\"error\":{\"code\":503,\"message\":\"overloaded\",\"status\":\"UNAVAILABLE\"}}\n\n", 1, backend.Unavailable, ""},
		"a limit inside":     {"data: {\"error\":{\"code\":429,\"message\":\"m\",\"status\":\"RESOURCE_EXHAUSTED\"}}\n\n", 0, backend.RateLimited, ""},
		"not JSON":           {"data: {\n\n", 0, backend.Internal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := connect(t, func(r *http.Request) (*http.Response, error) {
				if r.URL.RequestURI() != "/v1beta/models/m:streamGenerateContent?alt=sse" {
					t.Error(r.URL)
				}
				return reply(200, c.events), nil
			})
			var kind backend.Kind
			var last *genai.GenerateContentResponse
			chunks := 0
			for chunk, err := range b.Stream(t.Context(), ask("hi")) {
				if err != nil {
					kind = backend.AsError(err).Kind
					continue
				}
				chunks++
				last = chunk
			}
			if kind != c.kind || chunks != c.chunks {
				t.Errorf("got %d chunks, %q", chunks, kind)
			}
			if c.last != "" && !strings.Contains(print(t, last), c.last) {
				t.Errorf("the last chunk: %s", print(t, last))
			}
		})
	}
	// Whoever has heard enough may leave, and a connection may break.
	b := connect(t, func(*http.Request) (*http.Response, error) {
		r := reply(200, "")
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(piece+"\n\n"), broken{}))
		return r, nil
	})
	for range b.Stream(t.Context(), ask("hi")) {
		break
	}
	var err error
	for _, err = range b.Stream(t.Context(), ask("hi")) {
	}
	if backend.AsError(err).Kind != backend.Unavailable {
		t.Errorf("a broken connection: %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestEmbed(t *testing.T) {
	answer := `{"embeddings":[{"values":[0.25,-1]}]}`
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		want := `{"requests":[{"model":"models/e","content":{"parts":[{"text":"twelve bytes"}]},"taskType":"RETRIEVAL_QUERY","title":"t","outputDimensionality":2,"autoTruncate":true}]}`
		if d := cmp.Diff(want, body(t, r)); d != "" || r.URL.Path != "/v1beta/models/e:batchEmbedContents" {
			t.Errorf("%s (-want +got):\n%s", r.URL, d)
		}
		return reply(200, answer), nil
	})
	var q genai.EmbedContentRequest
	if err := genai.Decode([]byte(`{"content":{"parts":[{"text":"twelve bytes"}]},"taskType":"RETRIEVAL_QUERY","title":"t","outputDimensionality":2,"autoTruncate":true}`), &q); err != nil {
		t.Fatal(err)
	}
	for text, tokens := range map[string]int{answer: 3, `{"embeddings":[{"values":[0.25,-1]}],"usageMetadata":{"promptTokenCount":5}}`: 5} {
		answer = text
		e, err := b.Embed(t.Context(), &backend.EmbedRequest{Model: "e", Body: &q})
		if err != nil || !cmp.Equal(e, &backend.Embedding{Values: []float32{0.25, -1}, Tokens: tokens}) {
			t.Errorf("got %+v, %v", e, err)
		}
	}
	answer = `{"embeddings":[]}`
	if _, err := b.Embed(t.Context(), &backend.EmbedRequest{Model: "e", Body: &q}); backend.AsError(err).Kind != backend.Internal {
		t.Errorf("got %v", err)
	}
}

func TestCountAndList(t *testing.T) {
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		switch r.URL.RequestURI() {
		case "/v1beta/models/m:countTokens":
			if got := body(t, r); got != `{"generateContentRequest":{"model":"models/m","contents":[{"parts":[{"text":"hi"}]}]}}` {
				t.Error(got)
			}
			return reply(200, `{"totalTokens":31}`), nil
		case "/v1beta/models?pageSize=1000":
			return reply(200, `{"models":[{"name":"models/a","thinking":true}],"nextPageToken":"p&q"}`), nil
		case "/v1beta/models?pageSize=1000&pageToken=p%26q":
			return reply(200, `{"models":[{"name":"models/b"}]}`), nil
		}
		return reply(404, ``), nil
	})
	if n, err := b.CountTokens(t.Context(), ask("hi")); err != nil || n != 31 {
		t.Errorf("got %d, %v", n, err)
	}
	models, err := b.Models(t.Context())
	if err != nil || print(t, models) != `[{"name":"models/a","thinking":true},{"name":"models/b"}]` {
		t.Errorf("got %s, %v", print(t, models), err)
	}
}

func FuzzStream(f *testing.F) {
	f.Add([]byte("data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\r\n\r\ndata: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{}}\n\n"))
	f.Add([]byte("data: {\"error\":{\"code\":8,\"details\":[{\"@type\":\"google.rpc.RetryInfo\",\"retryDelay\":\"1s\"}]}}\n\n"))
	f.Add([]byte("data:{\"promptFeedback\":{}}"))
	f.Fuzz(func(t *testing.T, events []byte) {
		b := connect(t, func(*http.Request) (*http.Response, error) { return reply(200, string(events)), nil })
		ended, chunks := false, 0
		var last *genai.GenerateContentResponse
		for chunk, err := range b.Stream(t.Context(), ask("hi")) {
			if ended {
				t.Fatal("something came after the end")
			}
			if ended = err != nil; ended {
				continue
			}
			if len(chunk.Candidates) == 0 && chunk.PromptFeedback == nil {
				t.Fatalf("an empty chunk of %q", events)
			}
			if text, err := next.Marshal(chunk); err != nil || !json.Valid(text) {
				t.Fatalf("a chunk of %q can't be passed on: %v", events, err)
			}
			last = chunk
			chunks++
		}
		if !ended && (last == nil || last.PromptFeedback == nil && last.Candidates[0].FinishReason == "" && len(last.Candidates) == 1) {
			t.Fatalf("%q ended well after %d chunks, the last %+v", events, chunks, last)
		}
	})
}
