package ringback

import (
	"fmt"
	"slices"
	"strings"
)

// EventType names a kind of event, such as "interaction.completed".
type EventType string

// The events of the Gemini API that can be subscribed to (wire contract §2.3).
const (
	BatchSucceeded            EventType = "batch.succeeded"
	BatchFailed               EventType = "batch.failed"
	BatchExpired              EventType = "batch.expired"
	BatchCancelled            EventType = "batch.cancelled"
	InteractionRequiresAction EventType = "interaction.requires_action"
	InteractionCompleted      EventType = "interaction.completed"
	InteractionFailed         EventType = "interaction.failed"
	InteractionCancelled      EventType = "interaction.cancelled"
	VideoGenerated            EventType = "video.generated"
	// Ping is sent on request only and can't be subscribed to.
	Ping EventType = "ping"
)

// EventTypes lists what an endpoint may subscribe to, in the order of the
// documentation.
func EventTypes() []EventType {
	return []EventType{
		BatchSucceeded, BatchFailed, BatchExpired, BatchCancelled,
		InteractionRequiresAction, InteractionCompleted, InteractionFailed, InteractionCancelled,
		VideoGenerated,
	}
}

// ParseEventType reads the name of an event to subscribe to. "batch.completed",
// found in old translations of the documentation, is taken for
// "batch.succeeded". The error is an InvalidArgument that lists the known names.
func ParseEventType(s string) (EventType, error) {
	if s == "batch.completed" {
		return BatchSucceeded, nil
	}
	known := EventTypes()
	if slices.Contains(known, EventType(s)) {
		return EventType(s), nil
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	return "", &Error{Code: InvalidArgument,
		Message: fmt.Sprintf("unknown event %q; the known events are %s", s, strings.Join(names, ", "))}
}

// InteractionEvent is the event that the end of an interaction causes (wire
// contract §5.5.5).
func InteractionEvent(s State) EventType {
	switch s {
	case RequiresAction:
		return InteractionRequiresAction
	case Failed:
		return InteractionFailed
	case Cancelled:
		return InteractionCancelled
	default:
		return InteractionCompleted
	}
}

// Route decides which of a project's endpoints get an event: those that are
// enabled and subscribed to its type.
func Route(t EventType, endpoints []*Endpoint) []*Endpoint {
	var to []*Endpoint
	for _, e := range endpoints {
		if e.State == Enabled && slices.Contains(e.Events, t) {
			to = append(to, e)
		}
	}
	return to
}
