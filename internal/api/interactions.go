package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/schema"
)

// createInteraction answers a background interaction at once and a foreground
// one when it has ended. A back-end's failure is no HTTP error: the answer is
// the failed resource (wire contract §5.5.4), for either kind, because the
// interaction exists and can be got again. Only a model name that no back-end
// has is refused before anything is stored.
func (a *api) createInteraction(c *call) (any, error) {
	body, err := a.body(c)
	if err != nil {
		return nil, err
	}
	mark, earlier, err := a.idempotency(c, body)
	if err != nil {
		return nil, err
	}
	if earlier != "" {
		return a.sendEarlier(c, earlier)
	}
	var q genai.CreateInteraction
	if err := genai.Decode(body, &q); err != nil {
		return nil, invalid("%v", err)
	}
	q.Stream = q.Stream || c.wantsStream()
	if q.ContinuationToken != "" {
		return a.continueInteraction(c, q.ContinuationToken)
	}
	spec, err := interactionSpec(&q)
	if err != nil {
		return nil, err
	}
	if r, ok := a.Backend.(backend.Resolver); ok {
		if err := r.Resolve(q.Model); err != nil {
			return nil, err
		}
	}
	if spec.Video != nil {
		err = a.videoInput(c, spec)
	} else {
		err = a.checkHistory(c, spec)
	}
	if err != nil {
		return nil, err
	}
	webhooks, err := a.dynamicWebhooks("webhook_config", q.WebhookConfig)
	if err != nil {
		return nil, err
	}
	stored, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	j := &ringback.Job{ID: ringback.NewInteractionID(c.now), Project: c.project, Kind: ringback.KindInteraction, Model: q.Model, Spec: stored, Webhooks: webhooks, Idempotency: mark}
	unstored := q.Store != nil && !*q.Store
	if unstored && q.Stream {
		return a.streamUnstored(c, j, spec)
	}
	done := j
	earlier, err = a.once(c, mark, func() (err error) {
		switch {
		case q.Background:
			err = a.Runner.Submit(c.Context(), j)
		case unstored:
			done, err = a.Runner.DoUnstored(c.Context(), j, nil)
		case q.Stream || a.AnswerWithin > 0:
			err = a.Runner.Begin(c.Context(), j)
		default:
			done, err = a.Runner.Do(c.Context(), j)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case earlier != "":
		return a.sendEarlier(c, earlier)
	case q.Stream && q.Background:
		_, err = (&streamed{a, c, j, spec, a.Manage.Closing}).follow(0)
		return nil, err
	case q.Stream:
		return a.streamForeground(c, j, spec)
	case a.AnswerWithin > 0 && !q.Background && !unstored:
		return a.await(c, j.ID, 1)
	}
	return a.renderInteraction(c, done, spec, false)
}

// sendEarlier answers a creation that was made before, under the same key.
func (a *api) sendEarlier(c *call, id ringback.ID) (any, error) {
	s, err := a.streamOf(c, id)
	if err != nil {
		return nil, err
	}
	if s.spec.Stream {
		_, err = s.follow(0)
		return nil, err
	}
	return a.renderInteraction(c, s.job, s.spec, false)
}

// interactionSpec validates a request. Errors name the field.
func interactionSpec(q *genai.CreateInteraction) (*genai.InteractionSpec, error) {
	unsupported := func(field, instead string) error {
		return invalid("%s: it is not supported by this version%s", field, instead)
	}
	q.Model = strings.TrimPrefix(q.Model, "models/")
	switch {
	case q.Agent != "":
		return nil, unsupported("agent", "; give a model")
	case q.Model == "":
		return nil, invalid("model: it is required")
	case len(q.Model) > maxNameLength:
		return nil, invalid("model: a name has at most %d bytes", maxNameLength)
	case given(q.WebhookConfig) && q.Store != nil && !*q.Store:
		return nil, invalid("webhook_config: an interaction that is not stored has no events; leave out store or webhook_config")
	case q.Background && q.Store != nil && !*q.Store:
		return nil, invalid("store: a background interaction must be stored")
	case q.PreviousInteractionID != "" && len(q.PreviousInteractionID) > maxNameLength:
		return nil, invalid("previous_interaction_id: there is no such interaction")
	}
	for _, m := range q.ResponseModalities {
		switch strings.ToLower(m) {
		case "text", "image", "audio", "video":
		default:
			return nil, unsupported(fmt.Sprintf("response_modalities %q", m), "")
		}
	}
	if given(q.Environment) {
		return nil, unsupported("environment", "")
	}
	for i, t := range q.Tools {
		if t.Type != "function" {
			return nil, unsupported(fmt.Sprintf("tools[%d]: the tool %q", i, t.Type), "; tools of type function are")
		}
		if t.Name == "" {
			return nil, invalid("tools[%d].name: it is required", i)
		}
	}
	spec := &genai.InteractionSpec{CreateInteraction: *q}
	spec.Input, spec.ResponseFormat = nil, nil
	if !given(q.WebhookConfig) {
		spec.WebhookConfig = nil
	}
	var err error
	if spec.Steps, err = inputSteps(q.Input); err != nil {
		return nil, err
	}
	if err := checkSteps(spec.Steps, q.PreviousInteractionID != ""); err != nil {
		return nil, err
	}
	if err := responseFormat(q, spec); err != nil {
		return nil, err
	}
	if spec.Video != nil {
		return spec, checkVideo(q)
	}
	if spec.Schema != nil {
		if err := schema.Valid(spec.Schema); err != nil {
			return nil, invalid("response_format: %v", err)
		}
	}
	return spec, checkGeneration(q.GenerationConfig)
}

// given reports whether raw JSON is there and not null.
func given(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) > 0 && string(raw) != "null"
}

// inputSteps reads the input: a string, a Content, a list of Content, or a list
// of Steps (§5.1).
func inputSteps(raw json.RawMessage) ([]genai.Step, error) {
	raw = bytes.TrimSpace(raw)
	if !given(raw) {
		return nil, invalid("input: it is required")
	}
	var text string
	var list []json.RawMessage
	switch raw[0] {
	case '"':
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, invalid("input: %v", err)
		}
		if text == "" {
			return nil, invalid("input: it is empty")
		}
		return []genai.Step{{Type: genai.StepUserInput, Content: []genai.StepContent{{Type: "text", Text: text}}}}, nil
	case '{':
		list = []json.RawMessage{raw}
	case '[':
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, invalid("input: %v", err)
		}
	default:
		return nil, invalid("input: expected a string, an object or a list")
	}
	if len(list) == 0 {
		return nil, invalid("input: it is empty")
	}
	var steps []genai.Step
	for i, item := range list {
		at := fmt.Sprintf("input[%d]", i)
		var s genai.Step
		if err := genai.Decode(item, &s); err != nil {
			return nil, invalid("%s: %v", at, err)
		}
		switch s.Type {
		case "text", "image", "audio", "video", "document":
			var content genai.StepContent
			if err := genai.Decode(item, &content); err != nil {
				return nil, invalid("%s: %v", at, err)
			}
			if err := checkContent(at, &content); err != nil {
				return nil, err
			}
			// Content without a step around it is the user's.
			if n := len(steps); n > 0 && steps[n-1].Type == genai.StepUserInput {
				steps[n-1].Content = append(steps[n-1].Content, content)
			} else {
				steps = append(steps, genai.Step{Type: genai.StepUserInput, Content: []genai.StepContent{content}})
			}
			continue
		}
		if err := checkStep(at, &s, steps); err != nil {
			return nil, err
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// checkSteps refuses an input that says nothing at all, and a function's result
// whose call can't be found: without earlier interactions it must be in the input.
func checkSteps(steps []genai.Step, continued bool) error {
	says := false
	for i := range steps {
		s := &steps[i]
		switch s.Type {
		case genai.StepUserInput, genai.StepModelOutput:
			says = says || slices.ContainsFunc(s.Content, func(c genai.StepContent) bool { return c.Type != "text" || c.Text != "" })
		case genai.StepFunctionResult:
			if s.Name == "" && !continued {
				return invalid("input[%d].call_id: no function_call %q is in the input, and there is no previous_interaction_id", i, s.CallID)
			}
			says = true
		case genai.StepFunctionCall:
			says = true
		}
	}
	if !says {
		return invalid("input: it is empty")
	}
	return nil
}

func checkStep(at string, s *genai.Step, earlier []genai.Step) error {
	switch s.Type {
	case genai.StepUserInput, genai.StepModelOutput:
		for i := range s.Content {
			if err := checkContent(fmt.Sprintf("%s.content[%d]", at, i), &s.Content[i]); err != nil {
				return err
			}
		}
	case genai.StepThought:
	case genai.StepFunctionCall:
		if s.Name == "" || s.ID == "" {
			return invalid("%s: a function_call needs an id and a name", at)
		}
		if given(s.Arguments) && bytes.TrimSpace(s.Arguments)[0] != '{' {
			return invalid("%s.arguments: expected an object", at)
		}
	case genai.StepFunctionResult:
		if s.CallID == "" {
			return invalid("%s.call_id: it is required", at)
		}
		if s.Name == "" {
			// It is found in the history when it runs, unless all of that is here.
			i := slices.IndexFunc(earlier, func(e genai.Step) bool { return e.Type == genai.StepFunctionCall && e.ID == s.CallID })
			if i >= 0 {
				s.Name = earlier[i].Name
			}
		}
	case "":
		return invalid("%s.type: it is required", at)
	default:
		return invalid("%s: steps and content of type %q are not supported by this version", at, s.Type)
	}
	return nil
}

func checkContent(at string, c *genai.StepContent) error {
	switch {
	case c.Type == "text":
		return nil
	case c.Type == "image" || c.Type == "audio" || c.Type == "video" || c.Type == "document":
	default:
		return invalid("%s: content of type %q is not supported by this version", at, c.Type)
	}
	switch {
	case c.URI != "" && c.Data != "":
		return invalid("%s: give data or uri, not both", at)
	case c.URI == "" && (c.Data == "" || c.MimeType == ""):
		return invalid("%s: %s content needs data and mime_type, or the uri of a file", at, c.Type)
	}
	return nil
}

// responseFormat reads response_format: an entry or a list of them, or a bare
// JSON schema; the older response_mime_type; and response_modalities, which may
// ask for a video, too.
func responseFormat(q *genai.CreateInteraction, spec *genai.InteractionSpec) error {
	switch strings.ToLower(q.ResponseMimeType) {
	case "", "text/plain":
	case "application/json":
		spec.JSON = true
	default:
		return invalid("response_mime_type: %q is neither text/plain nor application/json", q.ResponseMimeType)
	}
	for _, m := range q.ResponseModalities {
		if strings.EqualFold(m, "video") {
			spec.Video = &genai.InteractionVideo{VideoSpec: genai.VideoSpec{Count: 1}}
		}
	}
	if !given(q.ResponseFormat) {
		return nil
	}
	list := []json.RawMessage{q.ResponseFormat}
	if bytes.TrimSpace(q.ResponseFormat)[0] == '[' {
		if err := json.Unmarshal(q.ResponseFormat, &list); err != nil {
			return invalid("response_format: %v", err)
		}
	}
	for _, raw := range list {
		if !given(raw) {
			return invalid("response_format: an entry must not be null")
		}
		var f genai.ResponseFormat
		if err := genai.Decode(raw, &f); err != nil {
			return invalid("response_format: %v", err)
		}
		switch f.Type {
		case "text":
			if !given(f.Schema) {
				f.Schema = nil
			}
			if f.Schema != nil || strings.EqualFold(f.MimeType, "application/json") {
				spec.JSON, spec.Schema = true, f.Schema
			}
		case "video":
			var err error
			if spec.Video, err = videoFormat(&f); err != nil {
				return err
			}
		case "image", "audio":
			return invalid("response_format: %s is not supported by this version; ask for it by response_modalities, of a model that can", f.Type)
		default:
			spec.JSON, spec.Schema = true, raw // A bare schema.
		}
	}
	return nil
}

func checkGeneration(g *genai.InteractionGeneration) error {
	if g == nil {
		return nil
	}
	switch strings.ToLower(g.ThinkingLevel) {
	case "", "minimal", "low", "medium", "high":
	default:
		return invalid("generation_config.thinking_level: %q is none of minimal, low, medium, high", g.ThinkingLevel)
	}
	switch strings.ToLower(g.ThinkingSummaries) {
	case "", "auto", "none":
	default:
		return invalid("generation_config.thinking_summaries: %q is neither auto nor none", g.ThinkingSummaries)
	}
	for _, f := range []struct {
		name string
		raw  json.RawMessage
	}{{"speech_config", g.SpeechConfig}, {"image_config", g.ImageConfig}, {"video_config", g.VideoConfig}, {"transcription_config", g.Transcription}} {
		if given(f.raw) {
			return invalid("generation_config.%s: it is not supported by this version", f.name)
		}
	}
	if !given(g.ToolChoice) {
		return nil
	}
	var mode string
	if json.Unmarshal(g.ToolChoice, &mode) != nil {
		var allowed genai.AllowedTools
		if err := genai.Decode(g.ToolChoice, &allowed); err != nil {
			return invalid("generation_config.tool_choice: %v", err)
		}
		mode = allowed.AllowedTools.Mode
	}
	switch strings.ToLower(mode) {
	case "", "auto", "any", "none", "validated":
		return nil
	}
	return invalid("generation_config.tool_choice: %q is none of auto, any, none, validated", mode)
}

// checkHistory makes sure that the interaction to go on from is there and has ended.
func (a *api) checkHistory(c *call, spec *genai.InteractionSpec) error {
	id := ringback.ID(spec.PreviousInteractionID)
	if id == "" {
		return nil
	}
	j, err := a.interaction(c, id)
	if err != nil {
		return err
	}
	if !j.State.Final() {
		return &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("previous_interaction_id: interaction %s is still in progress", id)}
	}
	return nil
}

// interaction reads a stored interaction.
func (a *api) interaction(c *call, id ringback.ID) (*ringback.Job, error) {
	j, err := a.Store.Job(c.Context(), c.project, id)
	if err == nil && j.Kind != ringback.KindInteraction {
		err = ringback.NotFound
	}
	return j, notFound(err, "interaction", id)
}

// interactionWithSpec reads a stored interaction and what was asked for.
func (a *api) interactionWithSpec(c *call, id ringback.ID) (*ringback.Job, *genai.InteractionSpec, error) {
	j, err := a.interaction(c, id)
	if err != nil {
		return nil, nil, err
	}
	var spec genai.InteractionSpec
	if err := json.Unmarshal(j.Spec, &spec); err != nil {
		return nil, nil, fmt.Errorf("spec of interaction %s: %w", j.ID, err)
	}
	return j, &spec, nil
}

func (a *api) getInteraction(c *call) (any, error) {
	if c.wantsStream() {
		return a.followInteraction(c, c.id())
	}
	j, spec, err := a.interactionWithSpec(c, c.id())
	if err != nil {
		return nil, err
	}
	return a.renderInteraction(c, j, spec, c.query("include_input") == "true")
}

func (a *api) cancelInteraction(c *call) (any, error) {
	j, spec, err := a.interactionWithSpec(c, c.id())
	if err != nil {
		return nil, err
	}
	if !spec.Background {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: "only background interactions can be cancelled"}
	}
	if j, err = a.Runner.Cancel(c.Context(), c.project, j.ID); err != nil {
		return nil, notFound(err, "interaction", c.id())
	}
	return a.renderInteraction(c, j, spec, false)
}

func (a *api) deleteInteraction(c *call) (any, error) {
	j, err := a.interaction(c, c.id())
	if err != nil {
		return nil, err
	}
	return struct{}{}, notFound(a.Runner.Delete(c.Context(), c.project, j.ID), "interaction", j.ID)
}

// resource shows what is known of an interaction from its beginning on.
func resource(j *ringback.Job, spec *genai.InteractionSpec) *genai.Interaction {
	r := &genai.Interaction{ID: string(j.ID), Object: "interaction", Status: "in_progress",
		Created: seconds(j.Created), Updated: seconds(j.Updated), Model: j.Model, ServiceTier: "standard",
		PreviousInteractionID: spec.PreviousInteractionID, Labels: spec.Labels, WebhookConfig: spec.WebhookConfig}
	if spec.ServiceTier != "" {
		r.ServiceTier = strings.ToLower(spec.ServiceTier)
	}
	return r
}

// renderInteraction shows a job as the resource of §5.5.
func (a *api) renderInteraction(c *call, j *ringback.Job, spec *genai.InteractionSpec, withInput bool) (*genai.Interaction, error) {
	r := resource(j, spec)
	if withInput {
		r.Input = spec.Steps
	}
	if !j.State.Final() {
		return r, nil
	}
	r.Status, r.Role = string(j.State), "model"
	out, err := a.interactionOutput(c, j)
	if err != nil {
		return nil, err
	}
	r.Steps, r.Usage, r.Errors = out.Steps, out.Usage, interactionErrors(j)
	return r, nil
}

func interactionErrors(j *ringback.Job) []genai.InteractionError {
	if j.Failure == nil {
		return nil
	}
	return []genai.InteractionError{{Code: j.Failure.Code, Message: j.Failure.Message}}
}

func seconds(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }
