package gemini_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/gemini"
	"ringback.dev/internal/genai"
)

// store is the part of the API that keeps files, with all that can go wrong.
type store struct {
	t     *testing.T
	files map[string][]byte
	name  string // Of the upload under way.
	bytes []byte
	// trouble is asked before each request of the bytes of a file; it returns how
	// many of them arrive before the connection breaks, -1 for all.
	trouble func(r *http.Request) int
	states  []string // Of the files, one for each time that one is asked for; then ACTIVE.
}

func (s *store) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("X-Goog-Api-Key") == "" {
		s.t.Error("a request without the key")
	}
	command := r.Header.Get("X-Goog-Upload-Command")
	switch {
	case command == "start":
		_, rest, _ := strings.Cut(body(s.t, r), `"name":"`)
		s.name, _, _ = strings.Cut(rest, `"`)
		if _, ok := s.files[s.name]; ok {
			return reply(409, rpc(409, "ALREADY_EXISTS", "the file exists", "")), nil
		}
		s.bytes = nil
		return reply(200, "", "X-Goog-Upload-Status", "active", "X-Goog-Upload-Url", "https://elsewhere.example/upload/v1beta/files?upload_id=u"), nil
	case command != "":
		if r.URL.String() != "https://gemini.example/upload/v1beta/files?upload_id=u" {
			s.t.Errorf("the upload goes to %s", r.URL)
		}
		if command == "query" {
			return reply(200, "", "X-Goog-Upload-Status", "active", "X-Goog-Upload-Size-Received", strconv.Itoa(len(s.bytes))), nil
		}
		if at := r.Header.Get("X-Goog-Upload-Offset"); at != strconv.Itoa(len(s.bytes)) {
			return reply(400, rpc(400, "INVALID_ARGUMENT", "not at "+at, "")), nil
		}
		data, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Fatal(err)
		}
		if n := s.trouble(r); n >= 0 {
			s.bytes = append(s.bytes, data[:min(n, len(data))]...)
			return nil, io.ErrUnexpectedEOF
		}
		s.bytes = append(s.bytes, data...)
		if !strings.Contains(command, "finalize") {
			return reply(200, "", "X-Goog-Upload-Status", "active"), nil
		}
		s.files[s.name] = s.bytes
		return reply(200, `{"file":{}}`, "X-Goog-Upload-Status", "final"), nil
	}
	name, download := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1beta/"), ":download")
	data, ok := s.files[name]
	switch {
	case !ok:
		return reply(404, rpc(404, "NOT_FOUND", "no such file", "")), nil
	case !download:
		state := "ACTIVE"
		if len(s.states) > 0 {
			state, s.states = s.states[0], s.states[1:]
		}
		return reply(200, `{"name":"x","state":"`+state+`"}`), nil
	}
	answer := reply(200, "", "Content-Type", "video/webm")
	if text := r.Header.Get("Range"); text != "" {
		var from int
		if _, err := fmt.Sscanf(text, "bytes=%d-", &from); err != nil {
			s.t.Errorf("range %q", text)
		}
		if from >= len(data) {
			return reply(416, ""), nil
		}
		if from%2 == 0 { // Odd ones are ignored, as some servers do.
			answer.StatusCode = 206
			answer.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			data = data[from:]
		}
	}
	answer.ContentLength = int64(len(data))
	answer.Body = io.NopCloser(bytes.NewReader(data))
	if n := s.trouble(r); n >= 0 {
		answer.Body = io.NopCloser(io.MultiReader(bytes.NewReader(data[:min(n, len(data))]), broken{}))
	}
	return answer, nil
}

// content is a text that is not the same anywhere.
func content(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = r.Read(b) // It never fails.
	return b
}

// TestFilesSurviveBreaks: connections break in the middle of uploads and downloads;
// what arrived is not sent again, and nothing is missing or there twice.
func TestFilesSurviveBreaks(t *testing.T) {
	for _, size := range []int{0, 1, 8 << 20, 20<<20 + 12345} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				s := &store{t: t, files: make(map[string][]byte), trouble: func(*http.Request) int {
					if calls++; calls%3 == 0 {
						return -1
					}
					return calls * 1_000_001
				}}
				b, err := gemini.New(gemini.Config{URL: "https://gemini.example", APIKey: "k", Transport: s})
				if err != nil {
					t.Fatal(err)
				}
				want := content(size)
				file, err := b.UploadRows(t.Context(), "rows1", bytes.NewReader(want))
				if err != nil || file != "files/rows1" || !bytes.Equal(s.files[file], want) {
					t.Fatalf("%q, %v, %d bytes", file, err, len(s.files[file]))
				}
				var got bytes.Buffer
				if err := b.BatchResults(t.Context(), file, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
					t.Fatalf("%v, %d bytes", err, got.Len())
				}
				// A file of that name is there: it stays.
				if file, err := b.UploadRows(t.Context(), "rows1", strings.NewReader("others")); err != nil || !bytes.Equal(s.files[file], want) {
					t.Errorf("uploaded again: %v", err)
				}
			})
		})
	}
}

// TestFilesGiveUp: what does not get better is an error that says what it is.
func TestFilesGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{t: t, files: map[string][]byte{"files/batch-1": content(100)}, trouble: func(*http.Request) int { return 0 }}
		b, err := gemini.New(gemini.Config{URL: "https://gemini.example", APIKey: "k", Transport: s})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.UploadRows(t.Context(), "rows1", strings.NewReader("x")); backend.AsError(err).Kind != backend.Unavailable {
			t.Errorf("upload: %v", err)
		}
		if err := b.BatchResults(t.Context(), "files/batch-1", io.Discard); backend.AsError(err).Kind != backend.Unavailable {
			t.Errorf("download: %v", err)
		}
		s.trouble = func(*http.Request) int { return -1 }
		if err := b.BatchResults(t.Context(), "files/none", io.Discard); backend.AsError(err).Kind != backend.ModelNotFound {
			t.Errorf("no such file: %v", err)
		}
		if err := b.BatchResults(t.Context(), "gs://bucket/x", io.Discard); backend.AsError(err).Kind != backend.Internal {
			t.Errorf("an address elsewhere: %v", err)
		}
		full := errors.New("the disk is full")
		if err := b.BatchResults(t.Context(), "files/batch-1", failing{full}); err != full {
			t.Errorf("the writer's error: %v", err)
		}
		s.states = []string{"PROCESSING", "PROCESSING", "FAILED"}
		if _, err := b.UploadRows(t.Context(), "rows3", strings.NewReader("x")); backend.AsError(err).Kind != backend.Internal || len(s.states) > 0 {
			t.Errorf("a file that is not taken in: %v", err)
		}
		torn := errors.New("the input can't be read")
		if _, err := b.UploadRows(t.Context(), "rows2", io.MultiReader(strings.NewReader("x"), failing{torn})); err != torn {
			t.Errorf("the reader's error: %v", err)
		}
	})
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
func (f failing) Read([]byte) (int, error)  { return 0, f.err }

// TestKeyStaysHere: a download that is sent to another host does not take the key
// along.
func TestKeyStaysHere(t *testing.T) {
	var hosts []string
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		if (r.Header.Get("X-Goog-Api-Key") != "") != (r.URL.Host == "gemini.example") {
			t.Errorf("%s got the key %q", r.URL.Host, r.Header.Get("X-Goog-Api-Key"))
		}
		hosts = append(hosts, r.URL.Host)
		switch len(hosts) {
		case 1:
			return reply(302, "", "Location", "/elsewhere"), nil
		case 2:
			return reply(302, "", "Location", "https://storage.example/x"), nil
		}
		return reply(200, "bytes"), nil
	})
	var got bytes.Buffer
	if err := b.BatchResults(t.Context(), "files/x", &got); err != nil || got.String() != "bytes" || len(hosts) != 3 {
		t.Errorf("%v, %q, %v", err, got.String(), hosts)
	}
}

func TestCreateBatch(t *testing.T) {
	var asked []string
	answer := reply(200, `{"name":"batches/b1"}`)
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.Method+" "+r.URL.Path+" "+body(t, r))
		return answer, nil
	})
	for _, batch := range []*backend.UpstreamBatch{
		{Model: "m", DisplayName: "d", File: "files/f"},
		{Model: "m", DisplayName: "d", File: "files/f", Embed: true, Priority: 5, Webhook: "https://here.example/x"},
	} {
		answer = reply(200, `{"name":"batches/b1"}`)
		if name, err := b.CreateBatch(t.Context(), batch); err != nil || name != "batches/b1" {
			t.Errorf("%q, %v", name, err)
		}
	}
	want := []string{`POST /v1beta/models/m:batchGenerateContent {"batch":{"displayName":"d","inputConfig":{"fileName":"files/f"}}}`,
		`POST /v1beta/models/m:asyncBatchEmbedContent {"batch":{"displayName":"d","inputConfig":{"file_name":"files/f"},"priority":"5","webhookConfig":{"uris":["https://here.example/x"]}}}`}
	if d := cmp.Diff(want, asked); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	// It may have been created: that is for the caller to find out.
	asked, answer = nil, reply(503, "")
	if _, err := b.CreateBatch(t.Context(), &backend.UpstreamBatch{Model: "m"}); backend.AsError(err).Kind != backend.Unavailable || len(asked) != 1 {
		t.Errorf("%v after %d calls", err, len(asked))
	}
	for _, name := range []string{"", "batches/", "batches/../files", "operations/x"} {
		answer = reply(200, `{"name":"`+name+`"}`)
		if _, err := b.CreateBatch(t.Context(), &backend.UpstreamBatch{Model: "m"}); err == nil {
			t.Errorf("a batch called %q was taken", name)
		}
	}
}

func TestFindBatch(t *testing.T) {
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	op := func(id, name string, age time.Duration) string {
		return fmt.Sprintf(`{"name":"batches/%s","metadata":{"displayName":%q,"createTime":%q}}`, id, name, now.Add(-age).Format(time.RFC3339Nano))
	}
	pages := 0
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		pages++
		switch r.URL.Query().Get("pageToken") {
		case "":
			return reply(200, `{"operations":[`+op("1", "other", time.Minute)+`,{"name":"batches/2","metadata":{}}],"nextPageToken":"n"}`), nil
		case "n":
			return reply(200, `{"operations":[`+op("3", "mine", 2*time.Minute)+`,`+op("4", "old", time.Hour)+`],"nextPageToken":"o"}`), nil
		}
		return reply(200, `{}`), nil
	})
	for name, want := range map[string]struct {
		found string
		pages int
	}{"mine": {"batches/3", 2}, "none": {"", 2}} {
		pages = 0
		found, err := b.FindBatch(t.Context(), name, now.Add(-10*time.Minute))
		if err != nil || found != want.found || pages != want.pages {
			t.Errorf("%s: %q, %v after %d pages", name, found, err, pages)
		}
	}
}

func TestBatchStatus(t *testing.T) {
	counts := ringback.RowCounts{Total: 3, Succeeded: 1, Failed: 1}
	const stats = `"batchStats":{"requestCount":"3","successfulRequestCount":"1","failedRequestCount":1}`
	for text, want := range map[string]*backend.UpstreamStatus{
		`{"metadata":{"state":"BATCH_STATE_RUNNING",` + stats + `},"done":false}`: {State: ringback.Running, Rows: counts},
		`{"metadata":{"state":"JOB_STATE_PENDING"}}`:                              {State: ringback.Pending},
		`{"metadata":{}}`: {State: ringback.Running},
		`{"metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"responsesFile":"files/batch-1"},` + stats + `},"done":true}`: {State: ringback.Completed, Rows: counts, Results: "files/batch-1"},
		`{"metadata":{},"done":true,"response":{"responsesFile":"files/x"}}`:                                                  {State: ringback.Completed, Results: "files/x"},
		`{"metadata":{"state":"BATCH_STATE_FAILED"},"done":true,"error":{"code":3,"message":"bad file https://x.example/y"}}`: {State: ringback.Failed, Failure: &ringback.Failure{Code: "INVALID_ARGUMENT", Message: "bad file [address]"}},
		`{"metadata":{"state":"BATCH_STATE_NEW"},"done":true,"error":{"code":99}}`:                                            {State: ringback.Failed, Failure: &ringback.Failure{Code: "INTERNAL", Message: "the back-end does not say why"}},
		`{"metadata":{"state":"BATCH_STATE_EXPIRED"},"done":true,"error":{"code":4,"message":"late"}}`:                        {State: ringback.Expired, Failure: &ringback.Failure{Code: "DEADLINE_EXCEEDED", Message: "late"}},
		`{"metadata":{"state":"BATCH_STATE_CANCELLED","output":{"responsesFile":"files/x"}},"done":true,"error":{"code":1}}`:  {State: ringback.Cancelled, Results: "files/x", Failure: &ringback.Failure{Code: "CANCELLED", Message: "the back-end does not say why"}},
		`{"metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"inlinedResponses":{"inlinedResponses":[{}]}}},"done":true}`:  {State: ringback.Completed},
	} {
		b := connect(t, func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/v1beta/batches/b1" {
				t.Error(r.URL)
			}
			return reply(200, text), nil
		})
		got, err := b.BatchStatus(t.Context(), "batches/b1")
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
}

func TestEndsOfBatches(t *testing.T) {
	var asked []string
	status := 200
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		return reply(status, `{}`), nil
	})
	if err := b.CancelBatch(t.Context(), "batches/b1"); err != nil {
		t.Error(err)
	}
	if err := b.RemoveBatch(t.Context(), "batches/b1", "files/in", "files/batch-b1", "", "../x"); err != nil {
		t.Error(err)
	}
	if err := b.RemoveBatch(t.Context(), "", "files/in"); err != nil {
		t.Error(err)
	}
	want := []string{"POST /v1beta/batches/b1:cancel", "DELETE /v1beta/batches/b1", "DELETE /v1beta/files/in", "DELETE /v1beta/files/batch-b1", "DELETE /v1beta/files/in"}
	if d := cmp.Diff(want, asked); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	status = 404
	if err := b.RemoveBatch(t.Context(), "batches/b1", "files/in"); err != nil {
		t.Errorf("what is gone: %v", err)
	}
	status = 400
	if err := b.CancelBatch(t.Context(), "batches/b1"); err != nil {
		t.Errorf("what has ended: %v", err)
	}
	status = 401
	if b.CancelBatch(t.Context(), "batches/b1") == nil || b.RemoveBatch(t.Context(), "batches/b1") == nil {
		t.Error("a refusal is no error")
	}
}

func TestRows(t *testing.T) {
	b := connect(t, nil)
	text, err := b.AppendRow(nil, &backend.UpstreamRow{Number: 7, Generate: decode(t, `{"model":"models/m","contents":[{"parts":[{"text":"<a>"}]}],"serviceTier":"flex"}`)})
	if err == nil {
		text, err = b.AppendRow(text, &backend.UpstreamRow{Number: 8, Embed: &genai.EmbedContentRequest{Model: "m", Content: &genai.Content{Parts: []genai.Part{genai.TextPart("x")}}, TaskType: "T"}})
	}
	want := `{"key":"7","request":{"contents":[{"parts":[{"text":"<a>"}]}],"serviceTier":"flex"}}` + "\n" + `{"key":"8","request":{"content":{"parts":[{"text":"x"}]},"taskType":"T"}}` + "\n"
	if d := cmp.Diff(want, string(text)); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for line, want := range map[string]*backend.UpstreamResult{
		`{"response":{"candidates":[],"x":1},"key":"7"}`:                       {Number: 7, Response: []byte(`{"candidates":[],"x":1}`)},
		`{"key":8,"error":{"code":3,"message":"bad http://a/b","details":[]}}`: {Number: 8, Error: &genai.RowError{Code: 3, Message: "bad [address]"}},
		`{"key":"9","error":{}}`:                                               {Number: 9, Error: &genai.RowError{Code: 2, Message: "the back-end does not say why"}},
		`{"key":"9"}`:                                                          {Number: 9, Error: &genai.RowError{Code: 13, Message: "the back-end's result is neither a response nor an error"}},
		`{"key":"9","response":null}`:                                          {Number: 9, Error: &genai.RowError{Code: 13, Message: "the back-end's result is neither a response nor an error"}},
	} {
		got, err := b.ReadResult([]byte(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
	}
	for _, line := range []string{``, `{`, `[]`, `{"response":{}}`, `{"key":"x"}`, `{"key":"-1"}`, `{"key":null}`, `{"key":{}}`} {
		if r, err := b.ReadResult([]byte(line)); err == nil {
			t.Errorf("%q was read: %+v", line, r)
		}
	}
}

func FuzzReadResult(f *testing.F) {
	f.Add([]byte(`{"response":{"candidates":[]},"key":"7"}`))
	f.Add([]byte(`{"key":8,"error":{"code":3,"message":"x"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		b, err := gemini.New(gemini.Config{APIKey: "AIza-secret"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.ReadResult(line)
		if err != nil {
			return
		}
		if r.Number < 0 || (r.Error == nil) == (r.Response == nil) || r.Error != nil && (r.Error.Code < 1 || r.Error.Message == "" || strings.Contains(r.Error.Message, "AIza-secret")) {
			t.Fatalf("%q was read as %+v", line, r)
		}
	})
}
