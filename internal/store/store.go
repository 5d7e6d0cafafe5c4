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

	// Ping reports whether the store can be read.
	Ping(ctx context.Context) error
	// Close waits for writes under way and releases the data.
	Close() error
}

// Projects keeps projects and their API keys.
type Projects interface {
	// CreateProject stores a project with its first key.
	CreateProject(ctx context.Context, p ringback.Project, k ringback.APIKey) error
	// Projects lists all projects, oldest first.
	Projects(ctx context.Context) ([]ringback.Project, error)
	// KeyByHash finds the API key whose SHA-256 is hash. It is called on every
	// request; engines answer it from memory.
	KeyByHash(ctx context.Context, hash []byte) (ringback.APIKey, error)
}

// Jobs keeps jobs, and is the queue from which they are run.
type Jobs interface {
	// CreateJob stores a job. With a lease, which must have token 1, the job is
	// born leased: running, its first run counted; otherwise it is pending and
	// due at once.
	CreateJob(ctx context.Context, j *ringback.Job, lease *ringback.Lease) error
	// Job returns a job of a project.
	Job(ctx context.Context, project, id ringback.ID) (*ringback.Job, error)
	// ClaimJobs leases up to limit due jobs, those due longest first, marks them
	// running and counts the run.
	ClaimJobs(ctx context.Context, node string, now, until time.Time, limit int) ([]ClaimedJob, error)
	// RenewJobs moves the end of the named leases to until. It returns the jobs
	// that the caller no longer holds: ended, deleted or claimed by another.
	RenewJobs(ctx context.Context, held []Held, until time.Time) (lost []ringback.ID, err error)
	// ReleaseJobs gives jobs back before their lease runs out: pending, due at
	// due. The run is not counted if uncount is true. Stale leases are skipped.
	ReleaseJobs(ctx context.Context, held []Held, due time.Time, uncount bool) error
	// EndJob records in one step that a job ended, the event that this caused and
	// the event's deliveries. A nil lease ends the job whoever holds it (the
	// client cancelled). Errors: Stale; FailedPrecondition when the job has ended
	// already; NotFound when it was deleted.
	EndJob(ctx context.Context, id ringback.ID, lease *ringback.Lease, end *End) error
	// DeleteJob removes a job of a project. Its events and their deliveries stay.
	DeleteJob(ctx context.Context, project, id ringback.ID) error
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
	At      time.Time
	// Happening is the event with its deliveries; nil records the end alone.
	Happening *Happening
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
	EventsAfter(ctx context.Context, project ringback.ID, after int64, limit int) ([]ringback.Event, error)
	// JobEvents lists the events of one job, oldest first.
	JobEvents(ctx context.Context, project, job ringback.ID) ([]ringback.Event, error)
}

// Deliveries is the queue from which events are sent, and the log of it.
type Deliveries interface {
	// ClaimDeliveries leases due deliveries. It looks at the targets that have
	// one due, longest due first, and takes from each at most the number that
	// room returns for it, so that a target with a million waiting rows costs the
	// others nothing. room is called once per target, within the claim, and must
	// not call the store. At most limit are returned.
	ClaimDeliveries(ctx context.Context, node string, now, until time.Time, limit int, room func(target string) int) ([]ClaimedDelivery, error)
	// RecordAttempt stores what came of an attempt, and in the same step what
	// that means for the delivery and its endpoint.
	RecordAttempt(ctx context.Context, lease ringback.Lease, o *Outcome) error
	// ReleaseDeliveries gives deliveries back, due at due. Stale ones are skipped.
	ReleaseDeliveries(ctx context.Context, held []Held, due time.Time) error
	// Reclaim makes everything that node has leased, jobs and deliveries, due at
	// now. A node calls it when it starts: what an earlier process of its name
	// held is held by nobody.
	Reclaim(ctx context.Context, node string, now time.Time) error
	// NextDue returns the earliest time at which a pending delivery or job may
	// come due, zero if nothing waits. It may be earlier than the truth.
	NextDue(ctx context.Context) (time.Time, error)
	// EventDeliveries lists the deliveries of an event, oldest first.
	EventDeliveries(ctx context.Context, project, event ringback.ID) ([]ringback.Delivery, error)
	// Attempts lists the attempts of a delivery, oldest first.
	Attempts(ctx context.Context, project, delivery ringback.ID) ([]ringback.Attempt, error)
}

// ClaimedDelivery is all that an attempt needs.
type ClaimedDelivery struct {
	ringback.Delivery
	Lease ringback.Lease
	Type  ringback.EventType
	Body  []byte
	// To is the endpoint as it is now; nil when it has been deleted.
	To *ringback.Endpoint
}

// Outcome is what came of an attempt. State is DeliveryPending when there will
// be another one, at Due.
type Outcome struct {
	Attempt ringback.Attempt
	// Target is the delivery's, as claimed.
	Target string
	State  ringback.DeliveryState
	Due    time.Time
	At     time.Time
	// Endpoint, if not empty, is disabled with State Disabled in the same step
	// (the receiver answered 410).
	DisableEndpoint ringback.ID
}

// Endpoints keeps static webhooks.
type Endpoints interface {
	// CreateEndpoint stores an endpoint. AlreadyExists if the id is taken.
	CreateEndpoint(ctx context.Context, e *ringback.Endpoint) error
	// Endpoint returns one endpoint of a project.
	Endpoint(ctx context.Context, project, id ringback.ID) (*ringback.Endpoint, error)
	// ProjectEndpoints returns all endpoints of a project, oldest first. It is
	// called at every end of a job; engines answer it from memory.
	ProjectEndpoints(ctx context.Context, project ringback.ID) ([]*ringback.Endpoint, error)
	// UpdateEndpoint changes the fields that the patch holds and returns the
	// endpoint as it is then. While an endpoint is not enabled its waiting
	// deliveries are kept and not claimed.
	UpdateEndpoint(ctx context.Context, project, id ringback.ID, p EndpointPatch, now time.Time) (*ringback.Endpoint, error)
	// RotateSecret puts a new secret in front. The earlier ones expire at expire
	// if they would otherwise live longer; those that have expired at now are
	// removed.
	RotateSecret(ctx context.Context, project, id ringback.ID, s ringback.Secret, expire, now time.Time) error
	// DeleteEndpoint removes an endpoint. Its waiting deliveries are claimed once
	// more with To nil, so that their end is recorded.
	DeleteEndpoint(ctx context.Context, project, id ringback.ID) error
}

// EndpointPatch holds the fields to change; nil ones stay.
type EndpointPatch struct {
	Name   *string
	URI    *string
	Events []ringback.EventType
	State  *ringback.EndpointState
}
