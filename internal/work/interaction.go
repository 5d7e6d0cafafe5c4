package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

// maxTurns bounds how long a chain of previous interactions may be.
const maxTurns = 1000

// runInteraction runs an interaction. The error is not nil only when the run was
// cut off or the history can't be read; what a back-end says becomes a Result.
func runInteraction(ctx context.Context, jobs store.Jobs, be backend.Backend, j *ringback.Job) (Result, error) {
	var spec genai.InteractionSpec
	if err := json.Unmarshal(j.Spec, &spec); err != nil {
		return Result{}, fmt.Errorf("spec of interaction %s: %w", j.ID, err)
	}
	steps, err := history(ctx, jobs, j.Project, ringback.ID(spec.PreviousInteractionID))
	if err != nil {
		if errors.Is(err, ringback.NotFound) {
			return failedInteraction("not_found", "an earlier interaction of the conversation was deleted")
		}
		// What will not be better next time ends the job; it would be run for ever.
		if errors.Is(err, ringback.FailedPrecondition) {
			return failedInteraction("failed_precondition", fmt.Sprintf("the conversation is longer than %d interactions", maxTurns))
		}
		return Result{}, err
	}
	req, err := interactionRequest(&spec, append(steps, spec.Steps...))
	if err != nil {
		return failedInteraction("invalid_request", err.Error())
	}
	resp, err := be.Generate(ctx, &backend.Request{Model: j.Model, Body: req})
	if err != nil {
		if ctx.Err() != nil {
			return Result{}, context.Cause(ctx)
		}
		e := backend.AsError(err)
		return failedInteraction(interactionCode(e.Kind), e.Message)
	}
	return interactionResult(resp)
}

// interactionCode maps a back-end's error to the codes of wire contract §5.10.
func interactionCode(k backend.Kind) string {
	switch k {
	case backend.InvalidRequest:
		return "invalid_request"
	case backend.ModelNotFound:
		return "model_not_found"
	case backend.RateLimited:
		return "rate_limit_exceeded"
	case backend.Unavailable:
		return "service_unavailable"
	case backend.Timeout:
		return "gateway_timeout"
	}
	return "api_error"
}

// failedInteraction is a failure with the step that shows it (§5.5.4).
func failedInteraction(code, message string) (Result, error) {
	out, err := json.Marshal(genai.InteractionOutput{Steps: []genai.Step{{
		Type: genai.StepModelOutput, Content: []genai.StepContent{}, Error: &genai.StepError{Code: grpcInternal, Message: message}}}})
	r := failure(code, message)
	r.Output = out
	return r, err
}

// grpcInternal is google.rpc.Code INTERNAL.
const grpcInternal = 13

// history collects the steps of a conversation, oldest first.
func history(ctx context.Context, jobs store.Jobs, project, id ringback.ID) ([]genai.Step, error) {
	var turns [][]genai.Step
	for id != "" {
		if len(turns) == maxTurns {
			return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("the conversation is longer than %d interactions", maxTurns)}
		}
		j, err := jobs.Job(ctx, project, id)
		if err != nil {
			return nil, fmt.Errorf("earlier interaction: %w", err)
		}
		var spec genai.InteractionSpec
		var out genai.InteractionOutput
		if err := json.Unmarshal(j.Spec, &spec); err != nil {
			return nil, fmt.Errorf("spec of interaction %s: %w", id, err)
		}
		if j.Output != nil {
			if err := json.Unmarshal(j.Output, &out); err != nil {
				return nil, fmt.Errorf("output of interaction %s: %w", id, err)
			}
		}
		turns = append(turns, append(spec.Steps, out.Steps...))
		id = ringback.ID(spec.PreviousInteractionID)
	}
	slices.Reverse(turns)
	return slices.Concat(turns...), nil
}

// interactionRequest translates an interaction to the shape of back-ends.
func interactionRequest(spec *genai.InteractionSpec, steps []genai.Step) (*genai.GenerateContentRequest, error) {
	req := &genai.GenerateContentRequest{}
	if spec.SystemInstruction != "" {
		req.SystemInstruction = &genai.Content{Parts: []genai.Part{genai.TextPart(spec.SystemInstruction)}}
	}
	names := make(map[string]string) // Of functions, by call id.
	for i := range steps {
		role, parts, err := stepParts(&steps[i], names)
		if err != nil {
			return nil, err
		}
		if len(parts) == 0 {
			continue
		}
		// Steps of one side in a row are one turn.
		if n := len(req.Contents); n > 0 && req.Contents[n-1].Role == role {
			req.Contents[n-1].Parts = append(req.Contents[n-1].Parts, parts...)
		} else {
			req.Contents = append(req.Contents, genai.Content{Role: role, Parts: parts})
		}
	}
	var functions []genai.FunctionDeclaration
	for _, t := range spec.Tools {
		functions = append(functions, genai.FunctionDeclaration{Name: t.Name, Description: t.Description, ParametersJSONSchema: t.Parameters})
	}
	if functions != nil {
		req.Tools = []genai.Tool{{FunctionDeclarations: functions}}
	}
	return req, applyGeneration(req, spec)
}

// stepParts translates one step, and notes the names of calls.
func stepParts(s *genai.Step, names map[string]string) (role string, parts []genai.Part, err error) {
	switch s.Type {
	case genai.StepUserInput, genai.StepModelOutput:
		role = "user"
		if s.Type == genai.StepModelOutput {
			role = "model"
		}
		for i := range s.Content {
			c := &s.Content[i]
			if c.Type == "text" {
				parts = append(parts, genai.TextPart(c.Text))
			} else {
				parts = append(parts, genai.Part{InlineData: &genai.Blob{MimeType: c.MimeType, Data: c.Data}})
			}
		}
		return role, parts, nil
	case genai.StepThought:
		var texts []string
		for _, c := range s.Summary {
			texts = append(texts, c.Text)
		}
		text := strings.Join(texts, "")
		return "model", []genai.Part{{Thought: true, Text: &text, ThoughtSignature: s.Signature}}, nil
	case genai.StepFunctionCall:
		names[s.ID] = s.Name
		return "model", []genai.Part{{FunctionCall: &genai.FunctionCall{ID: s.ID, Name: s.Name, Args: s.Arguments}, ThoughtSignature: s.Signature}}, nil
	case genai.StepFunctionResult:
		name := s.Name
		if name == "" {
			if name = names[s.CallID]; name == "" {
				return "", nil, fmt.Errorf("input: function_result %q answers no function_call of this conversation", s.CallID)
			}
		}
		result, err := resultObject(s)
		if err != nil {
			return "", nil, err
		}
		return "user", []genai.Part{{FunctionResponse: &genai.FunctionResponse{ID: s.CallID, Name: name, Response: result}}}, nil
	}
	return "", nil, fmt.Errorf("input: steps of type %q are not supported by this version", s.Type)
}

// resultObject makes an object of a result, which may be any JSON.
func resultObject(s *genai.Step) (json.RawMessage, error) {
	key := "result"
	if s.IsError {
		key = "error"
	}
	result := bytes.TrimSpace(s.Result)
	if len(result) == 0 {
		result = []byte("null")
	}
	if result[0] == '{' && !s.IsError {
		return result, nil
	}
	return json.Marshal(map[string]json.RawMessage{key: result})
}

func applyGeneration(req *genai.GenerateContentRequest, spec *genai.InteractionSpec) error {
	g := spec.GenerationConfig
	if g == nil && !spec.JSON {
		return nil
	}
	c := &genai.GenerationConfig{}
	req.GenerationConfig = c
	if spec.JSON {
		c.ResponseMimeType, c.ResponseJSONSchema = "application/json", spec.Schema
	}
	if g == nil {
		return nil
	}
	c.Temperature, c.TopP, c.MaxOutputTokens, c.Seed = g.Temperature, g.TopP, g.MaxOutputTokens, g.Seed
	c.StopSequences, c.PresencePenalty, c.FrequencyPenalty = g.StopSequences, g.PresencePenalty, g.FrequencyPenalty
	if g.ThinkingLevel != "" {
		level, err := json.Marshal(map[string]string{"thinkingLevel": strings.ToLower(g.ThinkingLevel)})
		if err != nil {
			return err
		}
		c.ThinkingConfig = level
	}
	if g.ToolChoice == nil {
		return nil
	}
	choice := &genai.FunctionCallingConfig{}
	if err := json.Unmarshal(g.ToolChoice, &choice.Mode); err != nil {
		var allowed genai.AllowedTools
		if err := genai.Decode(g.ToolChoice, &allowed); err != nil {
			return fmt.Errorf("generation_config.tool_choice: %w", err)
		}
		choice.Mode, choice.AllowedFunctionNames = allowed.AllowedTools.Mode, allowed.AllowedTools.Tools
	}
	choice.Mode = strings.ToUpper(choice.Mode)
	req.ToolConfig = &genai.ToolConfig{FunctionCallingConfig: choice}
	return nil
}

// interactionResult translates an answer.
func interactionResult(resp *genai.GenerateContentResponse) (Result, error) {
	if f := resp.PromptFeedback; f != nil && f.BlockReason != "" {
		return failedInteraction("invalid_request", "the prompt was blocked: "+f.BlockReason)
	}
	if len(resp.Candidates) == 0 {
		return failedInteraction("api_error", "the back-end's answer is empty")
	}
	c := &resp.Candidates[0]
	out := genai.InteractionOutput{Steps: outputSteps(c.Content), Usage: interactionUsage(resp.UsageMetadata)}
	r := Result{State: ringback.Completed}
	switch {
	case slices.ContainsFunc(out.Steps, func(s genai.Step) bool { return s.Type == genai.StepFunctionCall }):
		r.State = ringback.RequiresAction
	case c.FinishReason == genai.FinishMaxTokens:
		r.State = ringback.Incomplete
	case c.FinishReason != genai.FinishStop && c.FinishReason != "":
		r = failure("api_error", "the model ended its answer with "+c.FinishReason)
		markFailed(&out, r.Failure.Message)
	}
	var err error
	if r.Output, err = json.Marshal(out); err != nil {
		return Result{}, fmt.Errorf("output: %w", err)
	}
	return r, nil
}

// markFailed puts an error on the last step of the model, which is added if the
// model said nothing (§5.5.4).
func markFailed(out *genai.InteractionOutput, message string) {
	e := &genai.StepError{Code: grpcInternal, Message: message}
	if n := len(out.Steps); n > 0 && out.Steps[n-1].Type == genai.StepModelOutput {
		out.Steps[n-1].Error = e
		return
	}
	out.Steps = append(out.Steps, genai.Step{Type: genai.StepModelOutput, Content: []genai.StepContent{}, Error: e})
}

// outputSteps makes one step of each run of text, each thought and each call.
func outputSteps(c *genai.Content) []genai.Step {
	steps := []genai.Step{}
	if c == nil {
		return steps
	}
	for i := range c.Parts {
		p := &c.Parts[i]
		switch {
		case p.FunctionCall != nil:
			args := p.FunctionCall.Args
			if args == nil {
				args = json.RawMessage("{}")
			}
			id := p.FunctionCall.ID
			if id == "" {
				id = fmt.Sprintf("call_%d", i)
			}
			steps = append(steps, genai.Step{Type: genai.StepFunctionCall, ID: id, Name: p.FunctionCall.Name, Arguments: args, Signature: p.ThoughtSignature})
		case p.Thought && p.Text != nil:
			steps = append(steps, genai.Step{Type: genai.StepThought, Signature: p.ThoughtSignature,
				Summary: []genai.StepContent{{Type: "text", Text: *p.Text}}})
		case p.Text != nil:
			text := genai.StepContent{Type: "text", Text: *p.Text}
			if n := len(steps); n > 0 && steps[n-1].Type == genai.StepModelOutput {
				steps[n-1].Content = append(steps[n-1].Content, text)
			} else {
				steps = append(steps, genai.Step{Type: genai.StepModelOutput, Content: []genai.StepContent{text}})
			}
		case p.InlineData != nil:
			kind, _, _ := strings.Cut(p.InlineData.MimeType, "/")
			steps = append(steps, genai.Step{Type: genai.StepModelOutput,
				Content: []genai.StepContent{{Type: kind, Data: p.InlineData.Data, MimeType: p.InlineData.MimeType}}})
		}
	}
	return steps
}

func interactionUsage(u *genai.UsageMetadata) *genai.InteractionUsage {
	if u == nil {
		return nil
	}
	out := &genai.InteractionUsage{TotalTokens: u.TotalTokenCount, TotalInputTokens: u.PromptTokenCount,
		TotalOutputTokens: u.CandidatesTokenCount, TotalCachedTokens: u.CachedContentTokenCount, TotalThoughtTokens: u.ThoughtsTokenCount}
	for _, d := range u.PromptTokensDetails {
		out.InputTokensByModality = append(out.InputTokensByModality, genai.ModalityTokens{Modality: strings.ToLower(d.Modality), Tokens: d.TokenCount})
	}
	return out
}
