package emit

import (
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// sample is what happens in an example of an event.
type sample struct {
	kind  ringback.Kind
	state ringback.State
	// failure and rows are of the end.
	failure *ringback.Failure
	rows    ringback.RowCounts
	file    bool // The end leaves a file of results.
}

// samples are the events that the end of a job causes.
var samples = map[ringback.EventType]sample{
	ringback.BatchSucceeded: {kind: ringback.KindBatch, state: ringback.Completed, file: true, rows: ringback.RowCounts{Total: 100, Succeeded: 98, Failed: 2}},
	ringback.BatchFailed: {kind: ringback.KindBatch, state: ringback.Failed,
		failure: &ringback.Failure{Code: "INVALID_ARGUMENT", Message: "the input has no valid request; line 1: it is not JSON"}},
	ringback.BatchExpired:   {kind: ringback.KindBatch, state: ringback.Expired, file: true, rows: ringback.RowCounts{Total: 100, Succeeded: 40}},
	ringback.BatchCancelled: {kind: ringback.KindBatch, state: ringback.Cancelled, file: true, rows: ringback.RowCounts{Total: 100, Succeeded: 25}},

	ringback.InteractionRequiresAction: {kind: ringback.KindInteraction, state: ringback.RequiresAction},
	ringback.InteractionCompleted:      {kind: ringback.KindInteraction, state: ringback.Completed},
	ringback.InteractionIncomplete:     {kind: ringback.KindInteraction, state: ringback.Incomplete},
	ringback.InteractionCancelled:      {kind: ringback.KindInteraction, state: ringback.Cancelled},
	ringback.InteractionFailed: {kind: ringback.KindInteraction, state: ringback.Failed,
		failure: &ringback.Failure{Code: "api_error", Message: "the model is not reachable"}},

	ringback.VideoGenerated: {kind: ringback.KindVideo, state: ringback.Completed, file: true},
	ringback.VideoFailed: {kind: ringback.KindVideo, state: ringback.Failed,
		failure: &ringback.Failure{Code: "INTERNAL", Message: "the model made no video"}},
}

// Sample makes the body of an event as it would be sent if it had just happened:
// with the same code, under fresh ids. base is the server's address, for the
// links. The error is an InvalidArgument for a type that there is not.
func Sample(t ringback.EventType, at time.Time, base string) ([]byte, error) {
	at = at.UTC().Truncate(time.Microsecond)
	hook := &ringback.Endpoint{ID: ringback.NewEndpointID(at), Name: "nightly"}
	switch t {
	case ringback.Ping:
		return marshalBody(t, at, eventData{id: string(hook.ID)}), nil
	case ringback.WebhookDisabled:
		since := at.Add(-25 * time.Hour).Format(time.RFC3339)
		return marshalBody(t, at, disabledData(hook, ringback.DisabledDueToFailedDeliveries, "all attempts have failed since "+since)), nil
	case ringback.JobStalled:
		begun := at.Add(-time.Hour)
		return marshalBody(t, at, stallData(&ringback.Job{ID: ringback.NewInteractionID(begun), Kind: ringback.KindInteraction, State: ringback.Running, Created: begun})), nil
	}
	s, ok := samples[t]
	if !ok {
		_, err := ringback.ParseEventType(string(t))
		if err == nil {
			err = fmt.Errorf("there is no sample of a %s event", t)
		}
		return nil, err
	}
	begun := at.Add(-7 * time.Minute)
	job := &ringback.Job{ID: ringback.NewInteractionID(begun), Kind: s.kind, State: s.state, Model: "gemini-3.6-flash", Created: begun}
	if s.kind != ringback.KindInteraction {
		job.ID = ringback.NewFileID(begun) // Of the same form.
	}
	if s.kind == ringback.KindVideo {
		job.Model = "veo-3.1-generate-preview"
	}
	end := &store.End{State: s.state, Failure: s.failure, Rows: s.rows, At: at}
	if s.file {
		end.Files = []ringback.File{{ID: ringback.NewFileID(at)}}
	}
	return marshalBody(t, at, endData(job, end, base)), nil
}
