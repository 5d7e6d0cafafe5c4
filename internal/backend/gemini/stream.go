package gemini

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	next "github.com/go-json-experiment/json/v1"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// readStream reads the events of streamGenerateContent (wire contract §8.4): a data
// line for each chunk, no sentinel. It yields each chunk that says something, and
// keeps the promise of backend.Streamer that the last one has the finish reason and
// the usage: a chunk with a reason waits until it is known what follows. It ends
// early, without error, when yield returns false.
func (b *Backend) readStream(r io.Reader, yield func(*genai.GenerateContentResponse) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxAnswer)
	var (
		last  *genai.GenerateContentResponse // Has a reason, and is not yielded yet.
		usage *genai.UsageMetadata
	)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue // Comments, event names and blank lines carry nothing here.
		}
		if data = bytes.TrimSpace(data); string(data) == "[DONE]" {
			continue // Not Google's, but some that stand in between are generous.
		}
		var c struct {
			genai.GenerateContentResponse
			Error *rpcError `json:"error"`
		}
		if err := next.Unmarshal(data, &c); err != nil {
			return &backend.Error{Kind: backend.Internal, Message: "the back-end's stream holds an event that is not the JSON of the Gemini API", Cause: err}
		}
		if c.Error != nil {
			return b.rpcError(httpCode(c.Error.Code), c.Error)
		}
		chunk := &c.GenerateContentResponse
		if chunk.UsageMetadata != nil {
			usage = chunk.UsageMetadata
		}
		if len(chunk.Candidates) == 0 && chunk.PromptFeedback == nil {
			continue // Its usage is all that it can hold.
		}
		if last != nil && !yield(last) {
			return nil
		}
		last = nil
		if ends(chunk) {
			last = chunk
		} else if !yield(chunk) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return &backend.Error{Kind: backend.Internal, Message: "the back-end's stream has an event larger than 64 MiB"}
		}
		return err
	}
	if last == nil {
		return &backend.Error{Kind: backend.Unavailable, Message: "the back-end's stream broke off"}
	}
	if usage != nil {
		last.UsageMetadata = usage
	}
	yield(last)
	return nil
}

// ends reports whether a chunk can be the last one.
func ends(r *genai.GenerateContentResponse) bool {
	if len(r.Candidates) == 0 {
		return true // The prompt was blocked.
	}
	for i := range r.Candidates {
		if r.Candidates[i].FinishReason != "" {
			return true
		}
	}
	return false
}
