package exec

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"ringback.dev/internal/backend"
)

// What a command may print, by the type of the line.
type (
	// progress tells how far the command is.
	progress struct {
		Percent float64 `json:"percent"`
		Message string  `json:"message"`
	}
	// chunk is a piece of the text of an answer.
	chunk struct {
		Text string `json:"text"`
	}
	// checkpoint is what a further run of the same job is given.
	checkpoint struct {
		State json.RawMessage `json:"state"`
	}
	// result ends a job well.
	result struct {
		// Response is a generateContent answer; what chunks brought is not repeated.
		Response json.RawMessage `json:"response"`
		Files    []outputFile    `json:"files"`
		Filtered filtered        `json:"filtered"`
	}
	// failure ends a job badly. Message is for the caller; RetryAfter is in seconds.
	failure struct {
		Kind       backend.Kind `json:"kind"`
		Message    string       `json:"message"`
		RetryAfter float64      `json:"retry_after"`
	}
)

// outputFile is a video, by its path in the output folder.
type outputFile struct {
	Path     string `json:"path"`
	MimeType string `json:"mime_type"`
}

// filtered tells what was held back for safety.
type filtered struct {
	Count   int      `json:"count"`
	Reasons []string `json:"reasons"`
}

// parse reads a line. What it says is a pointer to one of the types above, or the
// name of a type that is not known here.
func parse(data []byte) (any, error) {
	// The type first, and alone: what else is in a line of an unknown type is nobody's
	// business.
	var head struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, err
	}
	var said any
	switch head.Type {
	case "progress":
		said = new(progress)
	case "chunk":
		said = new(chunk)
	case "checkpoint":
		said = new(checkpoint)
	case "result":
		said = new(result)
	case "error":
		said = new(failure)
	case "":
		return nil, errors.New(`it has no "type"`)
	default:
		return head.Type, nil
	}
	if err := json.Unmarshal(data, said); err != nil {
		return nil, err
	}
	switch s := said.(type) {
	case *progress:
		s.Percent = min(max(math.Floor(s.Percent), 0), 100)
	case *checkpoint:
		if len(s.State) == 0 {
			return nil, errors.New(`a checkpoint needs a "state"`)
		}
	case *result:
		if s.Filtered.Count < 0 {
			return nil, errors.New("filtered.count is negative")
		}
	}
	return said, nil
}

// asError is the error that a command asked for.
func (f *failure) asError() *backend.Error {
	e := &backend.Error{Kind: backend.Internal, Message: strings.TrimSpace(f.Message)}
	switch f.Kind {
	case backend.InvalidRequest, backend.ModelNotFound, backend.RateLimited, backend.Unauthorized, backend.Unavailable, backend.Timeout:
		e.Kind = f.Kind
	}
	if e.Message == "" {
		e.Message = "the command failed and did not say why"
	}
	if len(e.Message) > maxMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxMessage], "") + "…"
	}
	if f.RetryAfter > 0 {
		e.RetryAfter = time.Duration(min(f.RetryAfter, (24*time.Hour).Seconds()) * float64(time.Second))
	}
	return e
}

// read hands what each line says to hear, until one can't be read or hear fails.
// Blank lines say nothing.
func read(r io.Reader, hear func(said any) error) error {
	limited := &io.LimitedReader{R: r, N: maxPrinted}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 4<<10), maxAnswer)
	n := 0
	wrong := func(cause error, format string, args ...any) error {
		return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("line %d of the command's output ", n) + fmt.Sprintf(format, args...), Cause: cause}
	}
	var last any // The line that ended the job.
	for lines.Scan() {
		n++
		if limited.N == 0 {
			break
		}
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		said, err := parse(lines.Bytes())
		if err != nil {
			return wrong(err, "is not what the protocol has")
		}
		switch said.(type) {
		case *result, *failure:
			if last != nil {
				return wrong(nil, "ends a job that was ended before")
			}
			last = said
		case *chunk:
			if last != nil {
				return wrong(nil, "brings text after the end of the job")
			}
		}
		if err := hear(said); err != nil {
			return err
		}
	}
	n++
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return wrong(nil, "is longer than %d MiB", maxAnswer>>20)
	} else if err != nil {
		return wrong(err, "can't be read")
	}
	if limited.N == 0 {
		return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the command printed more than %d MiB", maxPrinted>>20)}
	}
	return nil
}
