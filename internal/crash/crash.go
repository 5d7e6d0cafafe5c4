// Package crash marks the places in the life of an event at which tests kill the
// process. In ordinary builds At does nothing and costs nothing; built with
// the tag "crashtest" it ends the process with SIGKILL, as a power cut would,
// when it has been asked to through the environment.
package crash

// Step names a place to die at, after the table "the life of an event" in
// docs/architecture.md.
type Step string

// The steps of an event's life, in their order. The process dies right after
// what the name says.
const (
	JobClaimed      Step = "1-job-claimed"
	EndDecided      Step = "2-end-decided"
	EndCommitted    Step = "3-end-committed"
	HintPublished   Step = "4-hint-published"
	DeliveryClaimed Step = "5-delivery-claimed"
	RequestSent     Step = "6-request-sent"
	OutcomeJudged   Step = "7-outcome-judged"
	AttemptRecorded Step = "8-attempt-recorded"
)

// The steps of a batch, in their order.
const (
	BatchPlanned  Step = "batch-planned"
	RowsAnswered  Step = "batch-rows-answered"
	RowsRecorded  Step = "batch-rows-recorded"
	OutputWritten Step = "batch-output-written"
)

// StreamRecorded is reached when events of a stream are stored and nobody was told.
const StreamRecorded Step = "stream-recorded"

// The steps of a video job, in their order. There are several notes and videos.
const (
	VideoNoted   Step = "video-noted"
	VideoWritten Step = "video-written"
	VideosMade   Step = "videos-made"
)

// VideoSteps lists the steps of a video job.
func VideoSteps() []Step { return []Step{VideoNoted, VideoWritten, VideosMade} }

// The steps of an event at the edge, in their order.
const (
	EdgeAccepted Step = "edge-1-accepted"       // Stored, the sender not yet answered.
	EdgePlanned  Step = "edge-2-planned"        // Its actions are known, none is stored.
	EdgeSpread   Step = "edge-3-actions-stored" // All are stored, the event is not settled.
	EdgeBegun    Step = "edge-4-action-begun"
	EdgeActed    Step = "edge-5-action-done" // And not recorded.
	EdgeRecorded Step = "edge-6-recorded"
)

// EdgeRenamed is reached when a download has its name and its folder is not synced.
const EdgeRenamed Step = "edge-fetch-renamed"

// The steps of a download to a bucket in several parts, in their order.
const (
	EdgePartSent Step = "edge-fetch-part-sent"
	EdgeSumSent  Step = "edge-fetch-sum-sent" // And the upload is not completed.
)

// EdgeSteps lists the steps of an event at the edge.
func EdgeSteps() []Step {
	return []Step{EdgeAccepted, EdgePlanned, EdgeSpread, EdgeBegun, EdgeActed, EdgeRecorded}
}

// BatchSteps lists the steps of a batch.
func BatchSteps() []Step { return []Step{BatchPlanned, RowsAnswered, RowsRecorded, OutputWritten} }

// The steps of a batch that is handed to a provider, in their order.
const (
	UpstreamUploaded Step = "upstream-uploaded"
	UpstreamPrepared Step = "upstream-prepared"
	UpstreamCreated  Step = "upstream-created"
	UpstreamNoted    Step = "upstream-noted"
	UpstreamEnded    Step = "upstream-ended"
	UpstreamFetched  Step = "upstream-fetched"
)

// UpstreamSteps lists the steps of a batch that is handed to a provider.
func UpstreamSteps() []Step {
	return []Step{BatchPlanned, UpstreamUploaded, UpstreamPrepared, UpstreamCreated, UpstreamNoted, UpstreamEnded, UpstreamFetched, RowsAnswered, RowsRecorded, OutputWritten}
}

// Steps lists all steps.
func Steps() []Step {
	return []Step{JobClaimed, EndDecided, EndCommitted, HintPublished,
		DeliveryClaimed, RequestSent, OutcomeJudged, AttemptRecorded}
}
