package gemini_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/gemini"
	"ringback.dev/internal/genai"
)

// shelf is a VideoOutput that keeps everything.
type shelf struct {
	videos []*video
	notes  []string
	refuse error // To note.
}

type video struct {
	bytes.Buffer
	mimeType string
	closed   bool
}

func (v *video) Close() error { v.closed = true; return nil }

func (s *shelf) Create(_ context.Context, mimeType string) (io.WriteCloser, error) {
	s.videos = append(s.videos, &video{mimeType: mimeType})
	return s.videos[len(s.videos)-1], nil
}

func (s *shelf) Note(_ context.Context, text []byte) error {
	s.notes = append(s.notes, string(text))
	return s.refuse
}

func (s *shelf) Progress(int) {}

func TestVideoRequest(t *testing.T) {
	var asked string
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		asked = r.Method + " " + r.URL.Path + " " + body(t, r)
		return reply(400, rpc(400, "INVALID_ARGUMENT", "not today", "")), nil
	})
	yes, seed := true, int64(0)
	picture := &genai.Blob{MimeType: "image/png", Data: "aGk="}
	_, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "veo", Prompt: "a cat", NegativePrompt: "dog", Image: picture, LastFrame: picture,
		Video: &genai.Blob{MimeType: "video/mp4", Data: "AA=="}, References: []backend.VideoReference{{Image: picture, Type: "ASSET"}}, Count: 2, DurationSeconds: 8,
		AspectRatio: "16:9", Resolution: "720p", PersonGeneration: "allow_all", EnhancePrompt: &yes, Seed: &seed}, &shelf{})
	if backend.AsError(err).Kind != backend.InvalidRequest {
		t.Error(err)
	}
	const image = `{"bytesBase64Encoded":"aGk=","mimeType":"image/png"}`
	want := `POST /v1beta/models/veo:predictLongRunning {"instances":[{"prompt":"a cat","image":` + image + `,"lastFrame":` + image + `,"referenceImages":[{"image":` + image +
		`,"referenceType":"ASSET"}],"video":{"encodedVideo":"AA==","encoding":"video/mp4"}}],"parameters":{"sampleCount":2,"durationSeconds":8,"aspectRatio":"16:9","resolution":"720p",` +
		`"personGeneration":"allow_all","negativePrompt":"dog","enhancePrompt":true,"seed":0}}`
	if d := cmp.Diff(want, asked); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// studio makes videos: it is asked some times before they are done.
type studio struct {
	*store
	t      *testing.T
	starts int
	looks  int
	done   string        // The operation when it is done.
	after  int           // Looks before that.
	refuse map[int]error // Looks that fail, by number.
}

func (s *studio) RoundTrip(r *http.Request) (*http.Response, error) {
	switch r.URL.Path {
	case "/v1beta/models/veo:predictLongRunning":
		s.starts++
		return reply(200, `{"name":"models/veo/operations/op1"}`), nil
	case "/v1beta/models/veo/operations/op1":
		s.looks++
		switch {
		case s.refuse[s.looks] != nil:
			return nil, s.refuse[s.looks]
		case s.looks <= s.after:
			return reply(200, `{"name":"models/veo/operations/op1","metadata":{}}`), nil
		}
		return reply(200, s.done), nil
	}
	return s.store.RoundTrip(r)
}

func newStudio(t *testing.T, response string) (*studio, *gemini.Backend) {
	t.Helper()
	s := &studio{t: t, done: response, store: &store{t: t, files: make(map[string][]byte), trouble: func(*http.Request) int { return -1 }}}
	b, err := gemini.New(gemini.Config{URL: "https://gemini.example", APIKey: "k", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

const twoVideos = `{"name":"models/veo/operations/op1","done":true,"response":{"@type":"x","generateVideoResponse":{"generatedSamples":[` +
	`{"video":{"uri":"https://generativelanguage.googleapis.com/v1beta/files/one1:download?alt=media"}},{"video":{"uri":"http://gemini.example/v1beta/files/two2:download?alt=media","encoding":"video/mp4"}}],` +
	`"raiMediaFilteredCount":1,"raiMediaFilteredReasons":["a face, see https://x.example"]}}}`

// TestMakeVideos: waited for, more and more patiently and although the API is away
// for a while, and fetched over connections that break.
func TestMakeVideos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newStudio(t, twoVideos)
		s.files["files/one1"], s.files["files/two2"] = content(3_000_000), content(5_000)
		s.after, s.refuse = 20, map[int]error{3: io.ErrUnexpectedEOF, 4: io.ErrUnexpectedEOF}
		breaks := 0
		s.trouble = func(*http.Request) int {
			if breaks++; breaks < 3 {
				return 999_998
			}
			return -1
		}
		out := &shelf{}
		begin := time.Now()
		res, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "veo", Prompt: "a cat", Count: 2}, out)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(&backend.VideoResult{Filtered: 1, FilteredReasons: []string{"a face, see [address]"}}, res); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if s.starts != 1 || s.looks != 21 || time.Since(begin) < time.Minute || time.Since(begin) > 5*time.Minute {
			t.Errorf("%d starts, %d looks in %s", s.starts, s.looks, time.Since(begin))
		}
		if len(out.notes) != 1 || !strings.Contains(out.notes[0], `"models/veo/operations/op1"`) {
			t.Errorf("notes %q", out.notes)
		}
		for i, want := range []struct{ file, mimeType string }{{"files/one1", "video/webm"}, {"files/two2", "video/mp4"}} {
			v := out.videos[i]
			if !v.closed || v.mimeType != want.mimeType || !bytes.Equal(v.Bytes(), s.files[want.file]) {
				t.Errorf("video %d: closed %v, %s, %d bytes", i, v.closed, v.mimeType, v.Len())
			}
		}

		// A further run of the same job waits for the same operation.
		s.looks = 0
		again := &shelf{}
		if _, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "veo", Prompt: "a cat", Count: 2, Checkpoint: []byte(out.notes[0])}, again); err != nil || s.starts != 1 || len(again.videos) != 2 {
			t.Errorf("%v, %d starts, %d videos", err, s.starts, len(again.videos))
		}
	})
}

// TestVideoIsNoted: before anything else is asked.
func TestVideoIsNoted(t *testing.T) {
	s, b := newStudio(t, twoVideos)
	full := errors.New("the disk is full")
	if _, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "veo", Prompt: "x"}, &shelf{refuse: full}); err != full || s.looks != 0 {
		t.Errorf("%v, %d looks", err, s.looks)
	}
}

func TestVideoEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for response, want := range map[string]backend.Kind{
			`{"done":true,"error":{"code":3,"message":"the prompt is not allowed"}}`: backend.InvalidRequest,
			`{"done":true,"error":{"code":8,"message":"no more today"}}`:             backend.RateLimited,
			`{"done":true,"error":{"code":13,"message":"x"}}`:                        backend.Internal,
			`{"done":true}`: backend.Internal,
			`{"done":true,"response":{"generateVideoResponse":{}}}`:                                                                                                                 backend.Internal,
			`{"done":true,"response":{"generateVideoResponse":{"raiMediaFilteredCount":1}}}`:                                                                                        "",
			`{"done":true,"response":{"generateVideoResponse":{"generatedSamples":[{"video":{}}]}}}`:                                                                                backend.Internal,
			`{"done":true,"response":{"generateVideoResponse":{"generatedSamples":[{"video":{"encodedVideo":"?"}}]}}}`:                                                              backend.Internal,
			fmt.Sprintf(`{"done":true,"response":{"generateVideoResponse":{"generatedSamples":[{"video":{"encodedVideo":%q}}]}}}`, base64.StdEncoding.EncodeToString([]byte("hi"))): "",
		} {
			_, b := newStudio(t, response)
			out := &shelf{}
			_, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "veo", Prompt: "x"}, out)
			if want == "" && err != nil || want != "" && backend.AsError(err).Kind != want {
				t.Errorf("%s: %v", response, err)
			}
			if strings.Contains(response, "allowed") && backend.AsError(err).Message != "the prompt is not allowed" {
				t.Errorf("the caller is told %v", err)
			}
			for _, v := range out.videos {
				if v.closed != (want == "") || v.closed && v.String() != "hi" {
					t.Errorf("%s: closed %v, %q", response, v.closed, v.String())
				}
			}
		}
	})
}

// TestVideoIsCancelled: whoever waits for a video is not held up.
func TestVideoIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newStudio(t, "")
		s.after = 1000
		reason := errors.New("cancelled by its owner")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer time.AfterFunc(33*time.Second, func() { cancel(reason) }).Stop()
		begin := time.Now()
		if _, err := b.MakeVideos(ctx, &backend.VideoRequest{Model: "veo", Prompt: "x"}, &shelf{}); !errors.Is(err, reason) || time.Since(begin) != 33*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		// One that never ends is given up.
		if _, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "veo", Prompt: "x"}, &shelf{}); backend.AsError(err).Kind != backend.Timeout || s.starts != 2 {
			t.Errorf("%v", err)
		}
	})
}

// TestVideoIsPaidOnce: without an answer it may have been begun.
func TestVideoIsPaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			answer *http.Response
			calls  int
		}{{nil, 1}, {reply(500, ""), 1}, {reply(504, ""), 1}, {reply(503, ""), 4}, {reply(429, ""), 4}} {
			calls := 0
			b := connect(t, func(*http.Request) (*http.Response, error) {
				calls++
				if c.answer == nil {
					return nil, io.ErrUnexpectedEOF
				}
				a := *c.answer
				return &a, nil
			})
			if _, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: "veo", Prompt: "x"}, &shelf{}); err == nil || calls != c.calls {
				t.Errorf("%v after %d calls, want %d", err, calls, c.calls)
			}
		}
	})
}
