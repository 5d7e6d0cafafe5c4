package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

// events cuts a stream into its events, and makes sure of its end.
func (a answer) events() []string {
	a.t.Helper()
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "text/event-stream" {
		a.t.Fatalf("%s: got %d %s %s", a.what, a.status, a.header.Get("Content-Type"), a.body)
	}
	body, ok := strings.CutSuffix(a.body, genai.StreamEnd)
	if !ok {
		a.t.Fatalf("%s: the stream does not end with [DONE]: %s", a.what, a.body)
	}
	return strings.SplitAfter(strings.TrimSuffix(body, "\n\n"), "\n\n")
}

// goldenStream compares a stream with a file.
func (a answer) goldenStream(name string) answer {
	a.t.Helper()
	a.events()
	got := a.body
	for _, c := range changing {
		got = c.pattern.ReplaceAllString(got, c.name)
	}
	file := filepath.Join("testdata", name+".sse")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			a.t.Fatal(err)
		}
		return a
	}
	want, err := os.ReadFile(file)
	if err != nil {
		a.t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		a.t.Errorf("%s (-want +got):\n%s", a.what, d)
	}
	return a
}

const weather = `"tools":[{"type":"function","name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}]`

// Streams as they are sent to a client that waits.
func TestStreams(t *testing.T) {
	s := newServer(t)
	for name, body := range map[string]string{
		"stream_text":     `"model":"gemini-x","input":"say hello"`,
		"stream_thought":  `"model":"gemini-x","input":"think about it"`,
		"stream_call":     `"model":"gemini-x","input":"weather?",` + weather,
		"stream_cut":      `"model":"gemini-x","input":"cut it"`,
		"stream_failed":   `"model":"fail","input":"hi"`,
		"stream_budget":   `"model":"broke","input":"hi"`,
		"stream_blocked":  `"model":"gemini-x","input":"something bad"`,
		"stream_mismatch": `"model":"gemini-x","input":"not the schema","response_format":{"type":"object","properties":{"a":{"type":"integer"}}}`,
	} {
		for _, more := range []string{"", `,"background":true`, `,"store":false`} {
			s.do("POST", "/v1/interactions", "{"+body+`,"stream":true`+more+"}").goldenStream(name)
		}
	}
}

// Whoever resumes gets what comes after the event that it names, whatever that
// is; and one that was not created as a stream can be streamed, too.
func TestResume(t *testing.T) {
	s := newServer(t)
	for path, body := range map[string]string{"?alt=sse": `{"model":"gemini-x","input":"say hello"}`, "?stream=True": `{"model":"gemini-x","input":"say hello"}`} {
		if got := s.do("POST", "/v1/interactions"+path, body).events(); len(got) < 5 {
			t.Errorf("%s: %q", path, got)
		}
	}
	for _, body := range []string{
		`{"model":"gemini-x","input":"think about it","stream":true}`,
		`{"model":"gemini-x","input":"think about it","stream":true,"background":true}`,
		`{"model":"gemini-x","input":"think about it"}`,
		`{"model":"fail","input":"hi","stream":true}`,
		`{"model":"fail","input":"hi"}`,
	} {
		first := s.do("POST", "/v1/interactions", body)
		var id string
		if strings.Contains(body, "stream") {
			e, err := genai.ReadEvent([]byte(first.events()[0]))
			if err != nil {
				t.Fatal(err)
			}
			id = e.Interaction.ID
		} else {
			id = first.ok().field("id")
		}
		path := "/v1/interactions/" + id + "?stream=true"
		all := s.do("GET", path, "").events()
		if strings.Contains(body, "stream") {
			if d := cmp.Diff(first.events(), all); d != "" {
				t.Errorf("%s: got again (-first +again):\n%s", body, d)
			}
		}
		for i := range all {
			e, err := genai.ReadEvent([]byte(all[i]))
			if err != nil || e.ID != genai.EventID(int64(i+1)) {
				t.Fatalf("%s: event %d is %q, %v", body, i+1, all[i], err)
			}
			rest := s.do("GET", "/v1/interactions/"+id+"?alt=sse&lastEventId="+e.ID, "")
			if got := rest.body; got != strings.Join(all[i+1:], "")+"\n\n"[:min(2, 2*len(all[i+1:]))]+genai.StreamEnd {
				t.Errorf("%s after %s: got %q", body, e.ID, got)
			}
		}
	}
}

// reading is a stream that is read as it comes.
type reading struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
	body   io.Closer
}

func (s *server) open(method, path, body string) *reading {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Goog-Api-Key", s.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %s: %d", method, path, resp.StatusCode)
	}
	r := &reading{s.t.(*testing.T), bufio.NewScanner(resp.Body), cancel, resp.Body}
	s.t.Cleanup(r.close)
	return r
}

func (r *reading) close() {
	r.cancel()
	_ = r.body.Close() // It was cut off.
}

// next reads an event; nil at the end.
func (r *reading) next() *genai.InteractionEvent {
	r.t.Helper()
	for r.lines.Scan() {
		data, ok := strings.CutPrefix(r.lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var e genai.InteractionEvent
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			r.t.Fatal(err)
		}
		return &e
	}
	return nil
}

func (s *server) status(id string) string {
	s.t.Helper()
	return s.do("GET", "/v1/interactions/"+id, "").ok().field("status")
}

// A background stream outlives its client; a cancel ends it for all who follow.
func TestCancelWhileStreaming(t *testing.T) {
	s := newServer(t)
	first := s.open("POST", "/v1/interactions", `{"model":"slow","input":"hi","stream":true,"background":true}`)
	id := first.next().Interaction.ID
	<-s.asked
	first.close()
	follower := s.open("GET", "/v1/interactions/"+id+"?stream=true&last_event_id=e1", "")
	if e := follower.next(); e.Type != genai.EventStatus || e.InteractionID != id || e.Status != "in_progress" {
		t.Fatalf("got %+v", e)
	}
	if got := s.status(id); got != "in_progress" {
		t.Errorf("after the client left: %s", got)
	}
	s.do("POST", "/v1/interactions/"+id+"/cancel", "").ok()
	e := follower.next()
	if e == nil || e.Type != genai.EventCompleted || e.Interaction.Status != "cancelled" || follower.next() != nil {
		t.Errorf("after the cancel: got %+v", e)
	}
}

// Whoever has all there is so far is answered at once nevertheless: until then the
// SDKs give their callers no stream.
func TestFollowingWithoutNews(t *testing.T) {
	s := newServer(t)
	first := s.open("POST", "/v1/interactions", `{"model":"slow","input":"hi","stream":true,"background":true}`)
	id := first.next().Interaction.ID
	<-s.asked
	begin := time.Now()
	follower := s.open("GET", "/v1/interactions/"+id+"?stream=true&last_event_id=e2", "")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the headers came after %s", took)
	}
	s.do("POST", "/v1/interactions/"+id+"/cancel", "").ok()
	if e := follower.next(); e == nil || e.Type != genai.EventCompleted {
		t.Errorf("got %+v", e)
	}
}

// A client that waits for the answer cancels it by leaving.
func TestLeavingAStream(t *testing.T) {
	s := newServer(t)
	s.subscribe("interaction.cancelled")
	r := s.open("POST", "/v1/interactions", `{"model":"slow","input":"hi","stream":true}`)
	id := r.next().Interaction.ID
	<-s.asked
	r.close()
	<-s.told
	if got := s.status(id); got != string(ringback.Cancelled) {
		t.Errorf("after the client left: %s", got)
	}
}

// A follower of an interaction that is deleted is told so.
func TestDeleteWhileStreaming(t *testing.T) {
	s := newServer(t)
	r := s.open("POST", "/v1/interactions", `{"model":"slow","input":"hi","stream":true,"background":true}`)
	id := r.next().Interaction.ID
	<-s.asked
	r.next()
	s.do("DELETE", "/v1/interactions/"+id, "").ok()
	if e := r.next(); e == nil || e.Type != genai.EventError || e.Error.Code != "not_found" || r.next() != nil {
		t.Errorf("got %+v", e)
	}
}

// The same key gives the same stream.
func TestStreamIdempotency(t *testing.T) {
	s := newServer(t)
	const body = `{"model":"gemini-x","input":"say hello","stream":true}`
	post := func() answer {
		return s.send("POST", "/v1/interactions", http.Header{"X-Goog-Api-Key": {s.key}, "Idempotency-Key": {"k"}}, strings.NewReader(body))
	}
	if a, b := post(), post(); a.body != b.body || len(a.events()) < 5 {
		t.Errorf("first %q, then %q", a.body, b.body)
	}
	s.do("GET", "/v1/interactions/v1_none?stream=true", "").refused(404, "not_found", "v1_none")
}

// The bytes of a file reach the back-end.
func TestFilesAsContent(t *testing.T) {
	s := newServer(t)
	name := s.put("0123456789", "image/png")
	for _, uri := range []string{"https://ringback.example/v1beta/" + name, name, "http://h/prefix/v1/" + name + ":download?alt=media"} {
		got := s.create(`{"model":"gemini-x","input":[{"type":"text","text":"hi"},{"type":"image","uri":"` + uri + `"}]}`)
		if !strings.Contains(got.body, "It came with image/png, 10 bytes.") {
			t.Errorf("%s: %s", uri, got.body)
		}
	}
	got := s.do("POST", "/v1/models/gemini-x:generateContent", `{"contents":[{"parts":[{"fileData":{"fileUri":"`+name+`","mimeType":"image/webp"}}]}]}`).ok()
	if !strings.Contains(got.body, "image/webp, 10 bytes") {
		t.Errorf("%s", got.body)
	}
	for uri, hint := range map[string]string{"files/none": "there is no file", s.put(strings.Repeat("x", 1<<20+1), "image/png"): "--max-request-bytes"} {
		got := s.create(`{"model":"gemini-x","input":[{"type":"image","uri":"` + uri + `"}]}`)
		if got.field("status") != "failed" || !strings.Contains(got.body, hint) {
			t.Errorf("%s: %s", uri, got.body)
		}
	}
	got = s.create(`{"model":"gemini-x","input":[{"type":"video","uri":"https://youtu.be/x"}]}`)
	if !strings.Contains(got.body, "It pointed to a file, which was not looked at.") {
		t.Errorf("%s", got.body)
	}
}
