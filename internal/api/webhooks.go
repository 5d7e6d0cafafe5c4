package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"ringback.dev"
	"ringback.dev/internal/store"
	"ringback.dev/webhook"
)

const (
	maxWebhooks   = 100 // Per project.
	maxNameLength = 256
	defaultPage   = 50
	maxPage       = 1000
	overlap       = 24 * time.Hour // How long a superseded secret stays valid.
)

// webhookResource is the resource of wire contract §1.1.
type webhookResource struct {
	ID               string               `json:"id"`
	Name             string               `json:"name,omitempty"`
	URI              string               `json:"uri"`
	SubscribedEvents []ringback.EventType `json:"subscribed_events"`
	State            string               `json:"state"`
	CreateTime       string               `json:"create_time"`
	UpdateTime       string               `json:"update_time"`
	SigningSecrets   []secretResource     `json:"signing_secrets"`
	// NewSigningSecret is the whole secret, only in the answer to create.
	NewSigningSecret string `json:"new_signing_secret,omitempty"`
}

type secretResource struct {
	TruncatedSecret string `json:"truncated_secret"`
	ExpireTime      string `json:"expire_time,omitempty"`
}

func renderWebhook(e *ringback.Endpoint, now time.Time) *webhookResource {
	w := &webhookResource{ID: string(e.ID), Name: e.Name, URI: e.URI, SubscribedEvents: e.Events, State: string(e.State),
		CreateTime: wireTime(e.Created), UpdateTime: wireTime(e.Updated), SigningSecrets: []secretResource{}}
	for _, s := range e.LiveSecrets(now) {
		if s.Scheme == ringback.V1a {
			continue // A public key is no secret; ringback's own API shows it.
		}
		r := secretResource{TruncatedSecret: s.Truncated}
		if !s.Expires.IsZero() {
			r.ExpireTime = wireTime(s.Expires)
		}
		w.SigningSecrets = append(w.SigningSecrets, r)
	}
	return w
}

// wireTime prints a time as RFC 3339 in UTC with at most microseconds (§0.3, rule 4).
func wireTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z") }

// webhookRequest is the body of create and update; what is absent is nil.
type webhookRequest struct {
	Name             *string   `json:"name"`
	URI              *string   `json:"uri"`
	SubscribedEvents *[]string `json:"subscribed_events"`
	State            *string   `json:"state"`
}

// patch validates what the request holds.
func (a *api) patch(q *webhookRequest) (store.EndpointPatch, error) {
	p := store.EndpointPatch{Name: q.Name, URI: q.URI}
	if q.Name != nil && (len(*q.Name) > maxNameLength || !utf8.ValidString(*q.Name)) {
		return p, invalid("name: at most %d bytes of UTF-8 are allowed", maxNameLength)
	}
	if q.URI != nil {
		if err := a.CheckURI(*q.URI); err != nil {
			return p, err
		}
	}
	if q.SubscribedEvents != nil {
		p.Events = []ringback.EventType{}
		for _, name := range *q.SubscribedEvents {
			t, err := ringback.ParseEventType(name)
			if err != nil {
				return p, err
			}
			if !slices.Contains(p.Events, t) {
				p.Events = append(p.Events, t)
			}
		}
		if len(p.Events) == 0 {
			return p, invalid("subscribed_events: at least one event is required; %s", knownEvents())
		}
	}
	if q.State != nil {
		s := ringback.EndpointState(strings.ToLower(*q.State))
		if s != ringback.Enabled && s != ringback.Disabled {
			return p, invalid("state: %q can't be set; %q and %q can", *q.State, ringback.Enabled, ringback.Disabled)
		}
		p.State = &s
	}
	return p, nil
}

func knownEvents() string {
	var names []string
	for _, t := range ringback.EventTypes() {
		names = append(names, string(t))
	}
	return "the known events are " + strings.Join(names, ", ")
}

// chosenID is the form of an id that a client may choose with ?webhook_id= (§1.3).
var chosenID = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (a *api) createWebhook(c *call) (any, error) {
	var q webhookRequest
	if err := a.decode(c, &q, false); err != nil {
		return nil, err
	}
	if q.URI == nil {
		return nil, invalid("uri: it is required, for example https://example.com/webhook")
	}
	if q.SubscribedEvents == nil {
		return nil, invalid("subscribed_events: it is required; %s", knownEvents())
	}
	p, err := a.patch(&q)
	if err != nil {
		return nil, err
	}
	have, err := a.Store.ProjectEndpoints(c.Context(), c.project)
	if err != nil {
		return nil, err
	}
	if len(have) >= maxWebhooks {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("the project has %d webhooks, the most that are allowed; delete one first", maxWebhooks)}
	}
	e := &ringback.Endpoint{ID: ringback.NewEndpointID(c.now), Project: c.project, URI: *p.URI, Events: p.Events,
		State: ringback.Enabled, Created: c.now, Updated: c.now}
	if p.Name != nil {
		e.Name = *p.Name
	}
	if id := c.query("webhook_id"); id != "" {
		if !chosenID.MatchString(id) {
			return nil, invalid("webhook_id: 1 to 63 characters of [a-z0-9-] are allowed")
		}
		e.ID = ringback.ID(id)
	}
	secret, sealed := a.newSecret(e.ID, c.now)
	e.Secrets = []ringback.Secret{sealed}
	if err := a.Store.CreateEndpoint(c.Context(), e, c.by()); err != nil {
		if errors.Is(err, ringback.AlreadyExists) {
			return nil, &ringback.Error{Code: ringback.AlreadyExists, Message: "webhook_id: " + string(e.ID) + " is taken"}
		}
		return nil, err
	}
	w := renderWebhook(e, c.now)
	w.NewSigningSecret = secret.Reveal()
	return w, nil
}

// newSecret makes a signing secret for an endpoint.
func (a *api) newSecret(id ringback.ID, now time.Time) (webhook.Secret, ringback.Secret) {
	s := webhook.NewSecret()
	return s, ringback.Secret{Sealed: a.Secrets.Seal(s.Reveal(), store.SealEndpoint+string(id)), Truncated: s.Truncated(), Created: now}
}

func (a *api) listWebhooks(c *call) (any, error) {
	all, err := a.Store.ProjectEndpoints(c.Context(), c.project)
	if err != nil {
		return nil, err
	}
	size, token, err := c.page()
	if err != nil {
		return nil, err
	}
	after, err := parsePosition(token)
	if err != nil {
		return nil, err
	}
	var out struct {
		Webhooks      []*webhookResource `json:"webhooks"`
		NextPageToken string             `json:"next_page_token,omitempty"`
	}
	out.Webhooks = []*webhookResource{}
	for _, e := range all {
		// The list is in order of creation; the token names the last one seen, which
		// may have been deleted since.
		if after != nil && !after.before(e) {
			continue
		}
		if len(out.Webhooks) == size {
			last := out.Webhooks[size-1]
			out.NextPageToken = pageToken(last.CreateTime + " " + last.ID)
			break
		}
		out.Webhooks = append(out.Webhooks, renderWebhook(e, c.now))
	}
	return out, nil
}

// position is the place of a webhook in the list, which a page token names.
type position struct {
	created time.Time
	id      ringback.ID
}

// parsePosition reads a decoded page token; it returns nil if there is none.
func parsePosition(token string) (*position, error) {
	if token == "" {
		return nil, nil
	}
	stamp, id, found := strings.Cut(token, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil || !found {
		return nil, errBadToken
	}
	return &position{at, ringback.ID(id)}, nil
}

// before reports whether an endpoint comes after the position.
func (p *position) before(e *ringback.Endpoint) bool {
	if c := e.Created.Truncate(time.Microsecond).Compare(p.created); c != 0 {
		return c > 0
	}
	return e.ID > p.id
}

var errBadToken = &ringback.Error{Code: ringback.InvalidArgument, Message: "page_token: it is not one that this server gave"}

// page reads page_size and page_token.
func (c *call) page() (size int, after string, err error) {
	size = defaultPage
	if s := c.query("page_size"); s != "" {
		if size, err = strconv.Atoi(s); err != nil || size < 0 {
			return 0, "", invalid("page_size: %q is not a number from 1 to %d", s, maxPage)
		}
		if size == 0 {
			size = defaultPage
		}
	}
	if t := c.query("page_token"); t != "" {
		b, err := base64.RawURLEncoding.DecodeString(t)
		if err != nil || !utf8.Valid(b) {
			return 0, "", errBadToken
		}
		after = string(b)
	}
	return min(size, maxPage), after, nil
}

func pageToken(after string) string { return base64.RawURLEncoding.EncodeToString([]byte(after)) }

func (a *api) getWebhook(c *call) (any, error) {
	e, err := a.webhook(c)
	if err != nil {
		return nil, err
	}
	return renderWebhook(e, c.now), nil
}

// webhook reads the endpoint that the path names.
func (a *api) webhook(c *call) (*ringback.Endpoint, error) {
	e, err := a.Store.Endpoint(c.Context(), c.project, c.id())
	return e, notFound(err, "webhook", c.id())
}

// notFound puts a NotFound into words for the caller; other errors pass.
func notFound(err error, what string, id ringback.ID) error {
	if errors.Is(err, ringback.NotFound) {
		return &ringback.Error{Code: ringback.NotFound, Message: fmt.Sprintf("there is no %s %q in this project", what, id)}
	}
	return err
}

func (a *api) updateWebhook(c *call) (any, error) {
	var q webhookRequest
	if err := a.decode(c, &q, false); err != nil {
		return nil, err
	}
	// With a mask, what is both listed and present changes; without one, or with
	// "*", what is present does (§1.6). Unknown entries are passed over.
	if mask := c.query("update_mask"); mask != "" {
		listed := make(map[string]bool)
		for name := range strings.SplitSeq(mask, ",") {
			listed[strings.ToLower(strings.ReplaceAll(strings.TrimSpace(name), "_", ""))] = true
		}
		if !listed["*"] {
			q = webhookRequest{Name: keep(listed["name"], q.Name), URI: keep(listed["uri"], q.URI),
				SubscribedEvents: keep(listed["subscribedevents"], q.SubscribedEvents), State: keep(listed["state"], q.State)}
		}
	}
	p, err := a.patch(&q)
	if err != nil {
		return nil, err
	}
	e, err := a.Store.UpdateEndpoint(c.Context(), c.project, c.id(), p, c.by())
	if err != nil {
		return nil, notFound(err, "webhook", c.id())
	}
	return renderWebhook(e, c.now), nil
}

func keep[T any](listed bool, v *T) *T {
	if listed {
		return v
	}
	return nil
}

func (a *api) deleteWebhook(c *call) (any, error) {
	return struct{}{}, notFound(a.Store.DeleteEndpoint(c.Context(), c.project, c.id(), c.by()), "webhook", c.id())
}

func (a *api) pingWebhook(c *call) (any, error) {
	e, err := a.webhook(c)
	if err != nil {
		return nil, err
	}
	if e.State != ringback.Enabled {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("the webhook is %s; set its state to enabled first", e.State)}
	}
	return struct{}{}, a.Pinger.Ping(c.Context(), e, c.now)
}

func (a *api) rotateWebhook(c *call) (any, error) {
	var q struct {
		RevocationBehavior string `json:"revocation_behavior"`
	}
	if err := a.decode(c, &q, true); err != nil {
		return nil, err
	}
	expire := c.now.Add(overlap)
	switch strings.ToLower(q.RevocationBehavior) {
	case "", "revoke_previous_secrets_after_h24", "revocation_behavior_unspecified":
	case "revoke_previous_secrets_immediately":
		expire = c.now
	default:
		return nil, invalid("revocation_behavior: %q is neither revoke_previous_secrets_after_h24 nor revoke_previous_secrets_immediately", q.RevocationBehavior)
	}
	e, err := a.webhook(c)
	if err != nil {
		return nil, err
	}
	// Each scheme in use gets a new secret or key. The answer has one field: of a
	// webhook that is signed with a key alone it is the public half.
	var sealed []ringback.Secret
	shown := ""
	for _, scheme := range e.Schemes() {
		if scheme == ringback.V1a {
			key := webhook.NewSigningKey()
			sealed = append(sealed, ringback.Secret{Scheme: ringback.V1a, Sealed: a.Secrets.Seal(key.Reveal(), store.SealEndpoint+string(e.ID)),
				Truncated: key.Public().String(), Created: c.now})
			if shown == "" {
				shown = key.Public().String()
			}
			continue
		}
		secret, s := a.newSecret(e.ID, c.now)
		sealed, shown = append(sealed, s), secret.Reveal()
	}
	if err := a.Store.RotateSecrets(c.Context(), c.project, c.id(), sealed, expire, c.by()); err != nil {
		return nil, notFound(err, "webhook", c.id())
	}
	return map[string]string{"secret": shown}, nil
}
