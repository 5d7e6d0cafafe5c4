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

	// Of our own, beside Google's, for what Google leaves silent.

	// InteractionIncomplete comes beside InteractionCompleted when the answer was
	// cut at a limit.
	InteractionIncomplete EventType = "interaction.incomplete"
	// VideoFailed ends a video that came to nothing.
	VideoFailed EventType = "video.failed"
	// JobStalled tells that a job passed its deadline without moving.
	JobStalled EventType = "job.stalled"
	// WebhookDisabled tells that the server disabled a webhook, because it answered
	// 410 or failed for too long.
	WebhookDisabled EventType = "webhook.disabled"

	// Ping is sent on request only and can't be subscribed to.
	Ping EventType = "ping"
)

// EventTypes lists what an endpoint may subscribe to: Google's events in the
// order of its documentation, then ours.
func EventTypes() []EventType {
	return []EventType{
		BatchSucceeded, BatchFailed, BatchExpired, BatchCancelled,
		InteractionRequiresAction, InteractionCompleted, InteractionFailed, InteractionCancelled,
		VideoGenerated,
		InteractionIncomplete, VideoFailed, JobStalled, WebhookDisabled,
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

// EndEvents are the events that the end of a job causes (wire contract §2.3,
// §5.5.5).
func EndEvents(k Kind, s State) []EventType {
	switch k {
	case KindBatch:
		switch s {
		case Failed:
			return []EventType{BatchFailed}
		case Cancelled:
			return []EventType{BatchCancelled}
		case Expired:
			return []EventType{BatchExpired}
		}
		return []EventType{BatchSucceeded}
	case KindVideo:
		if s == Completed {
			return []EventType{VideoGenerated}
		}
		return []EventType{VideoFailed}
	}
	switch s {
	case RequiresAction:
		return []EventType{InteractionRequiresAction}
	case Failed:
		return []EventType{InteractionFailed}
	case Cancelled:
		return []EventType{InteractionCancelled}
	case Incomplete:
		return []EventType{InteractionCompleted, InteractionIncomplete}
	default:
		return []EventType{InteractionCompleted}
	}
}

// maxNamed is how many of the endpoints that did not get an event are named.
const maxNamed = 8

// Route decides which of a project's endpoints get an event: those that are
// subscribed to its type. For those that are disabled it is kept until they are
// enabled again. The others are told of in skipped.
func Route(t EventType, endpoints []*Endpoint) (to []*Endpoint, skipped []Skipped) {
	for _, e := range endpoints {
		if slices.Contains(e.Events, t) {
			to = append(to, e)
			continue
		}
		skipped = skip(skipped, NotSubscribed, e)
	}
	return to, skipped
}

// SkipAll tells that endpoints did not get an event for the same reason.
func SkipAll(reason SkipReason, endpoints []*Endpoint) (skipped []Skipped) {
	for _, e := range endpoints {
		skipped = skip(skipped, reason, e)
	}
	return skipped
}

// skip adds an endpoint to the only entry of skipped.
func skip(skipped []Skipped, reason SkipReason, e *Endpoint) []Skipped {
	if skipped == nil {
		skipped = []Skipped{{Reason: reason}}
	}
	s := &skipped[0]
	if s.Count++; s.Count <= maxNamed {
		s.Endpoints = append(s.Endpoints, e.ID)
	}
	return skipped
}
