// Package manage is ringback's own API, below /ringback/v1: the feed of events,
// the log of deliveries with resend and replay, one story per job, a live stream,
// and for operators projects, keys and signing keys. It asks the store and
// renders; it sends nothing itself.
package manage

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
)

// Config is what the API needs. All but Dev and Now must be set.
type Config struct {
	Store store.Store
	Bus   *bus.Bus
	// Secrets seals header values, client certificates and signing keys.
	Secrets *keyring.Keyring
	// Authenticate finds the key of a request. Its errors are for the caller.
	Authenticate func(*http.Request) (ringback.APIKey, error)
	// Fail answers an error and notes it for the log.
	Fail func(http.ResponseWriter, *http.Request, error)
	// Route tells what the request is logged as.
	Route func(w http.ResponseWriter, pattern string, project ringback.ID)
	// RotateSigningKeys and RevokeSigningKey change the server's own keys.
	RotateSigningKeys func(ctx context.Context, algorithm string, force bool, by store.By) error
	RevokeSigningKey  func(ctx context.Context, kid string, by store.By) error
	// Wake tells the sender that there are due deliveries; nil if there is none.
	Wake func()
	// Advance sets the server's clock forward and returns how far it is ahead, which
	// Ahead tells too; nil unless it is a development server.
	Advance func(ctx context.Context, by time.Duration) (ahead time.Duration, err error)
	Ahead   func() time.Duration
	// Trigger makes an event of a type happen that nothing caused; a nil body means a
	// realistic one. Nil unless it is a development server.
	Trigger func(ctx context.Context, project ringback.ID, t ringback.EventType, body []byte, now time.Time) (ringback.ID, error)
	// Backoff is the server's own way to retry.
	Backoff ringback.Backoff
	// Dev lets a project's key use the operator's routes.
	Dev bool
	// Closing is closed when the server stops; it ends streams.
	Closing <-chan struct{}
	Now     func() time.Time
}

// prefix is where the API is mounted.
const prefix = "/ringback/v1/"

const (
	maxBody      = 1 << 20
	defaultLimit = 50
	maxLimit     = 1000
)

type manage struct{ Config }

// who may call a route.
type who int

const (
	project who = iota
	operator
	either
	anybody
)

// route is one method of one path.
type route struct {
	method, path string
	who          who
	handle       func(*call) (any, error)
}

// routes lists all routes. {id} and {key} match one segment; a verb follows after
// a colon.
func (m *manage) routes() []route {
	return []route{
		{"GET", "events", project, m.listEvents},
		{"POST", "events:trigger", project, m.trigger},
		{"GET", "events/{id}", project, m.getEvent},
		{"GET", "deliveries", project, m.listDeliveries},
		{"POST", "deliveries:replay", project, m.replay},
		{"GET", "deliveries/{id}", project, m.getDelivery},
		{"POST", "deliveries/{id}:resend", project, m.resend},
		{"GET", "replays", project, m.listReplays},
		{"GET", "replays/{id}", project, m.getReplay},
		{"GET", "jobs", project, m.listJobs},
		{"GET", "jobs/{id}/timeline", project, m.timeline},
		{"GET", "stream", project, m.stream},
		{"GET", "clock", project, m.getClock},
		{"POST", "clock:advance", project, m.advanceClock},
		{"GET", "webhooks/{id}", project, m.getWebhook},
		{"PATCH", "webhooks/{id}", project, m.patchWebhook},
		{"GET", "project", project, m.getOwnProject},
		{"GET", "audit", either, m.listAudit},
		{"GET", "projects", operator, m.listProjects},
		{"POST", "projects", operator, m.createProject},
		{"GET", "projects/{id}", operator, m.getProject},
		{"PATCH", "projects/{id}", operator, m.patchProject},
		{"GET", "projects/{id}/keys", operator, m.listKeys},
		{"POST", "projects/{id}/keys", operator, m.createKey},
		{"DELETE", "projects/{id}/keys/{key}", operator, m.revokeKey},
		{"GET", "signing_keys", operator, m.listSigningKeys},
		{"POST", "signing_keys:rotate", operator, m.rotateSigningKeys},
		{"POST", "signing_keys/{id}:revoke", operator, m.revokeSigningKey},
		{"GET", "openapi.json", anybody, m.openAPI},
	}
}

// New returns the handler of everything below /ringback/v1/.
func New(c Config) http.Handler {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Route == nil {
		c.Route = func(http.ResponseWriter, string, ringback.ID) {}
	}
	if c.Bus == nil {
		c.Bus = &bus.Bus{}
	}
	if c.Wake == nil {
		c.Wake = func() {}
	}
	m := &manage{c}
	all := m.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := m.serve(all, w, r)
		switch {
		case err != nil:
			c.Fail(w, r, err)
		case out != nil:
			send(w, out)
		}
	})
}

// call is one request.
type call struct {
	*http.Request
	w       http.ResponseWriter
	key     ringback.APIKey
	project ringback.ID // Empty for an operator.
	now     time.Time
	names   map[string]string // What the path's parameters matched.
}

func (c *call) id() ringback.ID { return ringback.ID(c.names["id"]) }

// by is who asks for a change.
func (c *call) by() store.By { return store.By{Actor: c.key.ID, At: c.now} }

func (m *manage) serve(all []route, w http.ResponseWriter, r *http.Request) (any, error) {
	path := strings.TrimPrefix(r.URL.Path, prefix)
	var allowed []string
	for i := range all {
		names, ok := match(all[i].path, path)
		if !ok {
			continue
		}
		if all[i].method != r.Method {
			allowed = append(allowed, all[i].method)
			continue
		}
		c := &call{Request: r, w: w, now: m.Now(), names: names}
		if err := m.admit(c, all[i].who); err != nil {
			m.Route(w, "ringback/"+all[i].path, "")
			return nil, err
		}
		m.Route(w, "ringback/"+all[i].path, c.project)
		return all[i].handle(c)
	}
	if allowed != nil {
		slices.Sort(allowed)
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, &ringback.Error{Code: ringback.MethodNotAllowed, Message: fmt.Sprintf("%s is not possible here; allowed: %s", r.Method, strings.Join(allowed, ", "))}
	}
	return nil, &ringback.Error{Code: ringback.NotFound, Message: "there is no " + r.URL.Path + "; " + prefix + "openapi.json lists what there is"}
}

// match compares a path with a route's, segment by segment.
func match(pattern, path string) (map[string]string, bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	names := make(map[string]string)
	for i := range want {
		segment, verb, _ := strings.Cut(want[i], ":")
		got := have[i]
		if verb != "" {
			var ok bool
			if got, ok = strings.CutSuffix(got, ":"+verb); !ok {
				return nil, false
			}
		}
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			if got == "" || verb == "" && strings.Contains(got, ":") {
				return nil, false
			}
			names[strings.TrimSuffix(name, "}")] = got
		} else if segment != got {
			return nil, false
		}
	}
	return names, true
}

// admit authenticates a call.
func (m *manage) admit(c *call, who who) error {
	if who == anybody {
		return nil
	}
	var err error
	if c.key, err = m.Authenticate(c.Request); err != nil {
		return err
	}
	c.project = c.key.Project
	switch {
	case who == operator && c.project != "" && !m.Dev:
		return &ringback.Error{Code: ringback.PermissionDenied, Message: "this needs an operator's key (printed at the server's first start, or RINGBACK_OPERATOR_KEY)"}
	case who == project && c.project == "":
		return &ringback.Error{Code: ringback.PermissionDenied, Message: "this is an operator's key; use a key of the project"}
	}
	return nil
}

// send answers compact JSON without escaping HTML.
func send(w http.ResponseWriter, v any) {
	text, err := marshal(v)
	if err != nil {
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // The client has gone if this fails.
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// invalid is an InvalidArgument for the caller.
func invalid(format string, args ...any) error {
	return &ringback.Error{Code: ringback.InvalidArgument, Message: fmt.Sprintf(format, args...)}
}

// notFound puts a NotFound into words for the caller; other errors pass.
func notFound(err error, what string, id ringback.ID) error {
	if errors.Is(err, ringback.NotFound) {
		return &ringback.Error{Code: ringback.NotFound, Message: fmt.Sprintf("there is no %s %q in this project", what, id)}
	}
	return err
}

// decode reads the body into a struct; an empty body is an empty object. Unknown
// members and wrong types are errors that name them.
func (c *call) decode(into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, maxBody))
	var limit *http.MaxBytesError
	if errors.As(err, &limit) {
		return &ringback.Error{Code: ringback.TooLarge, Message: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	}
	if err != nil {
		return invalid("the body broke off")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err = d.Decode(into)
	if err == nil && d.More() {
		return invalid("the body: something follows the object")
	}
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &kind) && kind.Field != "":
		return invalid("%s: got a %s", kind.Field, kind.Value)
	case errors.As(err, &kind):
		return invalid("the body: expected an object, got a %s", kind.Value)
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return invalid("unknown field %s", strings.TrimPrefix(err.Error(), "json: unknown field "))
	}
	return invalid("the body is not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// query reads the query, in which only the named parameters may stand.
func (c *call) query(names ...string) (url.Values, error) {
	q, err := url.ParseQuery(c.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query is malformed")
	}
	for name, values := range q {
		if name != "key" && !slices.Contains(names, name) {
			if len(names) == 0 {
				return nil, invalid("unknown parameter %q; none is possible here", name)
			}
			return nil, invalid("unknown parameter %q; possible are %s", name, strings.Join(names, ", "))
		}
		if len(values) > 1 {
			return nil, invalid("%s: it is given twice", name)
		}
		if !utf8.ValidString(values[0]) {
			return nil, invalid("%s: it is not UTF-8", name)
		}
	}
	return q, nil
}

// limit reads the parameter limit.
func limit(q url.Values) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, invalid("limit: %q is not a number from 1 to %d", text, maxLimit)
	}
	return min(n, maxLimit), nil
}

// instant reads a time; empty is the zero time.
func instant(field, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, invalid("%s: %q is not a time such as 2026-10-01T12:00:00Z", field, text)
	}
	return t, nil
}

// types reads a list of event types; a ping counts, since it is in the log.
func types(names []string) ([]ringback.EventType, error) {
	var all []ringback.EventType
	for _, name := range names {
		t := ringback.EventType(name)
		if t != ringback.Ping {
			var err error
			if t, err = ringback.ParseEventType(name); err != nil {
				return nil, err
			}
		}
		all = append(all, t)
	}
	return all, nil
}

func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// cursor makes an opaque position in a list of a kind.
func cursor(kind, position string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + " " + position))
}

// position reads a cursor of a kind.
func position(field, kind, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	p, ok := strings.CutPrefix(string(b), kind+" ")
	if err != nil || !ok || p == "" || !utf8.ValidString(p) {
		return "", invalid("%s: it is not a cursor that this list gave", field)
	}
	return p, nil
}

// numbered reads a cursor whose position is a number; none is 0.
func numbered(field, kind, text string) (int64, error) {
	p, err := position(field, kind, text)
	if err != nil || p == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(p, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("%s: it is not a cursor that this list gave", field)
	}
	return n, nil
}

// wireTime prints a time in UTC with at most microseconds; the zero time is empty.
func wireTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.999999Z")
}

// millis is a duration in milliseconds.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
