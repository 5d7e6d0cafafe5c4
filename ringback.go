// Package ringback is the vocabulary of the server: jobs, the events that
// their ends cause, the endpoints that want to hear of them, and the
// deliveries and attempts that carry the news. It holds types and pure
// functions only; it knows no database, no network and no clock.
package ringback

import (
	"encoding/json"
	"time"
)

// Project owns everything else. Nothing of one project is visible to another.
type Project struct {
	ID      ID
	Name    string
	Created time.Time
}

// APIKey lets a client act for a project. The key itself is never stored, only
// its SHA-256 and a prefix by which people recognise it.
type APIKey struct {
	ID      ID
	Project ID
	Name    string
	Prefix  string
	Hash    []byte
	Created time.Time
}

// Kind tells what sort of work a job is.
type Kind string

// The kinds of job.
const (
	KindInteraction Kind = "interaction"
)

// Job is one piece of work that a client submitted.
type Job struct {
	ID      ID
	Project ID
	Kind    Kind
	State   State
	Model   string
	// Spec is the request in the wire shape of its kind, as validated on receipt.
	Spec json.RawMessage
	// Output is what the job produced, in the wire shape of its kind; nil until it ends.
	Output json.RawMessage
	// Failure says why the job failed; nil unless State is Failed or Expired.
	Failure *Failure
	// Runs counts how often a worker claimed the job. More than one means that
	// an earlier run was cut off.
	Runs int
	// Created, Started, Updated and Ended are zero until the thing happened.
	Created, Started, Updated, Ended time.Time
}

// Failure is the reason of an unsuccessful end, as told to the client. Code is
// of the vocabulary of the job's surface (interactions: "api_error").
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Event is something that happened to a job and that endpoints may hear of.
type Event struct {
	// Seq orders the events of a store; it is given by the store and grows.
	Seq     int64
	ID      ID
	Project ID
	Type    EventType
	// Job is empty for events that concern no job, such as a ping.
	Job ID
	// Body holds the exact bytes that are signed and sent on every attempt.
	Body    []byte
	Created time.Time
}

// EndpointState tells whether a registered webhook gets events.
type EndpointState string

// The states of an endpoint (wire contract §1.1).
const (
	Enabled                       EndpointState = "enabled"
	Disabled                      EndpointState = "disabled"
	DisabledDueToFailedDeliveries EndpointState = "disabled_due_to_failed_deliveries"
)

// Endpoint is a static webhook: an address that a project registered.
type Endpoint struct {
	ID      ID
	Project ID
	Name    string
	URI     string
	Events  []EventType
	State   EndpointState
	// Secrets are the signing secrets, newest first; those that have expired
	// may still be listed and must not be used (see LiveSecrets).
	Secrets          []Secret
	Created, Updated time.Time
}

// Secret is a signing secret as it rests in the store.
type Secret struct {
	// Sealed is the secret encrypted under the server's master key.
	Sealed []byte
	// Truncated is what is shown of the secret after it was created.
	Truncated string
	Created   time.Time
	// Expires is zero for the current secret and the end of validity for one
	// that has been superseded.
	Expires time.Time
}

// Live reports whether the secret is valid at now.
func (s *Secret) Live(now time.Time) bool { return s.Expires.IsZero() || now.Before(s.Expires) }

// LiveSecrets returns the secrets that are valid at now, newest first.
func (e *Endpoint) LiveSecrets(now time.Time) []Secret {
	live := make([]Secret, 0, len(e.Secrets))
	for _, s := range e.Secrets {
		if s.Live(now) {
			live = append(live, s)
		}
	}
	return live
}

// DeliveryState tells how far a delivery has come.
type DeliveryState string

// The states of a delivery. Pending covers waiting for a due time and being
// under way; the other states are final.
const (
	DeliveryPending   DeliveryState = "pending"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryFailed    DeliveryState = "failed"
)

// Delivery carries one event to one address. Its ID is the webhook-id, the same
// on every attempt.
type Delivery struct {
	ID      ID
	Event   ID
	Project ID
	// Target groups deliveries to the same receiver into one lane.
	Target   string
	Endpoint ID
	State    DeliveryState
	// Attempts counts finished attempts.
	Attempts int
	// Due is when the next attempt may start or, while leased, when the lease
	// runs out.
	Due              time.Time
	Created, Updated time.Time
	// Reason says in one word why the delivery ended or what the last attempt
	// met: see package deliver.
	Reason string
}

// Attempt is one POST of a delivery and what came of it.
type Attempt struct {
	Delivery ID
	Number   int
	Started  time.Time
	// Status is the HTTP status of the answer, 0 when there was none.
	Status int
	// Answer holds the first bytes of the answer's body.
	Answer []byte
	// DNS, Connect, TLS, FirstByte and Total say where the time went; phases
	// that did not happen (a kept-alive connection) are 0.
	DNS, Connect, TLS, FirstByte, Total time.Duration
	// Reason classifies the outcome in one word; Error is the text for people.
	Reason string
	Error  string
}

// Lease is the right to work on a row for a while. A write made under a lease
// whose token is no longer the row's fails with Stale.
type Lease struct {
	// Node names the process that holds the lease.
	Node string
	// Token grows at every claim of the row.
	Token int64
	// Until is when others may claim the row.
	Until time.Time
}
