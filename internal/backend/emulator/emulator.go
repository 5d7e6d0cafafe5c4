// Package emulator is a back-end without a model, for trying things out and for
// tests. It is deterministic: the same request gets the same answer. And it is
// honest: every text that it makes up says that no model ran. A scenario file
// scripts other answers, delays and errors (scenario.go, docs/emulator.md).
package emulator

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"iter"
	"slices"
	"strings"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/spare"
)

// Name is the model that the emulator lists; it answers to any other name too.
const Name = "ringback-emulator"

// Backend implements backend.Backend. Make one with New.
type Backend struct{ scenario *Scenario }

// New returns an emulator that follows a scenario; nil means none.
func New(s *Scenario) *Backend { return &Backend{scenario: s} }

// Models implements backend.ModelLister.
func (b *Backend) Models(context.Context) ([]genai.Model, error) {
	m := backend.Describe(Name)
	m.Description = "No model: the emulator built into ringback. It answers to every model name."
	return []genai.Model{m}, nil
}

// CountTokens implements backend.TokenCounter by the emulator's own rule: one
// token for each four bytes of text.
func (b *Backend) CountTokens(_ context.Context, req *backend.Request) (int, error) {
	return backend.EstimateTokens(req.Body), nil
}

// Generate implements backend.Backend.
func (b *Backend) Generate(ctx context.Context, req *backend.Request) (resp *genai.GenerateContentResponse, err error) {
	rule := b.scenario.match(req)
	if err := rule.wait(ctx, rule.delay()); err != nil {
		return nil, err
	}
	if err := rule.fail(); err != nil {
		return nil, err
	}
	if req.Turn.Batch == "" {
		return answer(req, rule)
	}
	spare.Do(func() { resp, err = answer(req, rule) })
	return resp, err
}

// Stream implements backend.Streamer: the answer of Generate, word by word.
func (b *Backend) Stream(ctx context.Context, req *backend.Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		rule := b.scenario.match(req)
		if err := rule.wait(ctx, rule.delay()); err != nil {
			yield(nil, err)
			return
		}
		if err := rule.fail(); err != nil {
			yield(nil, err)
			return
		}
		whole, err := answer(req, rule)
		if err != nil {
			yield(nil, err)
			return
		}
		for i, chunk := range chunks(whole, req.Pieces) {
			if i > 0 {
				if err := rule.wait(ctx, rule.chunkDelay()); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yield(chunk, nil) {
				return
			}
		}
	}
}

// answer makes the whole answer.
func answer(req *backend.Request, rule *Rule) (*genai.GenerateContentResponse, error) {
	if g := req.Body.GenerationConfig; g != nil {
		for _, m := range g.ResponseModalities {
			if !strings.EqualFold(m, "TEXT") {
				return nil, &backend.Error{Kind: backend.InvalidRequest, Message: fmt.Sprintf("generationConfig.responseModalities: the emulator makes text only, not %s", m)}
			}
		}
	}
	var parts []genai.Part
	reason := genai.FinishStop
	calls := rule.calls()
	for i := range calls {
		args, err := json.Marshal(calls[i].Args)
		if err != nil {
			return nil, fmt.Errorf("scenario: arguments of %s: %w", calls[i].Name, err)
		}
		if calls[i].Args == nil {
			args = []byte("{}")
		}
		part := call(calls[i].Name, args)
		if i > 0 { // Two calls may be alike, but not their ids.
			part.FunctionCall.ID += fmt.Sprintf("_%d", i)
		}
		parts = append(parts, part)
	}
	switch {
	case parts != nil:
	case rule != nil && rule.Text != "":
		parts = []genai.Part{genai.TextPart(rule.Text)}
	default:
		p, err := improvise(req)
		if err != nil {
			return nil, err
		}
		parts = []genai.Part{p}
	}
	if rule != nil && rule.FinishReason != "" {
		reason = rule.FinishReason
	}
	if g := req.Body.GenerationConfig; g != nil && g.MaxOutputTokens != nil && parts[0].Text != nil {
		if limit := *g.MaxOutputTokens * 4; limit >= 0 && len(*parts[0].Text) > limit {
			parts[0], reason = genai.TextPart(strings.ToValidUTF8((*parts[0].Text)[:limit], "")), genai.FinishMaxTokens
		}
	}
	if rule != nil && rule.Thought != "" {
		parts = append([]genai.Part{{Thought: true, Text: &rule.Thought, ThoughtSignature: signature}}, parts...)
	}
	content := &genai.Content{Role: "model", Parts: parts}
	in := backend.EstimateTokens(req.Body)
	out := backend.EstimateTokens(&genai.GenerateContentRequest{Contents: []genai.Content{*content}})
	return &genai.GenerateContentResponse{
		Candidates: []genai.Candidate{{Content: content, FinishReason: reason}},
		UsageMetadata: &genai.UsageMetadata{PromptTokenCount: in, CandidatesTokenCount: out, TotalTokenCount: in + out,
			PromptTokensDetails: []genai.ModalityCount{{Modality: "TEXT", TokenCount: in}}},
		ModelVersion: Name,
		ResponseID:   digest(req),
	}, nil
}

// improvise makes up the one part of an answer for which there is no script.
func improvise(req *backend.Request) (genai.Part, error) {
	last := lastParts(req.Body)
	var results []string
	for _, p := range last {
		if r := p.FunctionResponse; r != nil {
			results = append(results, r.Name+" returned "+string(r.Response))
		}
	}
	if len(results) > 0 {
		return genai.TextPart(fmt.Sprintf("[ringback emulator] The function %s. No model ran.", strings.Join(results, "; "))), nil
	}
	prompt := textOf(last)
	if f := wanted(req.Body, prompt); f != nil {
		schema, err := f.Schema()
		if err != nil {
			return genai.Part{}, &backend.Error{Kind: backend.InvalidRequest, Message: "tools: the parameters of " + f.Name + ": " + err.Error()}
		}
		args, err := sample(schema, "object")
		if err != nil {
			return genai.Part{}, &backend.Error{Kind: backend.InvalidRequest, Message: "tools: the parameters of " + f.Name + ": " + err.Error()}
		}
		return call(f.Name, args), nil
	}
	isJSON, schema, err := req.Body.GenerationConfig.JSONMode()
	if err != nil {
		return genai.Part{}, &backend.Error{Kind: backend.InvalidRequest, Message: "generationConfig.responseSchema: " + err.Error()}
	}
	if isJSON {
		text, err := sample(schema, "")
		if err != nil {
			return genai.Part{}, &backend.Error{Kind: backend.InvalidRequest, Message: "generationConfig.responseSchema: " + err.Error()}
		}
		return genai.TextPart(string(text)), nil
	}
	text := fmt.Sprintf("[ringback emulator] No model ran. %s was asked %q (%d bytes, turn %d, digest %s).",
		req.Model, shorten(prompt), len(prompt), len(req.Body.Contents), digest(req))
	for _, p := range last {
		switch {
		case p.InlineData != nil:
			text += fmt.Sprintf(" It came with %s, %d bytes.", p.InlineData.MimeType, base64Bytes(p.InlineData.Data))
		case p.FileData != nil:
			text += " It pointed to a file, which was not looked at."
		}
	}
	if s := req.Body.SystemInstruction; s != nil {
		text += fmt.Sprintf(" The system instruction has %d bytes.", len(textOf(s.Parts)))
	}
	return genai.TextPart(text), nil
}

// base64Bytes is how many bytes a text in base64 stands for.
func base64Bytes(text string) int { return len(strings.TrimRight(text, "=")) * 3 / 4 }

// shorten cuts a prompt to what is shown of it.
func shorten(prompt string) string {
	if r := []rune(prompt); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return prompt
}

// wanted returns the function to call: with mode ANY the first that is allowed,
// otherwise the one whose name the prompt holds.
func wanted(body *genai.GenerateContentRequest, prompt string) *genai.FunctionDeclaration {
	mode, allowed := "AUTO", []string(nil)
	if c := body.ToolConfig; c != nil && c.FunctionCallingConfig != nil {
		mode, allowed = strings.ToUpper(c.FunctionCallingConfig.Mode), c.FunctionCallingConfig.AllowedFunctionNames
	}
	if mode == "NONE" {
		return nil
	}
	for _, tool := range body.Tools {
		for i := range tool.FunctionDeclarations {
			f := &tool.FunctionDeclarations[i]
			if len(allowed) > 0 && !slices.Contains(allowed, f.Name) {
				continue
			}
			if mode == "ANY" || strings.Contains(prompt, f.Name) {
				return f
			}
		}
	}
	return nil
}

func call(name string, args []byte) genai.Part {
	h := fnv.New32a()
	h.Write([]byte(name))
	h.Write(args)
	return genai.Part{FunctionCall: &genai.FunctionCall{ID: fmt.Sprintf("call_%08x", h.Sum32()), Name: name, Args: args}}
}

// signature stands for what lets a model read its own thoughts again: "emulated".
const signature = "ZW11bGF0ZWQ="

// chunks cuts an answer after each word, and if pieces are wanted each call after
// each colon and comma; the last chunk carries the finish reason and the usage.
func chunks(whole *genai.GenerateContentResponse, pieces bool) []*genai.GenerateContentResponse {
	var out []*genai.GenerateContentResponse
	add := func(p genai.Part) {
		out = append(out, &genai.GenerateContentResponse{
			Candidates:   []genai.Candidate{{Content: &genai.Content{Role: "model", Parts: []genai.Part{p}}}},
			ModelVersion: whole.ModelVersion, ResponseID: whole.ResponseID,
		})
	}
	calls := 0
	for _, part := range whole.Candidates[0].Content.Parts {
		switch {
		case part.Text != nil:
			words := strings.SplitAfter(*part.Text, " ")
			for i, w := range words {
				p := genai.Part{Text: &w, Thought: part.Thought}
				if i == len(words)-1 {
					p.ThoughtSignature = part.ThoughtSignature
				}
				add(p)
			}
		case part.FunctionCall != nil && pieces:
			p := genai.CallPiece{Index: calls, ID: part.FunctionCall.ID, Name: part.FunctionCall.Name}
			for args := string(part.FunctionCall.Args); args != ""; p.ID, p.Name = "", "" {
				n := strings.IndexAny(args, ":,") + 1
				if n == 0 {
					n = len(args)
				}
				p.Arguments, args = args[:n], args[n:]
				piece := p
				add(genai.Part{CallPiece: &piece})
			}
			calls++
		default:
			add(part)
		}
	}
	last := out[len(out)-1]
	last.Candidates[0].FinishReason, last.UsageMetadata = whole.Candidates[0].FinishReason, whole.UsageMetadata
	return out
}

// digest is a short hash of all that determines the answer.
func digest(req *backend.Request) string {
	h := fnv.New32a()
	h.Write([]byte(req.Model))
	if err := json.NewEncoder(h).Encode(req.Body); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%08x", h.Sum32())
}

// lastParts returns the parts of the last turn.
func lastParts(body *genai.GenerateContentRequest) []genai.Part {
	if len(body.Contents) == 0 {
		return nil
	}
	return body.Contents[len(body.Contents)-1].Parts
}

func textOf(parts []genai.Part) string {
	var texts []string
	for _, p := range parts {
		if p.Text != nil && !p.Thought {
			texts = append(texts, *p.Text)
		}
	}
	return strings.Join(texts, " ")
}

// wait waits for d, or until ctx ends.
func (r *Rule) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
