package openai

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// completion is an answer; in a stream Delta stands in for Message.
type completion struct {
	ID      string          `json:"id"`
	Model   string          `json:"model"`
	Choices []choice        `json:"choices"`
	Usage   *usage          `json:"usage"`
	Error   json.RawMessage `json:"error"`
}

type choice struct {
	Index        int    `json:"index"`
	Message      answer `json:"message"`
	Delta        answer `json:"delta"`
	FinishReason string `json:"finish_reason"`
}

type answer struct {
	Content          *string    `json:"content"`
	ReasoningContent *string    `json:"reasoning_content"`
	ToolCalls        []toolCall `json:"tool_calls"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// decode translates a whole answer.
func (c *completion) decode() (*genai.GenerateContentResponse, error) {
	if len(c.Choices) == 0 {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer has no choices"}
	}
	out := c.envelope()
	for _, ch := range c.Choices {
		parts, err := ch.Message.parts(new(callIDs))
		if err != nil {
			return nil, err
		}
		out.Candidates = append(out.Candidates, genai.Candidate{Index: ch.Index, FinishReason: finish(ch.FinishReason),
			Content: &genai.Content{Role: "model", Parts: parts}})
	}
	return out, nil
}

func (c *completion) envelope() *genai.GenerateContentResponse {
	out := &genai.GenerateContentResponse{ModelVersion: c.Model, ResponseID: c.ID}
	if u := c.Usage; u != nil {
		out.UsageMetadata = &genai.UsageMetadata{PromptTokenCount: u.PromptTokens, CandidatesTokenCount: u.CompletionTokens, TotalTokenCount: u.TotalTokens,
			PromptTokensDetails: []genai.ModalityCount{{Modality: "TEXT", TokenCount: u.PromptTokens}}}
	}
	return out
}

// parts are the thoughts, then the text, then the calls.
func (a *answer) parts(ids *callIDs) ([]genai.Part, error) {
	var parts []genai.Part
	if a.ReasoningContent != nil && *a.ReasoningContent != "" {
		parts = append(parts, genai.Part{Text: a.ReasoningContent, Thought: true})
	}
	if a.Content != nil && (*a.Content != "" || len(a.ToolCalls) == 0) {
		parts = append(parts, genai.Part{Text: a.Content})
	}
	for i := range a.ToolCalls {
		p, err := a.ToolCalls[i].part(ids)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// part checks that the arguments are an object: models do write broken JSON.
func (t *toolCall) part(ids *callIDs) (genai.Part, error) {
	args := json.RawMessage(t.Function.Arguments)
	if strings.TrimSpace(t.Function.Arguments) == "" {
		args = json.RawMessage("{}")
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(args, &object); err != nil || object == nil {
		return genai.Part{}, &backend.Error{Kind: backend.Internal, Cause: err,
			Message: fmt.Sprintf("the model called %s with arguments that are not a JSON object", t.Function.Name)}
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, args); err != nil {
		return genai.Part{}, &backend.Error{Kind: backend.Internal, Message: "the arguments of a call can't be read", Cause: err}
	}
	return genai.Part{FunctionCall: &genai.FunctionCall{ID: ids.called(t.ID, t.Function.Name), Name: t.Function.Name, Args: compact.Bytes()}}, nil
}

func finish(reason string) string {
	switch reason {
	case "stop", "tool_calls", "function_call", "":
		return genai.FinishStop
	case "length":
		return genai.FinishMaxTokens
	case "content_filter":
		return genai.FinishSafety
	}
	return genai.FinishOther
}

// maxLine bounds a line of a stream.
const maxLine = 4 << 20

// readStream reads server-sent events and yields a chunk for each piece of the
// answer, and a last one with the finish reason, the function calls and the
// usage. It ends early, without error, when yield returns false.
func readStream(r io.Reader, yield func(*genai.GenerateContentResponse) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var (
		calls  []toolCall
		last   = &genai.GenerateContentResponse{}
		reason string
		ended  bool
	)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue // Comments, event names and blank lines carry nothing here.
		}
		data = bytes.TrimSpace(data)
		if string(data) == "[DONE]" {
			ended = true
			break
		}
		var c completion
		if err := json.Unmarshal(data, &c); err != nil {
			return &backend.Error{Kind: backend.Internal, Message: "the back-end's stream holds an event that is not JSON", Cause: err}
		}
		if c.Error != nil {
			return &backend.Error{Kind: backend.Internal, Message: "the back-end broke off its stream with an error"}
		}
		env := c.envelope()
		last.ModelVersion, last.ResponseID = env.ModelVersion, env.ResponseID
		if env.UsageMetadata != nil {
			last.UsageMetadata = env.UsageMetadata
		}
		if len(c.Choices) == 0 {
			continue
		}
		ch := &c.Choices[0]
		if ch.FinishReason != "" {
			reason = ch.FinishReason
		}
		var err error
		if calls, err = gather(calls, ch.Delta.ToolCalls); err != nil {
			return err
		}
		ch.Delta.ToolCalls = nil
		parts, err := ch.Delta.parts(nil) // Its calls were taken out.
		if err != nil {
			return err
		}
		parts = slices.DeleteFunc(parts, func(p genai.Part) bool { return p.Text != nil && *p.Text == "" })
		if len(parts) == 0 {
			continue
		}
		env.UsageMetadata = nil
		env.Candidates = []genai.Candidate{{Content: &genai.Content{Role: "model", Parts: parts}}}
		if !yield(env) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return &backend.Error{Kind: backend.Internal, Message: "the back-end's stream has a line longer than 4 MiB"}
		}
		return err
	}
	if reason == "" && !ended {
		return &backend.Error{Kind: backend.Unavailable, Message: "the back-end's stream broke off"}
	}
	content := &genai.Content{Role: "model"}
	var ids callIDs
	for i := range calls {
		p, err := calls[i].part(&ids)
		if err != nil {
			return err
		}
		content.Parts = append(content.Parts, p)
	}
	if content.Parts == nil {
		content.Parts = []genai.Part{genai.TextPart("")}
	}
	last.Candidates = []genai.Candidate{{Content: content, FinishReason: finish(reason)}}
	yield(last)
	return nil
}

// maxCalls bounds the calls of one answer.
const maxCalls = 128

// gather adds the pieces of function calls to those that they continue.
func gather(calls, pieces []toolCall) ([]toolCall, error) {
	for _, piece := range pieces {
		if piece.Index < 0 || piece.Index >= maxCalls {
			return nil, &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end's stream numbers a function call %d", piece.Index)}
		}
		for len(calls) <= piece.Index {
			calls = append(calls, toolCall{})
		}
		c := &calls[piece.Index]
		if piece.ID != "" {
			c.ID = piece.ID
		}
		c.Function.Name += piece.Function.Name
		c.Function.Arguments += piece.Function.Arguments
	}
	return calls, nil
}
