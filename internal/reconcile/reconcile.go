// Package reconcile finds what ended and nobody knows to have heard of: the gap
// between what a server has done and what a receiver has acknowledged or a user
// collected. It asks a ringback server, or the Gemini API, over HTTP, and it can
// close the gap: have a delivery sent again, or post the event itself. It keeps
// nothing but the ledger, a file that its user may write to as well.
package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ringback.dev/internal/post"
)

// Why something is a gap.
const (
	// GivenUp: a delivery failed until its retry window was over.
	GivenUp = "given up"
	// Held: a delivery waits for a webhook that is disabled.
	Held = "held"
	// Waiting: a delivery is still being tried. It is told of on request only.
	Waiting = "waiting"
	// Unheard: no webhook was subscribed when the job ended.
	Unheard = "unheard"
	// NotCollected: the ledger does not have it.
	NotCollected = "not collected"
)

// Gap is something that ended and was not acknowledged.
type Gap struct {
	// Job is its name as the event bears it: batches/ID, an interaction's id, the
	// operation of a video.
	Job   string    `json:"job"`
	Type  string    `json:"type"` // Of the event.
	Ended time.Time `json:"ended"`
	Why   string    `json:"gap"`
	// Detail says more, in a sentence.
	Detail string `json:"detail,omitempty"`
	// Event, Delivery, Webhook and URI are known of ringback's: the delivery is to
	// the webhook, or to the address of a request.
	Event    string `json:"event,omitempty"`
	Delivery string `json:"delivery,omitempty"`
	Webhook  string `json:"webhook,omitempty"`
	URI      string `json:"uri,omitempty"`
	// ID and Body are the message that tells of it.
	ID   string `json:"webhook_id"`
	Body string `json:"body"`
}

// Options say what is looked for.
type Options struct {
	// Since bounds how long ago something may have ended.
	Since time.Time
	// Ledger, if not nil, holds what was collected.
	Ledger *Ledger
	// Waiting includes what is still being tried.
	Waiting bool
}

// Report is what was found.
type Report struct {
	// Ended counts what ended since then and was looked at.
	Ended int   `json:"ended"`
	Gaps  []Gap `json:"gaps"`
}

// Source knows what ended.
type Source interface {
	// Find looks for gaps, oldest first.
	Find(ctx context.Context, o Options) (*Report, error)
	// Close closes a gap as far as the source itself can: it returns whether the
	// receiver has acknowledged. The error is ErrPost when only the message itself,
	// posted to a receiver, can close it.
	Close(ctx context.Context, g *Gap) (bool, error)
}

// ErrPost says that the source has nothing to send again.
var ErrPost = errors.New("there is no delivery to send again: give the receiver's address (--to)")

// Post closes a gap by posting its message to a receiver, and notes it in the
// ledger, if there is one, once the receiver has accepted.
func Post(ctx context.Context, s *post.Sender, to string, g *Gap, l *Ledger) (post.Result, error) {
	r := s.Send(ctx, to, g.ID, []byte(g.Body))
	if !r.OK() || l == nil {
		return r, nil
	}
	return r, l.Add(g.Job, g.Type+" acknowledged "+r.At.UTC().Format(time.RFC3339))
}

// api calls a server.
type api struct {
	base, key string
	client    *http.Client
}

// newAPI calls a server with a client that follows no redirect: net/http would show
// the key to whoever it leads to.
func newAPI(base, key string) api {
	return api{base, key, &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Through has a source of this package ask with another client, which must follow no
// redirect.
func Through(c *http.Client, s Source) Source {
	if x, ok := s.(interface{ through(*http.Client) }); ok {
		x.through(c)
	}
	return s
}

func (a *api) through(c *http.Client) { a.client = c }

const maxAnswer = 64 << 20

// call makes a request and decodes the answer. A refusal is its message.
func (a *api) call(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(a.base, "/")+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("%q is not the address of a server", a.base)
	}
	req.Header.Set("X-Goog-Api-Key", a.key)
	resp, err := a.client.Do(req)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err // Without the address and its query.
		}
		return fmt.Errorf("the server does not answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the answer broke off: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var said struct{ Error struct{ Message string } }
		if json.Unmarshal(body, &said) != nil || said.Error.Message == "" {
			said.Error.Message = "the server answered " + resp.Status
		}
		return &refused{resp.StatusCode, said.Error.Message}
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("the answer can't be read: %w", err)
	}
	return nil
}

// refused is an answer other than 200.
type refused struct {
	status  int
	message string
}

func (r *refused) Error() string { return r.message }

func notFound(err error) bool {
	var r *refused
	return errors.As(err, &r) && r.status == http.StatusNotFound
}
