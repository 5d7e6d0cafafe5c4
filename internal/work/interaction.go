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
	"ringback.dev/internal/schema"
	"ringback.dev/internal/store"
)

// maxTurns bounds how long a chain of previous interactions may be.
const maxTurns = 1000

// runInteraction runs an interaction. The events of a stream go to tell, or are
// recorded if that is nil. The error is not nil only when the run was cut off or
// the history can't be read; what a back-end says becomes a Result.
func (r *Runner) runInteraction(ctx context.Context, j *ringback.Job, lease ringback.Lease, tell func(*genai.InteractionEvent) error) (Result, error) {
	var spec genai.InteractionSpec
	if err := json.Unmarshal(j.Spec, &spec); err != nil {
		return Result{}, fmt.Errorf("spec of interaction %s: %w", j.ID, err)
	}
	if spec.Video != nil {
		return r.videoInteraction(ctx, j, lease, spec.Video)
	}
	steps, err := history(ctx, r.Store, j.Project, ringback.ID(spec.PreviousInteractionID))
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
	if spec.Stream {
		return r.streamInteraction(ctx, j, lease, &spec, req, tell)
	}
	t := newTalk(&spec, func(*genai.InteractionEvent) error { return nil })
	resp, err := r.Backend.Generate(ctx, &backend.Request{Model: j.Model, Body: req, Project: j.Project})
	if err == nil {
		err = t.chunk(resp)
	} else if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	return conclude(&spec, t, err)
}

// streamInteraction runs an interaction whose answer is told as it comes.
func (r *Runner) streamInteraction(ctx context.Context, j *ringback.Job, lease ringback.Lease, spec *genai.InteractionSpec, req *genai.GenerateContentRequest, tell func(*genai.InteractionEvent) error) (Result, error) {
	t := newTalk(spec, tell)
	if tell != nil {
		return r.converse(ctx, j, spec, req, t)
	}
	next := int64(firstStored)
	if j.Runs > 1 {
		var err error
		if next, err = r.recall(ctx, j, t); err != nil {
			return Result{}, fmt.Errorf("what was told of interaction %s: %w", j.ID, err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	rec := r.record(ctx, j, lease, next, cancel)
	t.tell = rec.tell
	res, err := r.converse(ctx, j, spec, req, t)
	rec.close() // Before the end is: nothing can be added to the stream then.
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return res, err
}

// converse has the back-end answer, and t tell of it.
func (r *Runner) converse(ctx context.Context, j *ringback.Job, spec *genai.InteractionSpec, req *genai.GenerateContentRequest, t *talk) (Result, error) {
	var said error
	for chunk, err := range backend.Stream(ctx, r.Backend, &backend.Request{Model: j.Model, Body: req, Project: j.Project, Pieces: true}) {
		if err == nil {
			err = t.chunk(chunk)
		}
		if err != nil {
			said = err
			break
		}
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	return conclude(spec, t, said)
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
	case backend.OutOfBudget:
		return "payment_required"
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
			switch {
			case c.Type == "text":
				parts = append(parts, genai.TextPart(c.Text))
			case c.URI != "":
				parts = append(parts, genai.Part{FileData: &genai.FileData{MimeType: c.MimeType, FileURI: c.URI}})
			default:
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

// safetySetting and thinkingConfig are those of the classic surface (§8.2).
type safetySetting struct {
	Category  string `json:"category"`
	Threshold string `json:"threshold,omitempty"`
	Method    string `json:"method,omitempty"`
}

type thinkingConfig struct {
	ThinkingLevel   string `json:"thinkingLevel,omitempty"`
	IncludeThoughts bool   `json:"includeThoughts,omitempty"`
}

func applyGeneration(req *genai.GenerateContentRequest, spec *genai.InteractionSpec) error {
	for _, s := range spec.SafetySettings {
		raw, err := json.Marshal(safetySetting{"HARM_CATEGORY_" + strings.ToUpper(s.Type), strings.ToUpper(s.Threshold), strings.ToUpper(s.Method)})
		if err != nil {
			return err
		}
		req.SafetySettings = append(req.SafetySettings, raw)
	}
	g := spec.GenerationConfig
	if g == nil && !spec.JSON && spec.ResponseModalities == nil {
		return nil
	}
	c := &genai.GenerationConfig{}
	for _, m := range spec.ResponseModalities {
		c.ResponseModalities = append(c.ResponseModalities, strings.ToUpper(m))
	}
	req.GenerationConfig = c
	if spec.JSON {
		c.ResponseMimeType, c.ResponseJSONSchema = "application/json", spec.Schema
	}
	if g == nil {
		return nil
	}
	c.Temperature, c.TopP, c.MaxOutputTokens, c.Seed = g.Temperature, g.TopP, g.MaxOutputTokens, g.Seed
	c.StopSequences, c.PresencePenalty, c.FrequencyPenalty = g.StopSequences, g.PresencePenalty, g.FrequencyPenalty
	if g.ThinkingLevel != "" || strings.EqualFold(g.ThinkingSummaries, "auto") {
		thinking, err := json.Marshal(thinkingConfig{strings.ToLower(g.ThinkingLevel), strings.EqualFold(g.ThinkingSummaries, "auto")})
		if err != nil {
			return err
		}
		c.ThinkingConfig = thinking
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

// conclude makes the result of what was said. err is what ended the answer early.
func conclude(spec *genai.InteractionSpec, t *talk, err error) (Result, error) {
	if e := t.close(); err == nil {
		err = e
	}
	out := t.output()
	r := Result{State: ringback.Completed}
	fail := func(code, message string) {
		r = failure(code, message)
		markFailed(&out, message)
	}
	switch f := t.feedback; {
	case err != nil:
		e := backend.AsError(err)
		fail(interactionCode(e.Kind), e.Message)
		if e.Kind == backend.OutOfBudget {
			r.State = ringback.BudgetExceeded
		}
	case f != nil && f.BlockReason != "":
		fail("invalid_request", "the prompt was blocked: "+f.BlockReason)
	case slices.ContainsFunc(out.Steps, func(s genai.Step) bool { return s.Type == genai.StepFunctionCall }):
		r.State = ringback.RequiresAction
	case t.finish == genai.FinishMaxTokens:
		r.State = ringback.Incomplete
	case t.finish != genai.FinishStop && t.finish != "":
		fail("api_error", "the model ended its answer with "+t.finish)
	case len(out.Steps) == 0 && t.finish == "":
		fail("api_error", "the back-end's answer is empty")
	case spec.JSON:
		if err := checkJSON(spec, out.Steps); err != nil {
			fail("api_error", "the model's answer is not what response_format asks for: "+err.Error())
		}
	}
	if r.Output, err = json.Marshal(out); err != nil {
		return Result{}, fmt.Errorf("output: %w", err)
	}
	return r, nil
}

// checkJSON makes sure that an answer in JSON is one, and satisfies its schema.
func checkJSON(spec *genai.InteractionSpec, steps []genai.Step) error {
	var text strings.Builder
	for i := range steps {
		if steps[i].Type != genai.StepModelOutput {
			continue
		}
		for _, c := range steps[i].Content {
			text.WriteString(c.Text)
		}
	}
	return schema.Check(spec.Schema, []byte(text.String()))
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

// mediaContent shows data of the model as content.
func mediaContent(b *genai.Blob) genai.StepContent {
	kind, _, _ := strings.Cut(b.MimeType, "/")
	switch kind {
	case "image", "audio", "video":
	default:
		kind = "document"
	}
	return genai.StepContent{Type: kind, Data: b.Data, MimeType: b.MimeType}
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
