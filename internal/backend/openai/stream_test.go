package openai_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// told is what a stream says, each part in words: thoughts in parentheses, calls as
// index:id/name and their arguments.
func told(t *testing.T, events string, pieces bool) (chunks []string, last *genai.GenerateContentResponse, err error) {
	t.Helper()
	q := ask(genai.TextPart("hi"))
	q.Pieces = pieces
	for chunk, failed := range connect(t, body(strings.NewReader(events))).Stream(t.Context(), q) {
		if failed != nil {
			return chunks, last, failed
		}
		last = chunk
		var parts []string
		for _, p := range chunk.Candidates[0].Content.Parts {
			switch {
			case p.CallPiece != nil:
				parts = append(parts, fmt.Sprintf("%d:%s/%s%s", p.CallPiece.Index, p.CallPiece.ID, p.CallPiece.Name, p.CallPiece.Arguments))
			case p.FunctionCall != nil:
				parts = append(parts, p.FunctionCall.ID+"/"+p.FunctionCall.Name+string(p.FunctionCall.Args))
			case p.InlineData != nil:
				parts = append(parts, p.InlineData.MimeType+" "+p.InlineData.Data)
			case p.Thought:
				parts = append(parts, "("+*p.Text+")")
			default:
				parts = append(parts, *p.Text)
			}
		}
		chunks = append(chunks, strings.Join(parts, "|"))
	}
	return chunks, last, nil
}

// event is an event with a delta.
func event(delta string) string { return `data: {"choices":[{"delta":` + delta + `}]}` + "\n\n" }

// calling is an event with pieces of calls.
func calling(pieces ...string) string {
	return event(`{"tool_calls":[` + strings.Join(pieces, ",") + `]}`)
}

const end = `data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}` + "\n\ndata: [DONE]\n\n"

// TestCallPieces: what comes of calls in a stream, in pieces and whole.
func TestCallPieces(t *testing.T) {
	for name, c := range map[string]struct {
		events        string
		pieces, whole []string
	}{
		"one": {calling(`{"index":0,"id":"x","function":{"name":"f","arguments":""}}`) + calling(`{"index":0,"function":{"arguments":"{\"a\":"}}`) + calling(`{"index":0,"function":{"arguments":"1}"}}`) + end,
			[]string{`0:x/f{"a":`, `0:/1}`, ``}, []string{`x/f{"a":1}`}},
		"text before": {event(`{"reasoning":"hm"}`) + event(`{"content":"I call"}`) + calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}`) + end,
			[]string{"(hm)", "I call", "0:x/f{}", ""}, []string{"(hm)", "I call", "x/f{}"}},
		"two by turns": {calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}`, `{"index":1,"id":"y","function":{"name":"g","arguments":"{\"b\""}}`) +
			calling(`{"index":1,"function":{"arguments":":2}"}}`, `{"index":0,"function":{"arguments":"}"}}`) + end,
			[]string{`0:x/f{|1:y/g{"b"`, `1:/:2}|0:/}`, ``}, []string{`x/f{}|y/g{"b":2}`}},
		"no ids": {calling(`{"index":0,"function":{"name":"f","arguments":"{}"}}`) + calling(`{"index":1,"function":{"name":"f","arguments":"{}"}}`) + end,
			[]string{"0:call_f/f{}", "1:call_f_2/f{}", ""}, []string{"call_f/f{}|call_f_2/f{}"}},
		"no arguments": {calling(`{"index":0,"id":"x","function":{"name":"f"}}`) + calling(`{"index":1,"id":"y","function":{"name":"g","arguments":" "}}`) + end,
			[]string{"0:y/g ", "1:x/f{}|0:/{}", ""}, []string{"x/f{}|y/g{}"}},
		"a name in pieces": {calling(`{"index":0,"id":"x","function":{"name":"get_"}}`) + calling(`{"index":0,"function":{"name":"time"}}`) + calling(`{"index":0,"function":{"arguments":"{}"}}`) + end,
			[]string{"0:x/get_time{}", ""}, []string{"x/get_time{}"}},
		"a name again and again": {calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}`) + calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"}"}}`) + end,
			[]string{"0:x/f{", "0:/}", ""}, []string{"x/f{}"}},
		"arguments before the name": {calling(`{"index":0,"function":{"arguments":"{"}}`) + calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"}"}}`) + end,
			[]string{"0:x/f{}", ""}, []string{"x/f{}"}},
		"an id for each piece": {calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}`) + calling(`{"index":0,"id":"y","function":{"arguments":"}"}}`) + end,
			[]string{"0:x/f{", "0:/}", ""}, []string{"x/f{}"}},
		"all have the number 0": {calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}`) + calling(`{"index":0,"id":"y","function":{"name":"f","arguments":"{\"a\":1}"}}`) + end,
			[]string{"0:x/f{}", `1:y/f{"a":1}`, ""}, []string{`x/f{}|y/f{"a":1}`}},
		"no numbers, no ids": {calling(`{"function":{"name":"f","arguments":"{}"}}`, `{"function":{"name":"f","arguments":"{\"a\":1}"}}`) + end,
			[]string{`0:call_f/f{}|1:call_f_2/f{"a":1}`, ""}, []string{`call_f/f{}|call_f_2/f{"a":1}`}},
		"numbers with gaps": {calling(`{"index":7,"id":"x","function":{"name":"f","arguments":"{}"}}`) + calling(`{"index":3,"id":"y","function":{"name":"g","arguments":"{}"}}`) + end,
			[]string{"0:x/f{}", "1:y/g{}", ""}, []string{"x/f{}|y/g{}"}},
	} {
		for _, pieces := range []bool{true, false} {
			want := c.whole
			if pieces {
				want = c.pieces
			}
			got, last, err := told(t, c.events, pieces)
			if d := cmp.Diff(want, got); err != nil || d != "" {
				t.Errorf("%s, pieces %v: %v (-want +got):\n%s", name, pieces, err, d)
				continue
			}
			if last.Candidates[0].FinishReason != genai.FinishStop {
				t.Errorf("%s: ended with %s", name, last.Candidates[0].FinishReason)
			}
		}
	}
}

// TestBadCalls: what is no call of a function is an error, when it is known.
func TestBadCalls(t *testing.T) {
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf(`{"index":0,"id":"%d","function":{"name":"f","arguments":"{}"}}`, i)
	}
	for name, c := range map[string]struct{ events, hint string }{
		"arguments": {calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"[1"}}`) + end, "f with arguments that are not a JSON object"},
		"renamed":   {calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}`) + calling(`{"index":0,"function":{"name":"g","arguments":"}"}}`) + end, "renames the call of f"},
		"nameless":  {calling(`{"index":0,"id":"x","function":{"arguments":"{}"}}`) + end, "without saying which"},
		"too many":  {calling(many...) + end, "more than 128 function calls"},
		"negative":  {calling(`{"index":-1,"function":{}}`) + end, "numbers a function call -1"},
	} {
		if _, _, err := told(t, c.events, true); err == nil || backend.AsError(err).Kind != backend.Internal || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: got %v, want a word of %q", name, err, c.hint)
		}
	}
}

// TestEvents: server-sent events as they come, and what else a stream brings.
func TestEvents(t *testing.T) {
	hi := `{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}`
	for name, c := range map[string]struct {
		events string
		want   []string
	}{
		"no space":         {"data:" + hi + "\n\ndata:[DONE]\n\n", []string{"hi", ""}},
		"no blank line":    {"data: " + hi, []string{"hi", ""}},
		"several lines":    {"data: {\"choices\":\ndata: [{\"delta\":{\"content\":\"hi\"},\ndata:\"finish_reason\":\"stop\"}]}\n\n", []string{"hi", ""}},
		"lines as events":  {"data: " + hi + "\ndata: " + hi + "\ndata: [DONE]\n", []string{"hi", "hi", ""}},
		"CRLF":             {": hello\r\n\r\nevent: message\r\nid: 7\r\nretry: 10\r\ndata: " + hi + "\r\n\r\n", []string{"hi", ""}},
		"empty data":       {"data:\n\ndata: " + hi + "\n\n", []string{"hi", ""}},
		"a name alone":     {"event: error\n\ndata: " + hi + "\n\n", []string{"hi", ""}},
		"after the end":    {"data: " + hi + "\n\ndata: [DONE]\n\ndata: {\n\n", []string{"hi", ""}},
		"unknown fields":   {"datum: {\nfoo\n\ndata: " + hi + "\n\n", []string{"hi", ""}},
		"a long event":     {event(`{"content":"`+strings.Repeat("x", 100_000)+`"}`) + "data: " + hi + "\n\n", []string{strings.Repeat("x", 100_000), "hi", ""}},
		"speech":           {event(`{"audio":{"id":"x","transcript":"he"}}`) + event(`{"audio":{"data":"AAAA"}}`) + "data: [DONE]\n", []string{"he", "audio/L16;codec=pcm;rate=24000 AAAA", ""}},
		"images":           {event(`{"content":"","images":[{"image_url":{"url":"data:image/png;base64,iVBO"}}]}`) + "data: [DONE]\n", []string{"image/png iVBO", ""}},
		"thoughts, a null": {event(`{"reasoning":"a","content":null}`) + event(`{"reasoning_content":"b","reasoning":"b","content":""}`) + "data: [DONE]\n", []string{"(a)", "(b)", ""}},
	} {
		got, _, err := told(t, c.events, false)
		if d := cmp.Diff(c.want, got); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
}

// TestEndOfStream: the last chunk has what the server said, wherever it said it.
func TestEndOfStream(t *testing.T) {
	_, last, err := told(t, `data: {"id":"r","model":"v","choices":[{"delta":{"content":"a"}}]}

data: {"choices":[{"delta":{},"finish_reason":"stop"}]}

data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":1}}}

data: [DONE]
`, true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(last)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"candidates":[{"content":{"role":"model","parts":[{"text":""}]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":3,"totalTokenCount":9,` +
		`"thoughtsTokenCount":1,"cachedContentTokenCount":3,"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}]},"modelVersion":"v","responseId":"r"}`
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	chunks, last, err := told(t, event(`{"refusal":"I "}`)+event(`{"refusal":"won't."}`)+`data: {"choices":[{"delta":{},"finish_reason":"stop"}]}`+"\n\n", false)
	if err != nil || !slices.Equal(chunks, []string{"I ", "won't.", ""}) || last.Candidates[0].FinishReason != genai.FinishSafety {
		t.Errorf("a refusal: got %q, %+v, %v", chunks, last, err)
	}
}

// TestSpeechInStreams: raw samples are the one form of speech that comes in pieces.
func TestSpeechInStreams(t *testing.T) {
	b := connect(t, func(r *http.Request) (*http.Response, error) {
		var sent struct{ Audio json.RawMessage }
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil || string(sent.Audio) != `{"voice":"alloy","format":"pcm16"}` {
			t.Errorf("got %s, %v", sent.Audio, err)
		}
		return reply(200, event(`{"audio":{"data":"AAAA"}}`)+end), nil
	})
	q := request(t, `{"contents":[{"parts":[{"text":"q"}]}],"generationConfig":{"responseModalities":["AUDIO"]}}`)
	for _, err := range b.Stream(t.Context(), q) {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestStreamIsLeft: who has heard enough, in the middle of pieces or before the rest
// of them, is told nothing more.
func TestStreamIsLeft(t *testing.T) {
	events := calling(`{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}`) + calling(`{"index":1,"id":"y","function":{"name":"g"}}`) + end
	q := ask(genai.TextPart("hi"))
	q.Pieces = true
	for stop := 1; stop <= 3; stop++ {
		n := 0
		for range connect(t, body(strings.NewReader(events))).Stream(t.Context(), q) {
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			t.Errorf("got %d chunks, want %d", n, stop)
		}
	}
}

// FuzzStream: whatever a server streams, nothing comes after the end, the last chunk
// has a reason, errors are *Error, and calls in pieces are the whole calls.
func FuzzStream(f *testing.F) {
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"he\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"))
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\n"))
	f.Add([]byte(calling(`{"index":0,"id":"x","function":{"name":"f","arguments":" {"}}`, `{"index":1,"function":{"name":"g"}}`) + calling(`{"index":0,"id":"y","function":{"name":"f","arguments":"} "}}`) + end))
	f.Add([]byte(calling(`{"id":"x","function":{"name":"f","arguments":"{}"}}`, `{"id":"y","function":{"name":"f","arguments":" "}}`) + end))
	f.Add([]byte("event: error\r\ndata: {\"error\":\r\ndata: {\"message\":\"x\"}}\r\n\r\n"))
	f.Add([]byte("error: {\"code\":500}\n: c\ndata: {\"choices\":[{\"delta\":{\"reasoning\":[{\"type\":\"text\"}],\"refusal\":\"no\"}}]}"))
	f.Fuzz(func(t *testing.T, events []byte) {
		type result struct {
			text   string
			calls  []genai.FunctionCall
			failed string
		}
		listen := func(pieces bool) (r result) {
			q := ask(genai.TextPart("hi"))
			q.Pieces = pieces
			var last *genai.GenerateContentResponse
			for chunk, err := range connect(t, body(bytes.NewReader(events))).Stream(t.Context(), q) {
				if r.failed != "" || last != nil && last.Candidates[0].FinishReason != "" {
					t.Fatal("something came after the end")
				}
				if err != nil {
					var e *backend.Error
					if !errors.As(err, &e) {
						t.Fatalf("%v is no *Error", err)
					}
					r.failed = err.Error()
					continue
				}
				last = chunk
				for _, p := range chunk.Candidates[0].Content.Parts {
					switch {
					case p.CallPiece != nil:
						if !pieces || p.CallPiece.Index > len(r.calls) {
							t.Fatalf("unexpected piece %+v", p.CallPiece)
						}
						first := p.CallPiece.Index == len(r.calls)
						if first != (p.CallPiece.Name != "") || first != (p.CallPiece.ID != "") {
							t.Fatalf("the name and the id belong to the first piece: %+v", p.CallPiece)
						}
						if first {
							r.calls = append(r.calls, genai.FunctionCall{ID: p.CallPiece.ID, Name: p.CallPiece.Name})
						}
						r.calls[p.CallPiece.Index].Args = append(r.calls[p.CallPiece.Index].Args, p.CallPiece.Arguments...)
					case p.FunctionCall != nil:
						if pieces {
							t.Fatalf("a whole call: %+v", p.FunctionCall)
						}
						r.calls = append(r.calls, *p.FunctionCall)
					case p.Text != nil:
						r.text += *p.Text
					}
				}
			}
			if r.failed == "" && (last == nil || last.Candidates[0].FinishReason == "") {
				t.Fatalf("it did not end: %+v", last)
			}
			return r
		}
		whole, pieces := listen(false), listen(true)
		if whole.text != pieces.text || whole.failed != pieces.failed {
			t.Fatalf("whole %+v, in pieces %+v", whole, pieces)
		}
		if whole.failed != "" {
			return // Pieces may have come before.
		}
		for i := range pieces.calls {
			var compact bytes.Buffer
			if err := json.Compact(&compact, pieces.calls[i].Args); err != nil {
				t.Fatalf("%q is not JSON: %v", pieces.calls[i].Args, err)
			}
			pieces.calls[i].Args = compact.Bytes()
		}
		byID := func(a, b genai.FunctionCall) int {
			return strings.Compare(a.ID+a.Name+string(a.Args), b.ID+b.Name+string(b.Args))
		}
		slices.SortFunc(whole.calls, byID)
		slices.SortFunc(pieces.calls, byID)
		if d := cmp.Diff(whole.calls, pieces.calls); d != "" {
			t.Fatalf("(-whole +pieces):\n%s", d)
		}
	})
}
