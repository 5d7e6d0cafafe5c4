package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	next "github.com/go-json-experiment/json/v1"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// completion is an answer; in a stream Delta stands in for Message. Object tells
// older vLLM's errors, which are not within Error.
type completion struct {
	ID      string          `json:"id"`
	Object  string          `json:"object"`
	Model   string          `json:"model"`
	Choices []choice        `json:"choices"`
	Usage   *usage          `json:"usage"`
	Error   json.RawMessage `json:"error"`
}

type choice struct {
	Index        int             `json:"index"`
	Message      answer          `json:"message"`
	Delta        answer          `json:"delta"`
	FinishReason string          `json:"finish_reason"`
	Error        json.RawMessage `json:"error"` // OpenRouter's place for it.
}

// answer is a message. What the model thought has two names: reasoning_content
// (DeepSeek, llama.cpp, older vLLM) and reasoning (newer vLLM, Ollama, OpenRouter).
type answer struct {
	Content          content       `json:"content"`
	ReasoningContent content       `json:"reasoning_content"`
	Reasoning        content       `json:"reasoning"`
	Refusal          string        `json:"refusal"`
	Audio            *answerAudio  `json:"audio"`
	Images           []answerImage `json:"images"`
	ToolCalls        []toolCall    `json:"tool_calls"`
}

// content is a text, or with some servers a list of parts.
type content struct{ parts []genai.Part }

// UnmarshalJSON implements json.Unmarshaler.
func (c *content) UnmarshalJSON(data []byte) error {
	switch data[0] {
	case 'n': // Null.
		return nil
	case '[':
		return c.list(data)
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	if text != "" {
		c.parts = []genai.Part{{Text: &text}}
	}
	return nil
}

// list reads parts: texts, images, and thoughts as Mistral has them.
func (c *content) list(data []byte) error {
	var list []struct {
		Type     string   `json:"type"`
		Text     string   `json:"text"`
		Thinking content  `json:"thinking"`
		ImageURL mediaURL `json:"image_url"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	for _, p := range list {
		switch p.Type {
		case "text":
			c.parts = append(c.parts, genai.TextPart(p.Text))
		case "thinking":
			c.parts = append(c.parts, p.Thinking.thoughts()...)
		case "image_url":
			blob, err := (&answerImage{p.ImageURL}).blob()
			if err != nil {
				return err
			}
			c.parts = append(c.parts, genai.Part{InlineData: blob})
		default:
			return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end's answer holds a part of type %q, which is not known here", p.Type)}
		}
	}
	return nil
}

// thoughts marks all texts as thoughts.
func (c *content) thoughts() []genai.Part {
	for i := range c.parts {
		c.parts[i].Thought = c.parts[i].Text != nil
	}
	return c.parts
}

type usage struct {
	PromptTokens        int `json:"prompt_tokens"`
	CompletionTokens    int `json:"completion_tokens"`
	TotalTokens         int `json:"total_tokens"`
	PromptTokensDetails struct {
		CachedTokens int `json:"cached_tokens"`
		AudioTokens  int `json:"audio_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionTokensDetails struct {
		ReasoningTokens int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// metadata translates counts. Thoughts are within the completion's tokens here, but
// beside the candidates' there.
func (u *usage) metadata() *genai.UsageMetadata {
	thoughts := min(max(u.CompletionTokensDetails.ReasoningTokens, 0), u.CompletionTokens)
	audio := min(max(u.PromptTokensDetails.AudioTokens, 0), u.PromptTokens)
	out := &genai.UsageMetadata{PromptTokenCount: u.PromptTokens, CandidatesTokenCount: u.CompletionTokens - thoughts, TotalTokenCount: u.TotalTokens,
		ThoughtsTokenCount: thoughts, CachedContentTokenCount: u.PromptTokensDetails.CachedTokens,
		PromptTokensDetails: []genai.ModalityCount{{Modality: "TEXT", TokenCount: u.PromptTokens - audio}}}
	if audio > 0 {
		out.PromptTokensDetails = append(out.PromptTokensDetails, genai.ModalityCount{Modality: "AUDIO", TokenCount: audio})
	}
	if out.TotalTokenCount == 0 {
		out.TotalTokenCount = u.PromptTokens + u.CompletionTokens
	}
	return out
}

// read takes in the JSON of an answer or of an event.
func (c *completion) read(data []byte, what string) error {
	if err := next.Unmarshal(data, c); err != nil {
		var known *backend.Error
		if errors.As(err, &known) {
			return known
		}
		return &backend.Error{Kind: backend.Internal, Message: "the back-end's " + what, Cause: err}
	}
	return c.failure(data)
}

// failure is the error that an answer holds, nil if none.
func (c *completion) failure(data []byte) error {
	switch {
	case given(c.Error):
		return saidError(c.Error)
	case c.Object == "error":
		return saidError(data)
	}
	for i := range c.Choices {
		ch := &c.Choices[i]
		if given(ch.Error) {
			return saidError(ch.Error)
		}
		if ch.FinishReason == "error" {
			return &backend.Error{Kind: backend.Internal, Message: "the back-end ended its answer with an error"}
		}
	}
	return nil
}

// decode translates a whole answer.
func (c *completion) decode() (*genai.GenerateContentResponse, error) {
	if len(c.Choices) == 0 {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer has no choices"}
	}
	out := c.envelope()
	for i := range c.Choices {
		ch := &c.Choices[i]
		parts, err := ch.Message.parts(false)
		if err != nil {
			return nil, err
		}
		var ids callIDs
		for k := range ch.Message.ToolCalls {
			p, err := ch.Message.ToolCalls[k].part(&ids)
			if err != nil {
				return nil, err
			}
			parts = append(parts, p)
		}
		if parts == nil {
			parts = []genai.Part{genai.TextPart("")}
		}
		reason := finish(ch.FinishReason)
		if ch.Message.Refusal != "" {
			reason = genai.FinishSafety
		}
		out.Candidates = append(out.Candidates, genai.Candidate{Index: ch.Index, FinishReason: reason, Content: &genai.Content{Role: "model", Parts: parts}})
	}
	return out, nil
}

func (c *completion) envelope() *genai.GenerateContentResponse {
	out := &genai.GenerateContentResponse{ModelVersion: c.Model, ResponseID: c.ID}
	if c.Usage != nil {
		out.UsageMetadata = c.Usage.metadata()
	}
	return out
}

// parts are all of a message but its calls: the thoughts, then the text, then
// speech and images. Refusals are texts.
func (a *answer) parts(streamed bool) ([]genai.Part, error) {
	thoughts := a.ReasoningContent.thoughts()
	if len(thoughts) == 0 { // Some servers give both, alike.
		thoughts = a.Reasoning.thoughts()
	}
	parts := append(thoughts, a.Content.parts...)
	if a.Refusal != "" {
		parts = append(parts, genai.TextPart(a.Refusal))
	}
	if a.Audio != nil {
		if a.Audio.Transcript != "" {
			parts = append(parts, genai.TextPart(a.Audio.Transcript))
		}
		if a.Audio.Data != "" {
			blob, err := a.Audio.blob(streamed)
			if err != nil {
				return nil, err
			}
			parts = append(parts, genai.Part{InlineData: blob})
		}
	}
	for i := range a.Images {
		blob, err := a.Images[i].blob()
		if err != nil {
			return nil, err
		}
		parts = append(parts, genai.Part{InlineData: blob})
	}
	return parts, nil
}

// part checks that the arguments are an object: models do write broken JSON.
func (t *toolCall) part(ids *callIDs) (genai.Part, error) {
	args, err := t.Function.args()
	if err != nil {
		return genai.Part{}, err
	}
	return genai.Part{FunctionCall: &genai.FunctionCall{ID: ids.called(t.ID, t.Function.Name), Name: t.Function.Name, Args: args}}, nil
}

// args are a call's arguments as compact JSON.
func (f *functionCall) args() (json.RawMessage, error) {
	if f.Name == "" {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the model called a function without saying which"}
	}
	args := json.RawMessage(f.Arguments)
	if strings.TrimSpace(f.Arguments) == "" {
		args = json.RawMessage("{}")
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(args, &object); err != nil || object == nil {
		return nil, &backend.Error{Kind: backend.Internal, Cause: err,
			Message: fmt.Sprintf("the model called %s with arguments that are not a JSON object", f.Name)}
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, args); err != nil {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the arguments of a call can't be read", Cause: err}
	}
	return compact.Bytes(), nil
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

// given reports whether raw JSON is there and not null.
func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }
