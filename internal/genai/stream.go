package genai

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// InteractionEvent is one event of an interaction's stream (wire contract §5.8).
type InteractionEvent struct {
	Type string `json:"event_type"`
	// ID is what a client resumes with.
	ID            string            `json:"event_id,omitempty"`
	Interaction   *Interaction      `json:"interaction,omitempty"`
	InteractionID string            `json:"interaction_id,omitempty"`
	Status        string            `json:"status,omitempty"`
	Index         *int              `json:"index,omitempty"`
	Step          *Step             `json:"step,omitempty"`
	Delta         *StepDelta        `json:"delta,omitempty"`
	Error         *InteractionError `json:"error,omitempty"`
}

// The types of events.
const (
	EventCreated   = "interaction.created"
	EventStatus    = "interaction.status_update"
	EventCompleted = "interaction.completed"
	EventStepStart = "step.start"
	EventStepDelta = "step.delta"
	EventStepStop  = "step.stop"
	EventError     = "error"
)

// StepDelta is what a step gets on top. Its type says which of its fields counts.
type StepDelta struct {
	Type      string       `json:"type"`
	Text      string       `json:"text,omitempty"`      // Of "text".
	Content   *StepContent `json:"content,omitempty"`   // Of "thought_summary".
	Signature string       `json:"signature,omitempty"` // Of "thought_signature".
	Arguments string       `json:"arguments,omitempty"` // Of "arguments_delta": a piece of the JSON's text.
	Data      string       `json:"data,omitempty"`      // Of media: base64, or URI.
	URI       string       `json:"uri,omitempty"`
	MimeType  string       `json:"mime_type,omitempty"`
}

// The types of deltas beside those of media, which are called as their content is.
const (
	DeltaText      = "text"
	DeltaThought   = "thought_summary"
	DeltaSignature = "thought_signature"
	DeltaArguments = "arguments_delta"
)

// StreamEnd is what a stream ends with. Go's SDK fails without it.
const StreamEnd = "event: done\ndata: [DONE]\n\n"

// EventID names the n-th event of a stream, counted from 1.
func EventID(n int64) string { return "e" + strconv.FormatInt(n, 10) }

// ParseEventID is the reverse of EventID.
func ParseEventID(s string) (int64, bool) {
	digits, ok := strings.CutPrefix(s, "e")
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, ok && err == nil && n > 0 && EventID(n) == s
}

// AppendEvent appends an event as a server-sent event, of which it is the n-th.
func AppendEvent(b []byte, n int64, e *InteractionEvent) ([]byte, error) {
	e.ID = EventID(n)
	buf := bytes.NewBuffer(append(append(append(b, "event: "...), e.Type...), "\ndata: "...))
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil { // It ends with a newline.
		return nil, err
	}
	return append(buf.Bytes(), '\n'), nil
}

// CutEvent cuts the first server-sent event off what AppendEvent made.
func CutEvent(b []byte) (event, rest []byte) {
	i := bytes.Index(b, []byte("\n\n"))
	if i < 0 {
		return b, nil
	}
	return b[:i+2], b[i+2:]
}

// ReadEvent reads what AppendEvent appended.
func ReadEvent(event []byte) (*InteractionEvent, error) {
	_, data, _ := bytes.Cut(event, []byte("\ndata: "))
	var e InteractionEvent
	return &e, json.Unmarshal(data, &e)
}

// Head is the step as its stream begins: type and identity only, since what stands
// there is lost to clients that print deltas.
func (s *Step) Head() *Step {
	h := &Step{Type: s.Type, ID: s.ID, CallID: s.CallID, Name: s.Name, Error: s.Error}
	if s.Type == StepFunctionCall {
		h.Arguments, h.Signature = json.RawMessage("{}"), s.Signature
	}
	return h
}

// Deltas are what must be put on top of the Head to get the step.
func (s *Step) Deltas() []StepDelta {
	var all []StepDelta
	for i := range s.Content {
		all = append(all, s.Content[i].Delta())
	}
	for i := range s.Summary {
		all = append(all, StepDelta{Type: DeltaThought, Content: &s.Summary[i]})
	}
	switch s.Type {
	case StepFunctionCall:
		all = append(all, StepDelta{Type: DeltaArguments, Arguments: string(s.Arguments)})
	case StepThought:
		if s.Signature != "" {
			all = append(all, StepDelta{Type: DeltaSignature, Signature: s.Signature})
		}
	}
	return all
}

// Delta is the content as a delta.
func (c *StepContent) Delta() StepDelta {
	return StepDelta{Type: c.Type, Text: c.Text, Data: c.Data, URI: c.URI, MimeType: c.MimeType}
}

// StepEvents are the events of a step that is known whole.
func StepEvents(index int, s *Step) []InteractionEvent {
	events := []InteractionEvent{{Type: EventStepStart, Index: &index, Step: s.Head()}}
	for _, d := range s.Deltas() {
		events = append(events, InteractionEvent{Type: EventStepDelta, Index: &index, Delta: &d})
	}
	return append(events, InteractionEvent{Type: EventStepStop, Index: &index})
}
