package work

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// talk makes the steps of an interaction from an answer that comes in chunks, and
// tells of everything that changes, in the order of wire contract §5.8.
//
// A run that goes on after another was cut off begins its answer anew, but clients
// have heard the beginning of the earlier one. As long as the new answer says the
// same, talk is silent; from where it says more, it goes on. If it says something
// else, the interrupted step is closed and the new one told from its beginning,
// under the next index: what was told can't be taken back
// (docs/decisions/0016-streams-after-a-crash.md).
type talk struct {
	tell  func(*genai.InteractionEvent) error
	steps []genai.Step
	// content is what the open steps have, by index in steps; nil once a step is
	// closed. Only calls can be open beside another.
	content map[int]*stepText
	calls   map[int]int // Index in steps by the number of a call that comes in pieces.
	// heard is what clients know from earlier runs. diverged: the answer is another one
	// than they have heard the beginning of. next is the index by which clients will
	// know the next step that is told from its beginning.
	heard    []heardStep
	diverged bool
	next     int

	// unsaid: thoughts are not told (generation_config.thinking_summaries).
	unsaid   bool
	finish   string
	feedback *genai.PromptFeedback
	usage    *genai.UsageMetadata
}

// stepText collects the text of a step, which grows with each chunk.
type stepText struct {
	text strings.Builder
	// index is what clients know the step by.
	index int
	// heard, if not nil, is what they have heard of it; segment, and at bytes of that,
	// is how far the step is in it. said are its deltas so far: it may have to be told
	// anew.
	heard       *heardStep
	segment, at int
	said        []genai.StepDelta
}

// heardStep is a step as clients know it.
type heardStep struct {
	head     genai.Step
	segments []segment
	stopped  bool
	met      bool // A step of this run is, or was, the same.
}

// segment is deltas of a kind that follow each other. Those of text are as one.
type segment struct{ kind, text string }

func newTalk(spec *genai.InteractionSpec, tell func(*genai.InteractionEvent) error) *talk {
	t := &talk{tell: tell, content: make(map[int]*stepText), calls: make(map[int]int)}
	if g := spec.GenerationConfig; g != nil {
		t.unsaid = strings.EqualFold(g.ThinkingSummaries, "none")
	}
	return t
}

// split cuts a delta into its kind and its text. The deltas of media are JSON.
func split(d *genai.StepDelta) (kind, text string, whole bool, err error) {
	switch d.Type {
	case genai.DeltaText:
		return d.Type, d.Text, false, nil
	case genai.DeltaArguments:
		return d.Type, d.Arguments, false, nil
	case genai.DeltaThought:
		if d.Content != nil && d.Content.Type == "text" {
			return d.Type, d.Content.Text, false, nil
		}
	}
	b, err := json.Marshal(d)
	return d.Type, string(b), true, err
}

// joined is the delta of a kind that has a text.
func joined(kind, text string) genai.StepDelta {
	switch kind {
	case genai.DeltaArguments:
		return genai.StepDelta{Type: kind, Arguments: text}
	case genai.DeltaThought:
		return genai.StepDelta{Type: kind, Content: &genai.StepContent{Type: "text", Text: text}}
	}
	return genai.StepDelta{Type: kind, Text: text}
}

// recall takes in an event that an earlier run has told.
func (t *talk) recall(e *genai.InteractionEvent) error {
	if e.Index == nil {
		return nil
	}
	if e.Type == genai.EventStepStart {
		if *e.Index != len(t.heard) || e.Step == nil {
			return fmt.Errorf("step %d follows %d others", *e.Index, len(t.heard))
		}
		t.heard = append(t.heard, heardStep{head: *e.Step})
		t.next = len(t.heard)
		return nil
	}
	if *e.Index >= len(t.heard) || *e.Index < 0 {
		return fmt.Errorf("step %d has not begun", *e.Index)
	}
	h := &t.heard[*e.Index]
	if e.Type == genai.EventStepStop {
		h.stopped = true
		return nil
	}
	if e.Delta == nil {
		return nil
	}
	kind, text, whole, err := split(e.Delta)
	if err != nil {
		return err
	}
	if n := len(h.segments); !whole && n > 0 && h.segments[n-1].kind == kind {
		h.segments[n-1].text += text
	} else {
		h.segments = append(h.segments, segment{kind, text})
	}
	return nil
}

// begin opens a step.
func (t *talk) begin(s genai.Step) (int, error) {
	i := len(t.steps)
	t.steps = append(t.steps, s)
	c := &stepText{}
	t.content[i] = c
	if !t.diverged && i < len(t.heard) {
		h := &t.heard[i]
		if h.head.Type == s.Type && h.head.ID == s.ID && h.head.Name == s.Name {
			h.met, c.heard, c.index = true, h, i
			return i, nil
		}
		if err := t.leave(); err != nil {
			return i, err
		}
	}
	return i, t.start(i)
}

// start tells clients of a step from its beginning.
func (t *talk) start(i int) error {
	c := t.content[i]
	c.index = t.next
	t.next++
	return t.tell(&genai.InteractionEvent{Type: genai.EventStepStart, Index: &c.index, Step: t.steps[i].Head()})
}

// leave closes what clients have heard and this run does not say.
func (t *talk) leave() error {
	t.diverged = true
	for k := range t.heard {
		if h := &t.heard[k]; !h.met {
			if err := t.stop(h, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// stop closes a step that clients have heard of, unless they have heard its end.
func (t *talk) stop(h *heardStep, index int) error {
	if h.stopped {
		return nil
	}
	h.stopped = true
	return t.tell(&genai.InteractionEvent{Type: genai.EventStepStop, Index: &index})
}

// add puts a delta on top of step i.
func (t *talk) add(i int, d genai.StepDelta) error {
	c := t.content[i]
	h := c.heard
	if h == nil {
		return t.tell(&genai.InteractionEvent{Type: genai.EventStepDelta, Index: &c.index, Delta: &d})
	}
	c.said = append(c.said, d)
	kind, text, whole, err := split(&d)
	if err != nil {
		return err
	}
	for text != "" {
		if c.segment == len(h.segments) {
			break
		}
		s := &h.segments[c.segment]
		rest := s.text[c.at:]
		n := min(len(rest), len(text))
		if s.kind != kind || rest[:n] != text[:n] || whole && len(rest) != len(text) {
			return t.diverge(i)
		}
		text = text[n:]
		if c.at += n; c.at < len(s.text) {
			return nil
		}
		c.segment, c.at = c.segment+1, 0
	}
	switch {
	case text == "":
		return nil
	case h.stopped:
		return t.diverge(i)
	case !whole:
		d = joined(kind, text)
	}
	// Clients know this step as far as it goes. From here on they hear all of it.
	return t.tell(&genai.InteractionEvent{Type: genai.EventStepDelta, Index: &c.index, Delta: &d})
}

// end closes step i.
func (t *talk) end(i int) error {
	c := t.content[i]
	if c == nil {
		return nil
	}
	if c.heard != nil && c.segment < len(c.heard.segments) {
		if err := t.diverge(i); err != nil { // They have heard more of it.
			return err
		}
	}
	s := &t.steps[i]
	switch text := c.text.String(); s.Type {
	case genai.StepModelOutput:
		t.flushText(i)
	case genai.StepThought:
		if text != "" {
			s.Summary = append(s.Summary, genai.StepContent{Type: "text", Text: text})
		}
	case genai.StepFunctionCall:
		var args bytes.Buffer
		if strings.TrimSpace(text) == "" {
			text = "{}"
		}
		if json.Compact(&args, []byte(text)) != nil || args.Bytes()[0] != '{' {
			return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the model called %s with arguments that are not a JSON object", s.Name)}
		}
		s.Arguments = args.Bytes()
	}
	delete(t.content, i)
	if c.heard != nil {
		return t.stop(c.heard, c.index)
	}
	return t.tell(&genai.InteractionEvent{Type: genai.EventStepStop, Index: &c.index})
}

// flushText makes a content of the text that step i has collected.
func (t *talk) flushText(i int) {
	c, s := t.content[i], &t.steps[i]
	if c.text.Len() > 0 {
		s.Content = append(s.Content, genai.StepContent{Type: "text", Text: c.text.String()})
		c.text.Reset()
	}
}

// diverge is called when step i is not what clients have heard. That is closed, and
// they are told of the step anew.
func (t *talk) diverge(i int) error {
	c := t.content[i]
	h, said := c.heard, c.said
	c.heard, c.said = nil, nil
	if err := t.stop(h, c.index); err != nil {
		return err
	}
	if err := t.leave(); err != nil {
		return err
	}
	if err := t.start(i); err != nil {
		return err
	}
	for k := range said {
		if err := t.tell(&genai.InteractionEvent{Type: genai.EventStepDelta, Index: &c.index, Delta: &said[k]}); err != nil {
			return err
		}
	}
	return nil
}

// current returns the open step of a type, which is the latest; others are closed
// first.
func (t *talk) current(kind string) (int, error) {
	if n := len(t.steps); n > 0 && t.steps[n-1].Type == kind && t.content[n-1] != nil {
		return n - 1, nil
	}
	if err := t.endAll(); err != nil {
		return 0, err
	}
	return t.begin(genai.Step{Type: kind})
}

// endAll closes what is open.
func (t *talk) endAll() error {
	for i := range t.steps {
		if err := t.end(i); err != nil {
			return err
		}
	}
	return nil
}

// chunk takes in a piece of the answer.
func (t *talk) chunk(r *genai.GenerateContentResponse) error {
	if r.UsageMetadata != nil {
		t.usage = r.UsageMetadata
	}
	if r.PromptFeedback != nil {
		t.feedback = r.PromptFeedback
	}
	if len(r.Candidates) == 0 {
		return nil
	}
	c := &r.Candidates[0]
	if c.FinishReason != "" {
		t.finish = c.FinishReason
	}
	if c.Content == nil {
		return nil
	}
	for k := range c.Content.Parts {
		if err := t.part(&c.Content.Parts[k]); err != nil {
			return err
		}
	}
	return nil
}

func (t *talk) part(p *genai.Part) error {
	switch {
	case p.CallPiece != nil:
		return t.callPiece(p.CallPiece)
	case p.FunctionCall != nil:
		return t.call(p)
	case p.Thought:
		return t.thought(p)
	case p.Text != nil && *p.Text != "":
		i, err := t.current(genai.StepModelOutput)
		if err != nil {
			return err
		}
		t.content[i].text.WriteString(*p.Text)
		return t.add(i, genai.StepDelta{Type: genai.DeltaText, Text: *p.Text})
	case p.InlineData != nil:
		i, err := t.current(genai.StepModelOutput)
		if err != nil {
			return err
		}
		t.flushText(i)
		content := mediaContent(p.InlineData)
		t.steps[i].Content = append(t.steps[i].Content, content)
		return t.add(i, content.Delta())
	}
	return nil
}

// thought takes in a piece of a thought, or its signature, which ends it.
func (t *talk) thought(p *genai.Part) error {
	if t.unsaid && p.ThoughtSignature == "" {
		return nil
	}
	i, err := t.current(genai.StepThought)
	if err != nil {
		return err
	}
	if p.Text != nil && *p.Text != "" && !t.unsaid {
		t.content[i].text.WriteString(*p.Text)
		if err := t.add(i, joined(genai.DeltaThought, *p.Text)); err != nil {
			return err
		}
	}
	if p.ThoughtSignature == "" {
		return nil
	}
	t.steps[i].Signature = p.ThoughtSignature
	if err := t.add(i, genai.StepDelta{Type: genai.DeltaSignature, Signature: p.ThoughtSignature}); err != nil {
		return err
	}
	return t.end(i)
}

// call takes in a whole function call.
func (t *talk) call(p *genai.Part) error {
	if err := t.endAll(); err != nil {
		return err
	}
	f := p.FunctionCall
	id := f.ID
	if id == "" {
		id = fmt.Sprintf("call_%d", len(t.steps))
	}
	args := string(f.Args)
	if args == "" {
		args = "{}"
	}
	i, err := t.begin(genai.Step{Type: genai.StepFunctionCall, ID: id, Name: f.Name, Signature: p.ThoughtSignature})
	if err != nil {
		return err
	}
	t.content[i].text.WriteString(args)
	if err := t.add(i, genai.StepDelta{Type: genai.DeltaArguments, Arguments: args}); err != nil {
		return err
	}
	return t.end(i)
}

// callPiece takes in a piece of a function call. Calls may come by turns.
func (t *talk) callPiece(p *genai.CallPiece) error {
	i, known := t.calls[p.Index]
	if !known {
		for k := range t.steps {
			if t.steps[k].Type == genai.StepFunctionCall {
				continue
			}
			if err := t.end(k); err != nil {
				return err
			}
		}
		var err error
		if i, err = t.begin(genai.Step{Type: genai.StepFunctionCall, ID: p.ID, Name: p.Name}); err != nil {
			return err
		}
		t.calls[p.Index] = i
	}
	if t.content[i] == nil {
		return &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end's stream went on with the call of %s after its end", t.steps[i].Name)}
	}
	if p.Arguments == "" {
		return nil
	}
	t.content[i].text.WriteString(p.Arguments)
	return t.add(i, genai.StepDelta{Type: genai.DeltaArguments, Arguments: p.Arguments})
}

// close closes what is open, also of what only clients of an earlier run heard.
func (t *talk) close() error {
	if err := t.endAll(); err != nil {
		return err
	}
	return t.leave()
}

// output is the steps so far, without calls that were not brought to their end.
func (t *talk) output() genai.InteractionOutput {
	steps := []genai.Step{}
	for _, s := range t.steps {
		if s.Type != genai.StepFunctionCall || s.Arguments != nil {
			steps = append(steps, s)
		}
	}
	return genai.InteractionOutput{Steps: steps, Usage: interactionUsage(t.usage)}
}
