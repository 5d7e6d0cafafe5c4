// Package inbox is the receiving half of webhooks: it makes a message act once,
// although senders send it at least once.
//
// [Once] claims a message's id in the caller's own database transaction, beside
// the effect: both are committed or neither. That is all that a receiver needs
// whose work is a few writes to one database.
//
// [Handler] is for work that takes longer than a sender waits: it verifies a
// message, stores it durably, answers 2xx, and only then works on it, in the
// background, with retries and dead letters. It calls its function at least once
// for each message; together with Once the effect is there exactly once.
//
// The package itself needs the standard library alone. Engines for the store are
// inbox/sqlite, for one machine, and inbox/postgres, for any number; the latter
// also has Once for pgx.
package inbox

import (
	"context"
	"errors"
	"time"
)

// State is where an entry stands.
type State string

// The states of an entry.
const (
	// Pending: it waits for its first or next attempt, or one is under way.
	Pending State = "pending"
	// Done: an attempt has succeeded.
	Done State = "done"
	// Dead: no more attempts are made. It is kept until somebody retries or purges it.
	Dead State = "dead"
)

// Entry is a message in the inbox. Source and ID name it.
type Entry struct {
	// Source is the Receiver that took it.
	Source string
	// ID is its webhook-id. Another Source may have an entry of the same id: where
	// several share a table of Once, claim Source and ID.
	ID string
	// Type is the event's type, "" if the body has none.
	Type string
	// Scheme is how the message was signed, such as webhook.SchemeV1.
	Scheme string
	// Sent is when the attempt that was accepted was made, Received when it came.
	Sent, Received time.Time
	// Body is exactly what was signed. Lists don't have it.
	Body []byte

	State State
	// Attempts counts those that came to an end. Lost counts those that did not,
	// because the process died.
	Attempts, Lost int
	// Due is when a pending entry may be claimed: for its next attempt, or because
	// the lease of one under way has run out.
	Due time.Time
	// Working: it is claimed, by a process that may have died.
	Working bool
	// LastError is why the latest attempt failed.
	LastError string
	// Ended is when the entry became done or dead.
	Ended time.Time
	// Token is that of the latest claim.
	Token int64

	// Failures are the attempts that failed, oldest first; only Desk.Entry has them.
	Failures []Failure
}

// Lease is the right to settle the entry.
func (e *Entry) Lease() Lease { return Lease{Source: e.Source, ID: e.ID, Token: e.Token} }

// Failure is an attempt that failed.
type Failure struct {
	// Number counts an entry's attempts from 1.
	Number  int
	Started time.Time
	Took    time.Duration
	Error   string
}

// Lease is the right to work on an entry and to settle it, until its time or
// until the entry is claimed again.
type Lease struct {
	Source, ID string
	// Token grows with every claim of the entry.
	Token int64
}

// Outcome is what came of a claim.
type Outcome struct {
	// State is Done, Dead, or Pending for another attempt at Due.
	State State
	Due   time.Time
	// At is when the attempt ended, Started when it began.
	Started, At time.Time
	// Error is why it failed; "" if it didn't.
	Error string
	// Released gives the entry back as if it had not been claimed: with State
	// Pending, for another attempt at Due.
	Released bool
}

// Errors of a Store.
var (
	// ErrNotFound: there is no such entry.
	ErrNotFound = errors.New("inbox: no such entry")
	// ErrStale: the entry was claimed again, settled or purged since.
	ErrStale = errors.New("inbox: the lease is stale")
)

// Settlement ends one claim.
type Settlement struct {
	Lease
	Outcome
}

// Store keeps entries. Times are arguments: a Store has no clock. Every method
// may be called by any number of goroutines, and by several processes on one
// database. What a method has changed is durable when it returns nil, as far as
// the database promises that for a commit. When it returns an error nothing was
// changed; or, if ctx ended or the database could not be reached, that is not known,
// and of a method that works in steps (Sweep, Retry, Purge) some may be done.
//
// No order of entries is promised, neither of all nor of those about one thing:
// senders retry, and so does a Receiver.
type Store interface {
	// Accept adds a new entry in state Pending, due at e.Due, and reports whether
	// it is the first of its Source and ID, in any state and also when only its id is
	// remembered. If it is not, nothing is changed. With Token 1 and Working the entry
	// is born claimed, with a lease until Due; otherwise Token must be 0. Doubles at
	// once: exactly one is the first, and no other is told so before that one is
	// durable.
	Accept(ctx context.Context, e *Entry) (first bool, err error)

	// Claim leases up to max pending entries of a source that are due at now, those
	// that are due longest first, until a time, and returns them in any order. No two
	// claims get an entry as long as a lease on it lasts. An entry whose lease ran out
	// counts as Lost.
	Claim(ctx context.Context, source string, now, until time.Time, max int) ([]Entry, error)

	// Extend makes leases last until a later time. Stale ones are passed over.
	Extend(ctx context.Context, leases []Lease, until time.Time) error

	// Settle ends a claim. Unless o.Released, it counts the attempt, and keeps it
	// among the Failures if o.Error is not "". ErrStale if the lease is superseded;
	// one that merely ran out is good.
	Settle(ctx context.Context, l Lease, o Outcome) error

	// Sweep forgets all but the ids of entries of a source that were done before a
	// time, and then the ids, too, of those that were done or purged before another.
	// It works in steps, so that others don't wait long. Dead letters and pending
	// entries stay.
	Sweep(ctx context.Context, source string, done, ids time.Time) error
}

// BatchSettler is what a Store may be, too: one that settles many claims at the cost
// of few.
type BatchSettler interface {
	// SettleAll settles all of them in one step, and returns the indexes of those
	// whose lease is stale, which are passed over.
	SettleAll(ctx context.Context, all []Settlement) (stale []int, err error)
}

// Desk is what people do with the entries of a Store. Each engine has it.
type Desk interface {
	// Entries lists at most max entries, which must be 1 or more, newest first and
	// without Body and Failures, and the cursor of the next page, "" if there is
	// none. after is a cursor or "".
	Entries(ctx context.Context, f Filter, after string, max int) (page []Entry, next string, err error)
	// Entry returns one with everything. Errors: ErrNotFound.
	Entry(ctx context.Context, source, id string) (Entry, error)
	// Counts counts the entries of each source by state. A source of which only ids
	// are remembered has none.
	Counts(ctx context.Context) (map[string]map[State]int64, error)
	// Retry makes the dead entries that match pending again, with all their attempts
	// before them, and lets the pending ones that wait for another attempt have it
	// now. Those that are being worked on, that are done, or that come later, are left
	// alone. It returns how many it has changed.
	Retry(ctx context.Context, f Filter, now time.Time) (int64, error)
	// Purge removes the entries that match for good, as if they had been done at now,
	// those that are being worked on, too, but none that come later. Only their ids are
	// remembered, so that a double is still known, until Sweep forgets them. The filter
	// must name a state or ids. It returns how many it has removed.
	Purge(ctx context.Context, f Filter, now time.Time) (int64, error)
}

// Filter chooses entries. What is zero does not matter.
type Filter struct {
	Source string
	State  State
	Type   string
	IDs    []string
	// From and Before bound when they were received: not before From, and before
	// Before.
	From, Before time.Time
	// EndedBefore chooses those that became done or dead before a time.
	EndedBefore time.Time
}
