package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genai"
	"google.golang.org/genai/interactions/models/interactions"
	"google.golang.org/genai/interactions/models/operations"
	"google.golang.org/genai/interactions/types/stream"
)

// The streams that the wire contract describes are in testdata/*.sse. Here no
// ringback runs: they are served byte for byte, to learn what the SDKs make of
// them. Each SDK must yield all events, whole, and know the type of each.

// transcripts are those of testdata, with the number of events.
var transcripts = map[string]int{
	"text": 11, "function_call": 5, // As in the contract.
	"parallel_calls": 11, "failed": 6, "cancelled": 5,
	"odd_text":  7,  // What text can hold, and an event larger than a parser's buffer.
	"heartbeat": 11, // The events of text, with comments and an id line between and within them.
	"kinds":     23, // Deltas of other types, and usage wherever it may stand.
}

// reading is one way to read a transcript, which every SDK is told to go.
type reading struct {
	// Name is the transcript, and after a dot how it is sent; see replay.
	Name string `json:"name"`
	// How is "create" or "get"; After is given as last_event_id. "broken" creates,
	// loses the connection, and gets what it has not seen yet.
	How   string `json:"how"`
	After string `json:"after,omitempty"`
}

// heard is what an SDK made of it: the events, printed again as JSON, and the
// error at the end, if any.
type heard struct {
	Events []any  `json:"events"`
	Error  string `json:"error"`
}

func readings() []reading {
	var all []reading
	for name := range transcripts {
		all = append(all, reading{Name: name, How: "create"}, reading{Name: name, How: "get"}, reading{Name: name + ".crlf", How: "create"},
			reading{Name: name + ".bytes", How: "get"}, reading{Name: name + ".crlf-bytes", How: "create"}, reading{Name: name + ".torn", How: "broken"})
	}
	for i := range transcripts["text"] {
		all = append(all, reading{Name: "text", How: "get", After: fmt.Sprintf("e%d", i+1)})
	}
	return append(all, reading{Name: "text.unfinished", How: "create"}, reading{Name: "text.unfinished", How: "get", After: "e3"})
}

func transcript(t *testing.T, name string) []byte {
	t.Helper()
	return must[[]byte](t)(os.ReadFile(filepath.Join("testdata", name+".sse")))
}

// events reads a transcript without any SDK.
func events(t *testing.T, data []byte) []any {
	t.Helper()
	all := []any{}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "data: "); ok && strings.TrimSpace(text) != "[DONE]" {
			all = append(all, decode[any](t, text))
		}
	}
	return all
}

// after cuts off what comes until an event.
func after(data []byte, id string) []byte {
	if id == "" {
		return data
	}
	_, data, _ = bytes.Cut(data, []byte(`"event_id":"`+id+`"`))
	_, data, _ = bytes.Cut(data, []byte("\n\n"))
	return data
}

// replay serves transcripts: those with .crlf with the other line ends, .bytes in
// as many pieces as there are bytes, .torn until the connection breaks within an
// event, .unfinished without the last event, which is [DONE].
func replay(t *testing.T) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, streamed := path.Base(r.URL.Path), r.URL.Query().Get("stream") == "true"
		if r.Method == http.MethodPost {
			var body struct {
				Model  string
				Stream bool
			}
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			name, streamed = body.Model, body.Stream
		}
		name, manner, _ := strings.Cut(name, ".")
		data, err := os.ReadFile(filepath.Join("testdata", path.Base(name)+".sse"))
		if err != nil || !streamed {
			t.Errorf("%s %s: no stream was asked for, or there is none (%v)", r.Method, r.URL, err)
			http.Error(w, "{}", http.StatusBadRequest)
			return
		}
		data = after(data, r.URL.Query().Get("last_event_id"))
		pieces := bytes.SplitAfter(data, []byte("\n\n"))
		switch manner {
		case "torn":
			pieces = [][]byte{data[:len(data)*2/3]}
		case "unfinished":
			data, _, _ = bytes.Cut(data, []byte("event: done"))
			pieces = [][]byte{data}
		case "crlf", "crlf-bytes":
			data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
			pieces = bytes.SplitAfter(data, []byte("\r\n\r\n"))
		}
		if strings.HasSuffix(manner, "bytes") {
			pieces = slices.Collect(slices.Chunk(data, 1))
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, p := range pieces {
			_, _ = w.Write(p)
			_ = http.NewResponseController(w).Flush()
		}
		if manner == "torn" {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// alike checks what an SDK made of all readings. strict tells that it is an error
// for it when a stream ends without [DONE].
func alike(t *testing.T, sdk string, strict bool, all []reading, got []heard) {
	t.Helper()
	if len(got) != len(all) {
		t.Fatalf("%s: %d answers to %d readings", sdk, len(got), len(all))
	}
	n := 0
	for i, r := range all {
		name, manner, _ := strings.Cut(r.Name, ".")
		want := events(t, after(transcript(t, name), r.After))
		if len(want) != transcripts[name] && r.After == "" {
			t.Errorf("%s has %d events", name, len(want))
		}
		n += len(got[i].Events)
		for k := range max(len(want), len(got[i].Events)) {
			if k >= len(want) || k >= len(got[i].Events) || !reflect.DeepEqual(want[k], got[i].Events[k]) {
				t.Errorf("%s: %+v: event %d of %d:\n got %s\nwant %s", sdk, r, k+1, len(want), nth(got[i].Events, k), nth(want, k))
				break
			}
		}
		if failed := manner == "torn" || manner == "unfinished" && strict; failed != (got[i].Error != "") {
			t.Errorf("%s: %+v: error %q, want one: %v", sdk, r, got[i].Error, failed)
		}
	}
	if n == 0 {
		t.Errorf("%s: no event was read", sdk)
	}
	fmt.Printf("e2e transcripts %s: %d readings, %d events alike\n", sdk, len(all), n)
}

func nth(events []any, k int) string {
	if k >= len(events) {
		return "nothing"
	}
	text, _ := json.Marshal(events[k])
	return string(text)
}

func TestTranscriptsJavaScript3(t *testing.T) { javaScriptTranscripts(t, "genai3") }
func TestTranscriptsJavaScript2(t *testing.T) { javaScriptTranscripts(t, "genai2") }

func javaScriptTranscripts(t *testing.T, release string) {
	all := readings()
	out := runner(t, jsFolder(t, release, "js/transcripts.mjs"), env(&server{URL: replay(t).URL}), node(t), "transcripts.mjs", marshal(t, all))
	alike(t, release, false, all, decode[[]heard](t, out))
}

func TestTranscriptsPython3(t *testing.T) { pythonTranscripts(t, "python3") }
func TestTranscriptsPython2(t *testing.T) { pythonTranscripts(t, "python2") }

func pythonTranscripts(t *testing.T, release string) {
	all := readings()
	for _, client := range []string{"sync", "async"} {
		out := runner(t, "python", env(&server{URL: replay(t).URL}), filepath.Join(cache(t, release), "bin", "python"), "transcripts.py", client, marshal(t, all))
		alike(t, release+" "+client, false, all, decode[[]heard](t, out))
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	return string(must[[]byte](t)(json.Marshal(v)))
}

func TestTranscriptsGo(t *testing.T) {
	c := goClient(t, &server{URL: replay(t).URL}, "any")
	all, got := readings(), []heard(nil)
	for _, r := range all {
		var h heard
		var err error
		if r.How == "get" {
			h.Events, err = goEvents(t, getStream(t, c, r.Name, r.After))
		} else {
			h.Events, err = goEvents(t, createStream(t, c, `{"model":"`+r.Name+`","input":"hi","stream":true}`))
		}
		if err != nil {
			h.Error = err.Error()
		}
		if r.How == "broken" {
			name, _, _ := strings.Cut(r.Name, ".")
			last, _ := h.Events[len(h.Events)-1].(map[string]any)["event_id"].(string)
			rest, err := goEvents(t, getStream(t, c, name, last))
			if err != nil {
				t.Errorf("%+v: the rest: %v", r, err)
			}
			h.Events = append(h.Events, rest...)
		}
		got = append(got, h)
		if strings.HasSuffix(r.Name, ".unfinished") && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%+v: the error is %v", r, err)
		}
	}
	alike(t, "go", true, all, got)
}

// goStream is a stream of the Go SDK.
type goStream = stream.EventStream[interactions.InteractionSSEStreamEvent]

func createStream(t *testing.T, c *genai.Client, body string) *goStream {
	t.Helper()
	b := decode[interactions.CreateModelInteraction](t, body)
	r := must[*operations.CreateInteractionResponse](t)(c.Interactions.Create(t.Context(),
		operations.CreateInteractionRequest{Body: operations.NewCreateInteractionRequestBody(b)}))
	if r.InteractionSSEStreamEvent == nil {
		t.Fatal("the answer is no stream")
	}
	return r.InteractionSSEStreamEvent
}

func getStream(t *testing.T, c *genai.Client, id, last string) *goStream {
	t.Helper()
	q := operations.GetInteractionByIDRequest{ID: id, Stream: genai.Ptr(true)}
	if last != "" {
		q.LastEventID = &last
	}
	r := must[*operations.GetInteractionByIDResponse](t)(c.Interactions.Get(t.Context(), q))
	if r.InteractionSSEStreamEvent == nil {
		t.Fatal("the answer is no stream")
	}
	return r.InteractionSSEStreamEvent
}

// goEvents reads a stream to its end and prints the events again as JSON.
func goEvents(t *testing.T, s *goStream) ([]any, error) {
	t.Helper()
	all := []any{}
	for s.Next() {
		all = append(all, decode[any](t, printed(t, s)))
	}
	return all, errors.Join(s.Err(), s.Close())
}

// printed is the latest event of a stream, printed again as JSON. A type that the
// SDK does not know would be kept too, so it is looked for.
func printed(t *testing.T, s *goStream) string {
	t.Helper()
	e := s.Value().Data
	if e.IsUnknown() || e.StepStart != nil && e.StepStart.Step.IsUnknown() || e.StepDelta != nil && e.StepDelta.Delta.IsUnknown() {
		t.Errorf("the SDK does not know %s", s.RawValue())
	}
	return marshal(t, e)
}
