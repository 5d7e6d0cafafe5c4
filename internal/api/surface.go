package api

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	next "github.com/go-json-experiment/json/v1"

	"ringback.dev"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
)

// call is one authenticated request.
type call struct {
	*http.Request
	w       http.ResponseWriter
	project ringback.ID
	key     ringback.ID
	now     time.Time
}

// by is who asks for a change.
func (c *call) by() store.By { return store.By{Actor: c.key, At: c.now} }

// id is the resource named in the path.
func (c *call) id() ringback.ID { return ringback.ID(c.PathValue("id")) }

// query returns a query parameter in either casing.
func (c *call) query(snake string) string {
	q := c.URL.Query()
	if v := q.Get(snake); v != "" {
		return v
	}
	head, rest, _ := strings.Cut(snake, "_")
	for part := range strings.SplitSeq(rest, "_") {
		if part != "" {
			head += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return q.Get(head)
}

// handlerFunc answers a call: with a value that is sent as JSON with status 200,
// an error, or nothing if it wrote the answer itself.
type handlerFunc func(*call) (any, error)

// serve authenticates a request, finds its handler and sends what it returns.
func (a *api) serve(s *surface, route func(*http.Request) (string, verbs)) http.Handler {
	return a.answer(s, route, a.enter)
}

// serveOpen is serve for what no key is needed for.
func (a *api) serveOpen(s *surface, route func(*http.Request) (string, verbs)) http.Handler {
	return a.answer(s, route, func(*call) error { return nil })
}

func (a *api) answer(s *surface, route func(*http.Request) (string, verbs), enter func(*call) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pattern, methods := route(r)
		note(w, pattern)
		c := &call{Request: r, w: w, now: a.Now()}
		out, err := a.handle(c, methods, enter)
		if err != nil {
			a.fail(w, r, s, err)
			return
		}
		if out != nil {
			sendJSON(w, http.StatusOK, out)
		}
	})
}

func (a *api) handle(c *call, methods verbs, enter func(*call) error) (any, error) {
	if methods == nil {
		return nil, &ringback.Error{Code: ringback.NotFound, Message: notServed(c.Request)}
	}
	h := methods[c.Method]
	if h == nil {
		allowed := make([]string, 0, len(methods))
		for m := range methods {
			allowed = append(allowed, m)
		}
		slices.Sort(allowed)
		c.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, &ringback.Error{Code: ringback.MethodNotAllowed,
			Message: fmt.Sprintf("%s is not possible here; allowed: %s", c.Method, strings.Join(allowed, ", "))}
	}
	if err := enter(c); err != nil {
		return nil, err
	}
	return h(c)
}

// enter finds out for whom a call is made.
func (a *api) enter(c *call) error {
	key, err := a.authenticate(c.Request)
	if err != nil {
		return err
	}
	if key.Project == "" {
		return &ringback.Error{Code: ringback.PermissionDenied, Message: "this is an operator's key; jobs and webhooks belong to a project: use one of its keys"}
	}
	c.project, c.key = key.Project, key.ID
	noteProject(c.w, c.project)
	return nil
}

// authenticate finds the key of a request: the header x-goog-api-key, the query
// parameter key, or a bearer token (§9.1).
func (a *api) authenticate(r *http.Request) (ringback.APIKey, error) {
	key := r.Header.Get("X-Goog-Api-Key")
	if key == "" && strings.Contains(r.URL.RawQuery, "key=") {
		key = r.URL.Query().Get("key")
	}
	if key == "" {
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			key = bearer
		}
	}
	if key == "" {
		return ringback.APIKey{}, errNoKey
	}
	if a.AnyKey != "" {
		return ringback.APIKey{ID: "dev", Project: a.AnyKey}, nil
	}
	hash := keyring.HashKey(key)
	if a.OperatorKey != nil && subtle.ConstantTimeCompare(hash, a.OperatorKey) == 1 {
		return ringback.APIKey{ID: "operator"}, nil
	}
	k, err := a.Store.KeyByHash(r.Context(), hash)
	if errors.Is(err, ringback.NotFound) {
		return k, errBadKey
	}
	if err == nil && a.Used != nil {
		a.Used(k.ID, a.Now())
	}
	return k, err
}

// decode reads the body into a message; an empty one is allowed only if
// optional. Errors name the field or the setting.
func (a *api) decode(c *call, into any, optional bool) error {
	body, err := a.body(c)
	if err != nil {
		return err
	}
	if optional && len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if err := genai.Decode(body, into); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// maxTrusted is how many bytes are reserved for a body on the word of its
// Content-Length alone; more is reserved as it arrives.
const maxTrusted = 1 << 20

func (a *api) body(c *call) ([]byte, error) {
	tooLarge := &ringback.Error{Code: ringback.TooLarge,
		Message: fmt.Sprintf("the body is larger than %d bytes (the server's --max-request-bytes)", a.MaxBody)}
	if c.ContentLength > a.MaxBody {
		return nil, tooLarge
	}
	var b bytes.Buffer
	if c.ContentLength > 0 {
		b.Grow(int(min(c.ContentLength, maxTrusted)) + bytes.MinRead)
	}
	_, err := b.ReadFrom(http.MaxBytesReader(c.w, c.Body, a.MaxBody))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return nil, tooLarge
	case err != nil:
		return nil, invalid("the body broke off: %v", err)
	}
	return b.Bytes(), nil
}

// invalid is an InvalidArgument for the caller.
func invalid(format string, args ...any) error {
	return &ringback.Error{Code: ringback.InvalidArgument, Message: fmt.Sprintf(format, args...)}
}

// sendJSON writes compact JSON as it stands, without escaping HTML.
func sendJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	e := next.NewEncoder(&b) // What a back-end said is kept whole (package genai).
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		status = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"error":{"code":"api_error","message":"internal"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(bytes.TrimSuffix(b.Bytes(), []byte("\n"))) // The client has gone if this fails.
}

// observed is a ResponseWriter that remembers what was answered.
type observed struct {
	http.ResponseWriter
	status  int
	pattern string
	project ringback.ID
	id      string
	err     error
}

func (o *observed) WriteHeader(status int) {
	if o.status == 0 {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *observed) Write(b []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	return o.ResponseWriter.Write(b)
}

// ReadFrom lets a file be sent without being copied into this process.
func (o *observed) ReadFrom(r io.Reader) (int64, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	return io.Copy(o.ResponseWriter, r)
}

// Unwrap lets http.ResponseController reach the connection.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func note(w http.ResponseWriter, pattern string) {
	if o, ok := w.(*observed); ok {
		o.pattern = pattern
	}
}

func noteProject(w http.ResponseWriter, project ringback.ID) {
	if o, ok := w.(*observed); ok {
		o.project = project
	}
}

// observe gives each request an id, answers CORS, catches panics and writes one
// log line at the end. Keys and queries are not logged.
func (a *api) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		o := &observed{ResponseWriter: w, id: string(ringback.NewID("req", begin))}
		w.Header().Set("X-Request-Id", o.id)
		cors(w, r)
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				a.Log.Error("panic in a request", "request", o.id, "panic", p, "stack", string(debug.Stack()))
				if o.status == 0 {
					a.fail(o, r, newSurface, errors.New("panic"))
				}
			}
			a.log(r, o, time.Since(begin))
		}()
		if r.Method == http.MethodOptions {
			o.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(o, r)
	})
}

func (a *api) log(r *http.Request, o *observed, took time.Duration) {
	level := slog.LevelInfo
	if o.status >= 500 {
		level = slog.LevelError
	}
	if !a.Log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{slog.String("method", r.Method), slog.String("route", o.pattern), slog.Int("status", o.status),
		slog.Duration("took", took), slog.String("project", string(o.project)), slog.String("request", o.id)}
	if o.err != nil {
		attrs = append(attrs, slog.String("error", o.err.Error()))
	}
	a.Log.LogAttrs(r.Context(), level, "request", attrs...)
}

// cors lets browsers call, as production does (§9.1).
func cors(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") == "" {
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, ETag, X-Goog-Upload-Status, X-Goog-Upload-Url, X-Goog-Upload-Size-Received, X-Goog-Upload-Chunk-Granularity")
	if r.Method != http.MethodOptions {
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	h.Set("Access-Control-Max-Age", "3600")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		h.Set("Access-Control-Allow-Headers", asked)
	}
}
