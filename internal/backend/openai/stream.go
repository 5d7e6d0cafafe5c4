package openai

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// maxEvent bounds an event of a stream, which may hold an image.
const maxEvent = 32 << 20

var errLongEvent = &backend.Error{Kind: backend.Internal, Message: "the back-end's stream has an event longer than 32 MiB"}

// readEvents reads server-sent events (the HTML standard §9.2.6) and calls each
// with their name and data, until the stream ends or each returns an error or false.
// Servers deviate: the last event need not end with a blank line, and an event whose
// data is JSON already ends where a further line of data begins.
func readEvents(r io.Reader, each func(name string, data []byte) (bool, error)) error {
	lines := &lines{r: bufio.NewReaderSize(r, 32<<10)}
	var (
		name string
		data []byte
		have bool
	)
	dispatch := func() (bool, error) {
		n, d, h := name, data, have
		name, data, have = "", data[:0], false
		if !h {
			return true, nil
		}
		return each(n, d)
	}
	for {
		line, err := lines.next()
		if err == io.EOF {
			_, err := dispatch()
			return err
		}
		if err != nil {
			return err
		}
		if len(line) == 0 {
			if more, err := dispatch(); err != nil || !more {
				return err
			}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "error": // Older llama.cpp puts the error here.
			name = "error"
			fallthrough
		case "data":
			if have && json.Valid(data) {
				if more, err := dispatch(); err != nil || !more {
					return err
				}
			}
			if len(data)+len(value) > maxEvent {
				return errLongEvent
			}
			if have {
				data = append(data, '\n')
			}
			data, have = append(data, value...), true
		}
	}
}

// lines reads a stream line by line. A bufio.Scanner would look at a long line from
// its beginning again with everything that arrives.
type lines struct {
	r    *bufio.Reader
	long []byte // A line that does not fit into r.
}

// next returns a line without its LF or CRLF; it is good until the next one is read.
// After the last line, which need not have an end, it returns io.EOF.
func (l *lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		l.long = append(l.long[:0], line...)
		for err == bufio.ErrBufferFull {
			line, err = l.r.ReadSlice('\n')
			if l.long = append(l.long, line...); len(l.long) > maxEvent {
				return nil, errLongEvent
			}
		}
		line = l.long
	}
	if err != nil && (err != io.EOF || len(line) == 0) {
		return nil, err
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), nil
}

// reader turns the events of a stream into chunks.
type reader struct {
	pieces bool // Calls are yielded piece by piece.
	yield  func(*genai.GenerateContentResponse) bool

	calls   calls
	last    genai.GenerateContentResponse
	reason  string
	refused bool
	done    bool // The server said that it was the end.
	left    bool // Yield returned false.
}

// readStream reads a stream and yields a chunk for each event that brings something,
// and a last one with the finish reason, the usage, and the function calls unless
// they came in pieces. It ends early, without error, when yield returns false.
func readStream(r io.Reader, pieces bool, yield func(*genai.GenerateContentResponse) bool) error {
	s := &reader{pieces: pieces, yield: yield}
	if err := readEvents(r, s.event); err != nil || s.left {
		return err
	}
	if s.reason == "" && !s.done {
		return &backend.Error{Kind: backend.Unavailable, Message: "the back-end's stream broke off"}
	}
	return s.end()
}

// event takes in an event. It reports whether more are wanted.
func (s *reader) event(name string, data []byte) (bool, error) {
	if data = bytes.TrimSpace(data); string(data) == "[DONE]" {
		s.done = true
		return false, nil
	}
	if name == "error" {
		return false, eventError(data)
	}
	if len(data) == 0 {
		return true, nil // A sign of life.
	}
	var c completion
	if err := c.read(data, "stream holds an event that is not the JSON of a chat completion"); err != nil {
		return false, err
	}
	out := c.envelope()
	if out.ModelVersion != "" {
		s.last.ModelVersion = out.ModelVersion
	}
	if out.ResponseID != "" {
		s.last.ResponseID = out.ResponseID
	}
	if out.UsageMetadata != nil {
		s.last.UsageMetadata, out.UsageMetadata = out.UsageMetadata, nil
	}
	if len(c.Choices) == 0 {
		return true, nil
	}
	ch := &c.Choices[0]
	if ch.FinishReason != "" {
		s.reason = ch.FinishReason
	}
	s.refused = s.refused || ch.Delta.Refusal != ""
	parts, err := ch.Delta.parts(true)
	if err != nil {
		return false, err
	}
	for i := range ch.Delta.ToolCalls {
		piece, err := s.calls.add(&ch.Delta.ToolCalls[i])
		if err != nil {
			return false, err
		}
		if s.pieces && piece != nil {
			parts = append(parts, genai.Part{CallPiece: piece})
		}
	}
	return s.give(out, parts), nil
}

// eventError is what an event of the name error says, which need not be JSON.
func eventError(data []byte) error {
	if !json.Valid(data) {
		text, err := json.Marshal(string(data))
		if err != nil {
			return err
		}
		return saidError(text)
	}
	var c completion
	if json.Unmarshal(data, &c) == nil {
		if err := c.failure(data); err != nil {
			return err
		}
	}
	return saidError(data)
}

// give yields a chunk of parts, if there are any.
func (s *reader) give(chunk *genai.GenerateContentResponse, parts []genai.Part) bool {
	if len(parts) == 0 {
		return true
	}
	chunk.Candidates = []genai.Candidate{{Content: &genai.Content{Role: "model", Parts: parts}}}
	s.left = !s.yield(chunk)
	return !s.left
}

// end yields the last chunk.
func (s *reader) end() error {
	content := &genai.Content{Role: "model"}
	var rest []genai.Part // Of calls in pieces.
	for _, c := range s.calls.all {
		args, err := (&functionCall{Name: c.name, Arguments: c.args.String()}).args()
		if err != nil {
			return err
		}
		if piece := s.calls.remainder(c); piece != nil {
			rest = append(rest, genai.Part{CallPiece: piece})
		}
		if !s.pieces {
			content.Parts = append(content.Parts, genai.Part{FunctionCall: &genai.FunctionCall{ID: c.id, Name: c.name, Args: args}})
		}
	}
	if s.pieces && !s.give(&genai.GenerateContentResponse{ModelVersion: s.last.ModelVersion, ResponseID: s.last.ResponseID}, rest) {
		return nil
	}
	if content.Parts == nil {
		content.Parts = []genai.Part{genai.TextPart("")}
	}
	reason := finish(s.reason)
	if s.refused {
		reason = genai.FinishSafety
	}
	s.last.Candidates = []genai.Candidate{{Content: content, FinishReason: reason}}
	s.yield(&s.last)
	return nil
}

const (
	// maxCalls bounds the calls of one answer, maxArguments their arguments.
	maxCalls     = 128
	maxArguments = 32 << 20
)

// calls gathers the function calls of an answer from their pieces.
type calls struct {
	all  []*call
	at   map[int]*call // By the server's number of it.
	ids  callIDs
	told int // How many were begun to be given out.
	size int
}

// call is a function call so far.
type call struct {
	id, name string
	args     strings.Builder
	told     bool // Its first piece was given out, with
	index    int  // as its place among the calls.
}

// add takes in a piece. It returns what there is to tell of it, nil if nothing.
func (c *calls) add(t *toolCall) (*genai.CallPiece, error) {
	if t.Index < 0 || t.Index >= maxCalls {
		return nil, &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end's stream numbers a function call %d", t.Index)}
	}
	if c.size += len(t.Function.Arguments); c.size > maxArguments {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's stream has calls with more than 32 MiB of arguments"}
	}
	one := c.at[t.Index]
	if one == nil || one.over(t) {
		if len(c.all) == maxCalls {
			return nil, &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end's stream has more than %d function calls", maxCalls)}
		}
		one = new(call)
		c.all = append(c.all, one)
		if c.at == nil {
			c.at = make(map[int]*call)
		}
		c.at[t.Index] = one
	}
	if one.id == "" {
		one.id = t.ID
	}
	if name := t.Function.Name; name != "" && name != one.name { // Some servers repeat it.
		if one.told {
			return nil, &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end's stream renames the call of %s", one.name)}
		}
		one.name += name
	}
	one.args.WriteString(t.Function.Arguments)
	if t.Function.Arguments == "" || one.name == "" {
		return nil, nil // The name may not be whole yet.
	}
	return c.piece(one, t.Function.Arguments), nil
}

// over reports whether a piece with the number of a call begins another one: Ollama
// gives all calls the number 0. A new id alone means nothing, older vLLM makes one
// up for each piece; nor does a name, which some servers repeat.
func (c *call) over(t *toolCall) bool {
	switch {
	case t.Function.Name == "" || c.name == "":
		return false
	case t.ID != "" && c.id != "":
		return t.ID != c.id
	}
	return t.Function.Arguments != "" && json.Valid([]byte(c.args.String()))
}

// piece is a piece of a call to give out. The first one has all arguments so far.
func (c *calls) piece(one *call, arguments string) *genai.CallPiece {
	if one.told {
		return &genai.CallPiece{Index: one.index, Arguments: arguments}
	}
	one.told, one.index, one.id = true, c.told, c.ids.called(one.id, one.name)
	c.told++
	return &genai.CallPiece{Index: one.index, ID: one.id, Name: one.name, Arguments: one.args.String()}
}

// remainder is what is left of a call to give out at the end, nil if nothing. The
// arguments of a call without any are an empty object.
func (c *calls) remainder(one *call) *genai.CallPiece {
	rest := ""
	if strings.TrimSpace(one.args.String()) == "" {
		rest = "{}"
		one.args.WriteString(rest)
	}
	if one.told && rest == "" {
		return nil
	}
	return c.piece(one, rest)
}
