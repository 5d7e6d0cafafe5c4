package exec

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// contentInput is what a command gets for generateContent.
type contentInput struct {
	Kind    string                        `json:"kind"` // "generate"
	Model   string                        `json:"model"`
	Request *genai.GenerateContentRequest `json:"request"`
}

// Generate implements backend.Backend: chunks are joined.
func (b *Backend) Generate(ctx context.Context, req *backend.Request) (*genai.GenerateContentResponse, error) {
	var text strings.Builder
	resp, err := b.generate(ctx, req, func(piece string) error {
		text.WriteString(piece)
		return nil
	})
	if err != nil || text.Len() == 0 {
		return resp, err
	}
	// The result has what the chunks did not bring.
	c := resp.Candidates[0].Content
	if len(c.Parts) == 1 && c.Parts[0].Text != nil && *c.Parts[0].Text == "" {
		c.Parts = nil
	}
	c.Parts = append([]genai.Part{genai.TextPart(text.String())}, c.Parts...)
	return resp, nil
}

// errLeft ends a job whose answer nobody listens to any more.
var errLeft = errors.New("the listener has left")

// Stream implements backend.Streamer. The result is the last chunk.
func (b *Backend) Stream(ctx context.Context, req *backend.Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		last, err := b.generate(ctx, req, func(piece string) error {
			content := &genai.Content{Role: "model", Parts: []genai.Part{genai.TextPart(piece)}}
			if !yield(&genai.GenerateContentResponse{ModelVersion: req.Model, Candidates: []genai.Candidate{{Content: content}}}, nil) {
				return errLeft
			}
			return nil
		})
		if err != errLeft {
			yield(last, err)
		}
	}
}

// generate runs the command. Each chunk's text goes to say; the answer has the rest.
func (b *Backend) generate(ctx context.Context, req *backend.Request, say func(string) error) (*genai.GenerateContentResponse, error) {
	j, err := b.job()
	if err != nil {
		return nil, err
	}
	defer b.closeJob(j)
	said := 0
	res, err := b.run(ctx, j, contentInput{"generate", req.Model, req.Body}, func(line any) error {
		switch l := line.(type) {
		case *chunk:
			if l.Text == "" {
				return nil
			}
			if said += len(l.Text); said > maxAnswer {
				return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the command's answer has more than %d MiB of text", maxAnswer>>20)}
			}
			return say(l.Text)
		case *progress:
			b.log.Debug("the command makes progress", "percent", l.Percent, "message", l.Message)
		}
		return nil // An answer has no checkpoints.
	})
	if err != nil {
		return nil, err
	}
	resp := new(genai.GenerateContentResponse)
	if res.Response != nil {
		if err := genai.Decode(res.Response, resp); err != nil {
			return nil, &backend.Error{Kind: backend.Internal, Message: "the command's result is not an answer of generateContent", Cause: err}
		}
	}
	if err := complete(resp, req, said); err != nil {
		return nil, err
	}
	return resp, nil
}

// complete checks an answer and adds what a command may leave out: the end of an
// answer, roles, ids of calls, and a count of tokens, which is an estimate then.
// said is how many bytes of text the chunks brought.
func complete(r *genai.GenerateContentResponse, req *backend.Request, said int) error {
	if len(r.Candidates) == 0 && said > 0 {
		r.Candidates = []genai.Candidate{{}}
	}
	if len(r.Candidates) == 0 && r.PromptFeedback == nil {
		return &backend.Error{Kind: backend.Internal, Message: "the command's result has no response with candidates, and no chunk came before it"}
	}
	tokens := (said + 3) / 4
	for i := range r.Candidates {
		c := &r.Candidates[i]
		c.Index = i
		if c.FinishReason == "" {
			c.FinishReason = genai.FinishStop
		}
		if c.Content == nil && (c.FinishReason == genai.FinishStop || i == 0 && said > 0) {
			c.Content = &genai.Content{}
		}
		if c.Content == nil {
			continue // Held back.
		}
		c.Content.Role = "model"
		if len(c.Content.Parts) == 0 {
			c.Content.Parts = []genai.Part{genai.TextPart("")}
		}
		for k := range c.Content.Parts {
			if err := completeCall(c.Content.Parts[k].FunctionCall); err != nil {
				return err
			}
		}
		tokens += backend.EstimateTokens(&genai.GenerateContentRequest{Contents: []genai.Content{*c.Content}})
	}
	if r.UsageMetadata == nil {
		r.UsageMetadata = &genai.UsageMetadata{PromptTokenCount: backend.EstimateTokens(req.Body), CandidatesTokenCount: tokens}
	}
	if u := r.UsageMetadata; u.TotalTokenCount == 0 {
		u.TotalTokenCount = u.PromptTokenCount + u.CandidatesTokenCount + u.ThoughtsTokenCount
	}
	if r.ModelVersion == "" {
		r.ModelVersion = req.Model
	}
	return nil
}

// completeCall checks a function call; nil is fine.
func completeCall(f *genai.FunctionCall) error {
	if f == nil {
		return nil
	}
	var args map[string]json.RawMessage
	if f.Args != nil {
		if err := json.Unmarshal(f.Args, &args); err != nil || args == nil {
			return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the command calls %s with args that are not an object", f.Name), Cause: err}
		}
	}
	if f.Name == "" {
		return &backend.Error{Kind: backend.Internal, Message: "the command calls a function without a name"}
	}
	if f.ID == "" {
		f.ID = "call_" + strings.ToLower(rand.Text()[:12])
	}
	return nil
}
