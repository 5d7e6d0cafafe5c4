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
	ID   ID
	Name string
	// DynamicSignature says how callbacks to per-request addresses are signed.
	DynamicSignature Scheme
	// Audience, if not empty, is put into the tokens of the project's dynamic
	// webhooks beside the address that they are sent to.
	Audience string
	Created  time.Time
}

// APIKey lets a client act for a project, or as the operator. The key itself is
// never stored, only its SHA-256 and a prefix by which people recognise it.
type APIKey struct {
	ID ID
	// Project is empty for an operator's key, which may act on projects and on
	// the server's own keys, but not within a project.
	Project ID
	Name    string
	Prefix  string
	Hash    []byte
	Created time.Time
	// LastUsed is zero for a key that was never used, and to the minute.
	LastUsed time.Time
}

// Kind tells what sort of work a job is.
type Kind string

// The kinds of job.
const (
	KindInteraction Kind = "interaction"
	KindBatch       Kind = "batch"
	KindVideo       Kind = "video"
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
	// Failure says why the job failed; nil unless State is Failed, Expired or
	// BudgetExceeded, or Cancelled if it is a video.
	Failure *Failure
	// Idempotency, if not nil, is what the client gave to make creating it again
	// harmless.
	Idempotency *Idempotency
	// Webhooks, if not nil, replace the project's endpoints for this job.
	Webhooks *DynamicWebhooks
	// Checkpoint is what a run noted for the next one, in case it is cut off. It is
	// gone once the job has ended.
	Checkpoint []byte
	// Progress tells how far a running job is, in percent, as far as it is known.
	Progress int
	// Runs counts how often a worker claimed the job. More than one means that
	// an earlier run was cut off.
	Runs int
	// Created, Started, Updated and Ended are zero until the thing happened.
	Created, Started, Updated, Ended time.Time
}

// Idempotency marks the request that created a job. Another request of the
// project with the same Key creates nothing.
type Idempotency struct {
	Key string
	// Fingerprint is a hash of the request, which tells a repeated one from another
	// under the same key.
	Fingerprint []byte
}

// Failure is the reason of an unsuccessful end, as told to the client. Code is
// of the vocabulary of the job's surface (interactions: "api_error").
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// DynamicWebhooks are addresses that ride on one request (wire contract §3).
type DynamicWebhooks struct {
	URIs []string `json:"uris"`
	// UserMetadata is a JSON object that is sent along with every event of the
	// job, as JavaScript would print it.
	UserMetadata json.RawMessage `json:"user_metadata,omitempty"`
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
	Body []byte
	// Skipped tells which endpoints did not get the event, and why.
	Skipped []Skipped
	Created time.Time
}

// Skipped are endpoints that did not get an event for one reason.
type Skipped struct {
	Reason SkipReason `json:"reason"`
	// Endpoints names them; of a great number only the first few.
	Endpoints []ID `json:"endpoints,omitempty"`
	// Count is how many there were.
	Count int `json:"count"`
}

// SkipReason says why an endpoint did not get an event.
type SkipReason string

// The reasons. There is none for a disabled endpoint: what happens meanwhile is
// kept for it.
const (
	// NotSubscribed: the endpoint does not want events of this type.
	NotSubscribed SkipReason = "not_subscribed"
	// Replaced: the request named addresses of its own.
	Replaced SkipReason = "replaced_by_webhook_config"
)

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
	// Secrets are the signing secrets of all schemes, newest first; those that
	// have expired may still be listed and must not be used (see LiveSecrets).
	Secrets  []Secret
	Settings Settings
	// Resumed is when the endpoint was last enabled again; zero if never. The
	// retry window of what had waited for it begins anew then.
	Resumed          time.Time
	Created, Updated time.Time
}

// Settings say how an endpoint is treated; zero values mean the server's own.
type Settings struct {
	// Schemes are the signature schemes, V1 and V1a; empty means V1.
	Schemes []Scheme `json:"schemes,omitempty"`
	// Timeout bounds one attempt.
	Timeout time.Duration `json:"timeout,omitempty"`
	// MaxInFlight bounds the attempts under way at once, Rate those begun in a
	// second.
	MaxInFlight int     `json:"max_in_flight,omitempty"`
	Rate        float64 `json:"rate,omitempty"`
	// Window is how long a delivery is retried, Schedule the waits after its
	// first, second, … attempt; the last one repeats.
	Window   time.Duration   `json:"window,omitempty"`
	Schedule []time.Duration `json:"schedule,omitempty"`
	// Headers are sent along with every attempt. Their values are sealed, since
	// they may be credentials.
	Headers []Header `json:"headers,omitempty"`
	// Certificate, if not nil, is shown to the receiver (mutual TLS): PEM of the
	// chain and the private key, sealed. CertificateName is its subject.
	Certificate     []byte `json:"certificate,omitempty"`
	CertificateName string `json:"certificate_name,omitempty"`
}

// Header is a static extra header of an endpoint's requests.
type Header struct {
	Name   string `json:"name"`
	Sealed []byte `json:"sealed"`
}

// Scheme is a way to sign callbacks (package webhook).
type Scheme string

// The schemes: Standard Webhooks' symmetric and asymmetric one, and the token
// of the Gemini API's documentation.
const (
	V1  Scheme = "v1"
	V1a Scheme = "v1a"
	JWT Scheme = "jwt"
)

// Schemes returns the schemes in which the endpoint's callbacks are signed.
func (e *Endpoint) Schemes() []Scheme {
	if len(e.Settings.Schemes) == 0 {
		return []Scheme{V1}
	}
	return e.Settings.Schemes
}

// Health is how an endpoint has fared of late.
type Health struct {
	// FailingSince is when the first attempt failed after which none succeeded;
	// zero if the last one succeeded.
	FailingSince time.Time
	// Failures counts the failed attempts since then.
	Failures int
}

// Secret is a signing secret, or a signing key, as it rests in the store.
type Secret struct {
	// Scheme is V1 or V1a; empty means V1.
	Scheme Scheme `json:",omitempty"`
	// Sealed is the secret encrypted under the server's master key.
	Sealed []byte
	// Truncated is what is shown of the secret after it was created: of a V1a
	// key its whole public half.
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
	Target string
	// Endpoint is the static webhook that gets the event; empty if it goes to an
	// address of the request, URI, signed with Scheme.
	Endpoint ID
	URI      string
	Scheme   Scheme
	State    DeliveryState
	// Attempts counts finished attempts.
	Attempts int
	// Due is when the next attempt may start or, while leased, when the lease
	// runs out.
	Due time.Time
	// Begun is when the retry window began: at the creation, or at the latest
	// resend.
	Begun            time.Time
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

// Audit is a line of the log of changes to projects, keys and webhooks.
type Audit struct {
	Seq     int64
	Project ID // Empty for what concerns the server.
	At      time.Time
	// Actor is the id of the API key that asked for the change, or "server".
	Actor   ID
	Action  string // Such as "webhook.update".
	Subject ID     // What was changed.
	// Detail says what was changed, in words; it holds no secret.
	Detail string
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
