package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The types of events: those of the Gemini API, then ringback's own.
const (
	BatchSucceeded            = "batch.succeeded"
	BatchFailed               = "batch.failed"
	BatchExpired              = "batch.expired"
	BatchCancelled            = "batch.cancelled"
	InteractionRequiresAction = "interaction.requires_action"
	InteractionCompleted      = "interaction.completed"
	InteractionFailed         = "interaction.failed"
	InteractionCancelled      = "interaction.cancelled"
	VideoGenerated            = "video.generated"

	InteractionIncomplete = "interaction.incomplete"
	VideoFailed           = "video.failed"
	JobStalled            = "job.stalled"
	WebhookDisabled       = "webhook.disabled"
	Ping                  = "ping"
)

// Event is the envelope of the events that ringback and the Gemini API send.
type Event struct {
	// Type is full-stop separated, such as "interaction.completed".
	Type    string `json:"type"`
	Version string `json:"version"`
	// Timestamp is when the event happened, not when this attempt was made.
	Timestamp time.Time       `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
	// UserMetadata is what the request's webhook_config held; only at its own
	// addresses.
	UserMetadata json.RawMessage `json:"user_metadata,omitempty"`
}

// Data is what an event is about. Results are not in it: it names where they are.
// Which members are there depends on the event's type.
type Data struct {
	// ID names the job: an interaction's id, batches/ID, or the operation of a
	// video. Of webhook.disabled and ping it is the webhook's id.
	ID string `json:"id"`
	// ErrorCode and ErrorMessage are of failures.
	ErrorCode    string `json:"error_code"`
	ErrorMessage string `json:"error_message"`
	// OutputFileURI is where a batch's or video's result can be downloaded,
	// FileName its name, files/ID. VideoURI is OutputFileURI of a video.
	OutputFileURI string `json:"output_file_uri"`
	FileName      string `json:"file_name"`
	VideoURI      string `json:"video_uri"`
	// State, Reason and Name are of webhook.disabled and job.stalled.
	State  string `json:"state"`
	Reason string `json:"reason"`
	Name   string `json:"name"`
}

// ParseEvent reads the body of a verified message.
func ParseEvent(body []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, fmt.Errorf("webhook: read event: %w", err)
	}
	if e.Type == "" {
		return Event{}, errors.New("webhook: read event: it has no type")
	}
	return e, nil
}

// ParseData reads what the event is about.
func (e *Event) ParseData() (Data, error) {
	var d Data
	if len(e.Data) == 0 {
		return d, fmt.Errorf("webhook: the %s event has no data", e.Type)
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return d, fmt.Errorf("webhook: read the data of a %s event: %w", e.Type, err)
	}
	return d, nil
}
