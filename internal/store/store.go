// Package store is the port to everything that must outlive the process: projects,
// keys, jobs, events, deliveries, attempts and endpoints.
//
// # Contract
//
// Every engine keeps these promises, which storetest checks.
//
//   - A method that returns nil has made its change durable: it survives the
//     loss of power. A method that returns an error has changed nothing, except
//     that the outcome is unknown when the context ended first.
//   - A write method is one atomic step, named after what happened. Decisions
//     are made before the call; time is an argument, kept in UTC to the
//     microsecond.
//   - Errors wrap a ringback.Code: NotFound (no such row, or not in that
//     project), AlreadyExists, Stale (the lease is no longer the caller's),
//     FailedPrecondition (the row's state does not allow it), StorageFull,
//     Unavailable. Anything else is a defect or a broken machine.
//   - Any number of goroutines may call at once. Engines group concurrent
//     writes into one sync of the disk; callers need not batch.
//   - Values that are returned belong to the caller, except that endpoints are
//     shared and must not be changed.
//
// # Leases
//
// Jobs and deliveries are queues in a column: a row that waits has a due time. A
// claim moves due to the end of the lease and raises the lease's token, so that
// the row comes due again by itself if the claimer dies, and whatever a
// superseded claimer still writes fails with Stale. A row may be born leased:
// created with its first lease already given to the node that made it.
package store

import (
	"context"
	"time"

	"ringback.dev"
)

// Store is implemented by every engine. See the package comment for what all
// methods promise.
type Store interface {
	Projects
	Jobs
	Events
	Deliveries
	Endpoints
	Log
	Replays
	Keys
	Files
	Batches
	Streams

	// Ping reports whether the store can be read.
	Ping(ctx context.Context) error
	// Close waits for writes under way and releases the data.
	Close() error
}

// LeaseShifter is a Store whose leases can be moved along with the clock when
// that is set forward (ringback dev), so that what is under way does not seem
// abandoned.
type LeaseShifter interface {
	// ShiftLeases lets everything that node has leased at now, jobs, shards and
	// deliveries, be leased for longer by d.
	ShiftLeases(ctx context.Context, node string, now time.Time, d time.Duration) error
}

// By says who changes something and when. Every method that takes it writes a
// line of the audit log in the same step.
type By struct {
	// Actor is the id of an API key, or Server.
	Actor ringback.ID
	At    time.Time
}

// Server is the actor of changes that the server makes by itself.
const Server ringback.ID = "server"

// Projects keeps projects and their API keys.
type Projects interface {
	// CreateProject stores a project, with its first key if that is not nil.
	CreateProject(ctx context.Context, p ringback.Project, k *ringback.APIKey, by By) error
	// UpdateProject changes name, signature and audience of a project.
	UpdateProject(ctx context.Context, p ringback.Project, by By) error
	// Project returns a project; engines answer it from memory.
	Project(ctx context.Context, id ringback.ID) (ringback.Project, error)
	// Projects lists all projects, oldest first.
	Projects(ctx context.Context) ([]ringback.Project, error)
	// CreateKey stores a further key.
	CreateKey(ctx context.Context, k ringback.APIKey, by By) error
	// APIKeys lists the keys of a project, or the operator's if project is empty,
	// oldest first.
	APIKeys(ctx context.Context, project ringback.ID) ([]ringback.APIKey, error)
	// RevokeKey removes a key; the next request with it is refused.
	RevokeKey(ctx context.Context, project, id ringback.ID, by By) error
	// TouchKeys notes when keys were used last.
	TouchKeys(ctx context.Context, used map[ringback.ID]time.Time) error
	// KeyByHash finds the API key whose SHA-256 is hash. It is called on every
	// request; engines answer it from memory.
	KeyByHash(ctx context.Context, hash []byte) (ringback.APIKey, error)
}

// Jobs keeps jobs, and is the queue from which they are run.
type Jobs interface {
	// CreateJob stores a job. With a lease, which must have token 1, the job is
	// born leased: running, its first run counted; otherwise it is pending and
	// due at once. AlreadyExists if the project has a job with its idempotency key.
	CreateJob(ctx context.Context, j *ringback.Job, lease *ringback.Lease) error
	// Job returns a job of a project.
	Job(ctx context.Context, project, id ringback.ID) (*ringback.Job, error)
	// PeekJob is Job without Spec and Checkpoint, which can be large.
	PeekJob(ctx context.Context, project, id ringback.ID) (*ringback.Job, error)
	// JobByKey finds the job that was created with an idempotency key, and the
	// fingerprint of the request that did it.
	JobByKey(ctx context.Context, project ringback.ID, key string) (job ringback.ID, fingerprint []byte, err error)
	// ClaimJobs leases up to limit due jobs of a kind, those of the highest priority
	// and then those due longest first, marks them running and counts the run.
	ClaimJobs(ctx context.Context, kind ringback.Kind, node string, now, until time.Time, limit int) ([]ClaimedJob, error)
	// RenewJobs moves the end of the named leases to until. It returns the jobs
	// that the caller no longer holds: ended, deleted or claimed by another.
	RenewJobs(ctx context.Context, held []Held, until time.Time) (lost []ringback.ID, err error)
	// ReleaseJobs gives jobs back before their lease runs out: pending, due at
	// due. The run is not counted if uncount is true. Stale leases are skipped.
	ReleaseJobs(ctx context.Context, held []Held, due time.Time, uncount bool) error
	// EndJob records in one step that a job ended, the events that this caused and
	// their deliveries. A nil lease ends the job whoever holds it (the
	// client cancelled). Errors: Stale; FailedPrecondition when the job has ended
	// already; NotFound when it was deleted.
	EndJob(ctx context.Context, id ringback.ID, lease *ringback.Lease, end *End) error
	// DeleteJob removes a job of a project. Its events and their deliveries stay.
	DeleteJob(ctx context.Context, project, id ringback.ID) error
	// Checkpoint keeps a note for the next run, if this one is cut off, and how far
	// the job is, in percent. A nil note keeps the earlier one. Stale if the lease is
	// not the caller's.
	Checkpoint(ctx context.Context, id ringback.ID, lease ringback.Lease, note []byte, progress int) error
	// SweepJobs removes up to limit jobs of a kind that ended before a time, as
	// DeleteJob does, and returns how many.
	SweepJobs(ctx context.Context, kind ringback.Kind, before time.Time, limit int) (int, error)
	// StalledJobs lists jobs under way that were created before a time, and of which
	// no row was finished since, and nothing heard, if they are batches, and that were
	// not yet marked as stalled, oldest first.
	StalledJobs(ctx context.Context, before time.Time, limit int) ([]*ringback.Job, error)
	// MarkStalled marks a job and stores the event that tells of it. Errors:
	// FailedPrecondition when it is marked or has ended; NotFound.
	MarkStalled(ctx context.Context, id ringback.ID, h *Happening) error
}

// Held names a leased row and the token under which it is held.
type Held struct {
	ID    ringback.ID
	Token int64
}

// ClaimedJob is a job and the lease under which the caller may work on it.
type ClaimedJob struct {
	*ringback.Job
	Lease ringback.Lease
}

// End is how a job ended. State must be final.
type End struct {
	State   ringback.State
	Output  []byte
	Failure *ringback.Failure
	// Files are what the job made, stored in the same step: the one with a batch's
	// results, or videos. Blob holds the results if the rows came within the request.
	Files []ringback.File
	Blob  string
	// Rows counts the rows of a batch.
	Rows ringback.RowCounts
	At   time.Time
	// Garbage are blobs that were of use only until the end.
	Garbage []string
	// Happenings are the events with their deliveries.
	Happenings []*Happening
}

// Happening is an event and everything that is to be delivered because of it.
type Happening struct {
	Event      ringback.Event
	Deliveries []NewDelivery
}

// NewDelivery is a delivery that begins to exist together with its event.
type NewDelivery struct {
	ringback.Delivery
	// Lease, if not nil, makes the delivery born leased; its token must be 1.
	Lease *ringback.Lease
}

// Events keeps what happened.
type Events interface {
	// AddEvent stores an event that no job caused, with its deliveries.
	AddEvent(ctx context.Context, h *Happening) error
	// EventsAfter lists a project's events whose Seq is greater than after,
	// oldest first.
	EventsAfter(ctx context.Context, project ringback.ID, f EventFilter, after int64, limit int) ([]ringback.Event, error)
	// Event returns an event of a project.
	Event(ctx context.Context, project, id ringback.ID) (ringback.Event, error)
	// LastEvent is the Seq of a project's latest event, 0 if there is none.
	LastEvent(ctx context.Context, project ringback.ID) (int64, error)
	// JobEvents lists the events of one job, oldest first.
	JobEvents(ctx context.Context, project, job ringback.ID) ([]ringback.Event, error)
}

// EventFilter selects events; zero members select all.
type EventFilter struct {
	Types []ringback.EventType
	Job   ringback.ID
	From  time.Time // Created then or later.
}

// Deliveries is the queue from which events are sent.
type Deliveries interface {
	// ClaimDeliveries leases due deliveries. It looks at the targets that have
	// one due, longest due first, and takes from each at most the number that
	// room returns for it, so that a target with a million waiting rows costs the
	// others nothing. room is called once per target, within the claim, and must
	// not call the store; e is the target's endpoint, nil if it is a URI or the
	// endpoint was deleted. Targets whose endpoint is not enabled are passed over.
	// At most limit are returned.
	ClaimDeliveries(ctx context.Context, node string, now, until time.Time, limit int, room func(target string, e *ringback.Endpoint) int) ([]ClaimedDelivery, error)
	// RecordAttempt stores what came of an attempt, and in the same step what
	// that means for the delivery and its endpoint.
	RecordAttempt(ctx context.Context, lease ringback.Lease, o *Outcome) error
	// ReleaseDeliveries gives deliveries back, due at due. Stale ones are skipped.
	ReleaseDeliveries(ctx context.Context, held []Held, due time.Time) error
	// Reclaim makes everything that node has leased, jobs and deliveries, due at
	// now. A node calls it when it starts: what an earlier process of its name
	// held is held by nobody.
	Reclaim(ctx context.Context, node string, now time.Time) error
	// NextDue returns the earliest time at which a pending delivery may be
	// claimed, zero if nothing waits. It may be earlier than the truth. hold, if
	// not nil, returns until when the caller will take nothing from a target;
	// it is called for each target with pending deliveries and must be quick.
	NextDue(ctx context.Context, hold func(target string) time.Time) (time.Time, error)
	// Health tells how an endpoint has fared; engines answer it from memory.
	Health(ctx context.Context, endpoint ringback.ID) (ringback.Health, error)
	// Redeliver makes a delivery due at by.At whatever its state, under the same
	// id; its retry window begins anew. One that is under way is left alone.
	Redeliver(ctx context.Context, project, id ringback.ID, by By) error
}

// ClaimedDelivery is all that an attempt needs.
type ClaimedDelivery struct {
	ringback.Delivery
	Lease ringback.Lease
	Type  ringback.EventType
	Body  []byte
	// To is the endpoint as it is now; nil when it has been deleted, or when the
	// delivery goes to a URI.
	To *ringback.Endpoint
}

// Outcome is what came of an attempt. State is DeliveryPending when there will
// be another one, at Due.
type Outcome struct {
	Attempt ringback.Attempt
	// Target and Endpoint are the delivery's, as claimed.
	Target   string
	Endpoint ringback.ID
	State    ringback.DeliveryState
	Due      time.Time
	At       time.Time
	// NoAttempt: nothing was sent, so that no attempt is kept and the endpoint's
	// health does not change.
	NoAttempt bool
	// Disable, if not empty, is the state that the endpoint gets in the same step,
	// if it is enabled; Told is then stored too.
	Disable ringback.EndpointState
	Told    *Happening
}

// Endpoints keeps static webhooks.
type Endpoints interface {
	// CreateEndpoint stores an endpoint. AlreadyExists if the id is taken.
	CreateEndpoint(ctx context.Context, e *ringback.Endpoint, by By) error
	// Endpoint returns one endpoint of a project.
	Endpoint(ctx context.Context, project, id ringback.ID) (*ringback.Endpoint, error)
	// ProjectEndpoints returns all endpoints of a project, oldest first. It is
	// called at every end of a job; engines answer it from memory.
	ProjectEndpoints(ctx context.Context, project ringback.ID) ([]*ringback.Endpoint, error)
	// UpdateEndpoint changes the fields that the patch holds and returns the
	// endpoint as it is then. While an endpoint is not enabled its waiting
	// deliveries are kept and not claimed; when it is enabled again its Resumed
	// is set and its health is forgotten.
	UpdateEndpoint(ctx context.Context, project, id ringback.ID, p EndpointPatch, by By) (*ringback.Endpoint, error)
	// RotateSecrets puts new secrets in front. Earlier ones expire at expire
	// if they would otherwise live longer; those that have expired at by.At are
	// removed.
	RotateSecrets(ctx context.Context, project, id ringback.ID, s []ringback.Secret, expire time.Time, by By) error
	// DeleteEndpoint removes an endpoint. Its waiting deliveries are claimed once
	// more with To nil, so that their end is recorded.
	DeleteEndpoint(ctx context.Context, project, id ringback.ID, by By) error
	// DropExpired removes secrets that have expired at now, of all endpoints.
	DropExpired(ctx context.Context, now time.Time) error
}

// EndpointPatch holds the fields to change; nil ones stay.
type EndpointPatch struct {
	Name     *string
	URI      *string
	Events   []ringback.EventType
	State    *ringback.EndpointState
	Settings *ringback.Settings
	// AddSecrets are put in front, as when an endpoint gets a further scheme.
	AddSecrets []ringback.Secret
}

// Log answers questions of people about what happened. Lists are newest first.
type Log interface {
	// Delivery returns a delivery of a project.
	Delivery(ctx context.Context, project, id ringback.ID) (ringback.Delivery, error)
	// ListDeliveries lists deliveries whose id sorts before the given one, or all
	// if that is empty.
	ListDeliveries(ctx context.Context, project ringback.ID, f DeliveryFilter, before ringback.ID, limit int) ([]ringback.Delivery, error)
	// EventDeliveries lists the deliveries of an event, oldest first.
	EventDeliveries(ctx context.Context, project, event ringback.ID) ([]ringback.Delivery, error)
	// Attempts lists the attempts of a delivery, oldest first.
	Attempts(ctx context.Context, project, delivery ringback.ID) ([]ringback.Attempt, error)
	// ListJobs lists jobs without Spec and Output. before is the place to go on
	// from, given with the last list; 0 begins.
	ListJobs(ctx context.Context, project ringback.ID, f JobFilter, before int64, limit int) (jobs []*ringback.Job, next int64, err error)
	// ListAudit lists changes whose Seq is less than before, or all if that is
	// 0. An empty project lists those of the whole server.
	ListAudit(ctx context.Context, project ringback.ID, before int64, limit int) ([]ringback.Audit, error)
	// Sweep removes up to limit events that were created before a time, with
	// their deliveries and attempts, and returns how many, and how many of their
	// deliveries had not ended.
	Sweep(ctx context.Context, before time.Time, limit int) (events, unended int, err error)
}

// DeliveryFilter selects deliveries; zero members select all.
type DeliveryFilter struct {
	State    ringback.DeliveryState `json:"state,omitempty"`
	Event    ringback.ID            `json:"event,omitempty"`
	Endpoint ringback.ID            `json:"endpoint,omitempty"`
	Types    []ringback.EventType   `json:"types,omitempty"`
	// From and To bound the creation of the delivery's event: From ≤ t < To.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
}

// JobFilter selects jobs; zero members select all.
type JobFilter struct {
	Kind  ringback.Kind
	State ringback.State
}

// Replays send ranges of events again. A replay is a row that moves from
// event to event, so that it goes on where it was after a crash.
type Replays interface {
	// CountReplay counts the deliveries that a filter selects.
	CountReplay(ctx context.Context, project ringback.ID, f DeliveryFilter) (int, error)
	CreateReplay(ctx context.Context, r Replay, by By) error
	Replay(ctx context.Context, project, id ringback.ID) (Replay, error)
	// ListReplays lists a project's replays, newest first.
	ListReplays(ctx context.Context, project ringback.ID, limit int) ([]Replay, error)
	// AdvanceReplay goes on with the oldest replay that is not done: it looks at
	// the next events, at most limit, makes those of their deliveries that are
	// selected and have ended due at now, and reports whether there is more to do.
	AdvanceReplay(ctx context.Context, now time.Time, limit int) (more bool, err error)
}

// Replay is the sending again of what a filter selects.
type Replay struct {
	ID      ringback.ID
	Project ringback.ID
	Filter  DeliveryFilter
	// Position is the Seq of the latest event looked at, Until that of the last to
	// look at.
	Position, Until int64
	// Sent counts the deliveries made due again.
	Sent          int
	Created, Done time.Time // Done is zero until all is due.
}

// Keys keeps the server's signing keys, and everything that is sealed.
type Keys interface {
	// SigningKeys lists all keys, oldest first; engines answer it from memory.
	SigningKeys(ctx context.Context) ([]ringback.SigningKey, error)
	// PutSigningKeys stores new and changed keys in one step and removes those
	// that are published no more at by.At. action is for the audit log.
	PutSigningKeys(ctx context.Context, changed []ringback.SigningKey, action string, by By) error
	// Reseal passes every sealed value with its context through reseal and stores
	// what that returns; nil keeps the value. It can be broken off and begun
	// again. It returns the number of values changed.
	Reseal(ctx context.Context, reseal func(sealed []byte, context string) ([]byte, error), by By) (int, error)
}

// The contexts under which values are sealed (package keyring).
const (
	SealEndpoint = "endpoint/" // And the endpoint's id: secrets, headers, certificate.
	SealSigning  = "signing/"  // And the kid.
)

// Files keeps what is known of files and uploads; their bytes are in a blob.Store.
// Where a row is removed that a blob belonged to, the blob becomes garbage in the
// same step.
type Files interface {
	// CreateUpload stores the beginning of an upload. AlreadyExists if the project
	// has a file of that id.
	CreateUpload(ctx context.Context, u *ringback.Upload) error
	// Upload finds an upload by the hash of its secret.
	Upload(ctx context.Context, hash []byte) (ringback.Upload, error)
	// AdvanceUpload notes how much of an upload is durable. NotFound if it is done
	// or was removed.
	AdvanceUpload(ctx context.Context, hash []byte, received int64, digest []byte, at time.Time) error
	// FinishUpload makes a file of an upload, whose row stays until it is stale, so
	// that an answer that was lost can be given again. Errors: AlreadyExists;
	// NotFound if it is done or was removed.
	FinishUpload(ctx context.Context, hash []byte, f *ringback.File) error
	// DeleteUpload removes an upload that is not done.
	DeleteUpload(ctx context.Context, hash []byte) error
	// File returns a file of a project that has not expired at now.
	File(ctx context.Context, project, id ringback.ID, now time.Time) (ringback.File, error)
	// ListFiles lists a project's files that have not expired at now, newest first.
	// before is the place to go on from, given with the last list; 0 begins.
	ListFiles(ctx context.Context, project ringback.ID, now time.Time, before int64, limit int) (files []ringback.File, next int64, err error)
	DeleteFile(ctx context.Context, project, id ringback.ID) error
	// BytesStored sums what a project has uploaded, whole or in part. What its jobs
	// made does not count.
	BytesStored(ctx context.Context, project ringback.ID) (int64, error)
	// ExpireFiles removes up to limit files that have expired at now, and as many
	// uploads to which nothing was added since stale. It returns how many.
	ExpireFiles(ctx context.Context, now, stale time.Time, limit int) (int, error)
	// NoteBlob notes a blob that a job is about to make. It becomes garbage when the
	// job is deleted, or ends without a file that has it. Stale if the lease is not
	// the caller's.
	NoteBlob(ctx context.Context, job ringback.ID, lease ringback.Lease, blob string) error
	// Garbage lists blobs that nothing refers to any more.
	Garbage(ctx context.Context, limit int) ([]string, error)
	// ForgetGarbage notes that blobs were removed.
	ForgetGarbage(ctx context.Context, blobs []string) error
}

// Batches keeps batches, and is the queue from which their shards are worked on.
type Batches interface {
	// CreateBatch is CreateJob for a job of KindBatch; the batch is stored in the
	// same step. The blob of its input is kept until it has ended.
	CreateBatch(ctx context.Context, j *ringback.Job, b *ringback.Batch, lease *ringback.Lease) error
	// Batch returns a batch of a project with its counts as they are now.
	Batch(ctx context.Context, project, id ringback.ID) (*ringback.Batch, error)
	// UpdateBatch changes what the patch holds.
	UpdateBatch(ctx context.Context, project, id ringback.ID, p BatchPatch, at time.Time) error
	// CancelBatch marks a batch as cancelled by the client and makes it due, so that
	// whoever claims it ends it. Nothing changes if it has ended or is marked.
	CancelBatch(ctx context.Context, project, id ringback.ID, at time.Time) error
	// PlanBatch stores the shards of a batch. Stale if the lease of its job is not
	// the caller's.
	PlanBatch(ctx context.Context, id ringback.ID, lease ringback.Lease, shards []ringback.Shard) error
	// FollowBatch keeps how the rows of a batch fare that a provider runs as a whole, as
	// it said at a time; that the provider answers counts as progress. Stale if the
	// lease of the job is not the caller's.
	FollowBatch(ctx context.Context, id ringback.ID, lease ringback.Lease, rows ringback.RowCounts, at time.Time) error
	// ClaimShards leases up to limit shards of a batch that are not done and not
	// leased at now, the first ones first.
	ClaimShards(ctx context.Context, batch ringback.ID, node string, now, until time.Time, limit int) ([]ClaimedShard, error)
	// RenewShards moves the end of leases; those that are lost are passed over.
	RenewShards(ctx context.Context, batch ringback.ID, held []HeldShard, until time.Time) error
	// RecordRows keeps results of rows, in one step with the counts. Stale if the
	// shard is not held under that token.
	RecordRows(ctx context.Context, batch ringback.ID, g RowGroup, at time.Time) error
	// Shards lists the shards of a batch, in order.
	Shards(ctx context.Context, batch ringback.ID) ([]ShardStatus, error)
	// ShardRows returns what RecordRows kept of a shard, in the order of recording.
	ShardRows(ctx context.Context, batch ringback.ID, shard int) ([][]byte, error)
	// SweepBatches removes the rows, by pages of limit groups, and the shards, of batches that have
	// ended or were deleted. It reports whether there may be more.
	SweepBatches(ctx context.Context, limit int) (more bool, err error)
}

// BatchPatch holds the fields to change; nil ones stay.
type BatchPatch struct {
	DisplayName *string
	Priority    *int64
}

// HeldShard names a leased shard and the token under which it is held.
type HeldShard struct {
	Number int
	Token  int64
}

// ClaimedShard is a shard and the token under which the caller may work on it.
type ClaimedShard struct {
	ringback.Shard
	Token int64
}

// RowGroup is the results of some rows of a shard. Data is the caller's affair.
type RowGroup struct {
	HeldShard
	Data              []byte
	Succeeded, Failed int
	// Done: these are the last rows of the shard.
	Done bool
}

// ShardStatus is a shard and how far it is.
type ShardStatus struct {
	ringback.Shard
	Recorded int // Rows that have a result.
	Done     bool
}

// Streams keeps what interactions say while they run, so that a client that lost
// its connection, or the server, can go on where it was. The events of a job are
// numbered upwards; it is their writer who knows what is in them.
type Streams interface {
	// AppendStream adds events to a job's stream. Stale if the lease of the job is
	// not the caller's, or if the stream is further already.
	AppendStream(ctx context.Context, id ringback.ID, lease ringback.Lease, g StreamGroup) error
	// StreamAfter returns up to limit groups that hold an event whose number is
	// greater than after, in order. The stream goes with the job.
	StreamAfter(ctx context.Context, project, id ringback.ID, after int64, limit int) ([]StreamGroup, StreamState, error)
}

// StreamState tells how far a stream is: the number of its last event, 0 if there
// is none, and whether its job has ended, so that nothing is added any more.
type StreamState struct {
	Last  int64
	Ended bool
}

// StreamGroup is events of a stream that were stored together.
type StreamGroup struct {
	First, Last int64
	Data        []byte
}
