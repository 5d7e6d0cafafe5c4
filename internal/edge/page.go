package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	html "html/template"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ringback.dev/inbox"
)

//go:embed page.html
var pageText string

// pageEntries is how many entries one page is made of.
const pageEntries = 400

// adminHandler serves metrics and health checks to anybody who reaches the
// listener, and the page of the inbox to those who may see it.
func (e *Edge) adminHandler() http.Handler {
	page := html.Must(html.New("page").Funcs(html.FuncMap{"pretty": pretty, "clock": clock, "span": span, "mark": mark, "ms": ms}).Parse(pageText))
	private := http.NewServeMux()
	private.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "inbox", http.StatusFound) })
	private.HandleFunc("GET /inbox", func(w http.ResponseWriter, r *http.Request) { e.list(w, r, page) })
	private.HandleFunc("GET /inbox/{source}/{id...}", func(w http.ResponseWriter, r *http.Request) { e.detail(w, r, page) })
	private.HandleFunc("POST /inbox/{source}/{id...}", e.again)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(e.metrics.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", e.ready)
	// Other sites' pages must not press the buttons of this one.
	mux.Handle("/", e.guard(http.NewCrossOriginProtection().Handler(private)))
	return mux
}

// guard lets those in who know the password, or, if there is none, who are on this
// machine. A name other than this machine's would be that of a site which has had
// its name lead here (DNS rebinding).
func (e *Edge) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := e.doors.Load()
		if d == nil {
			answer(w, http.StatusServiceUnavailable, "stopping")
			return
		}
		if d.password != "" {
			_, given, _ := r.BasicAuth()
			a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(d.password))
			if subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
				w.Header().Set("WWW-Authenticate", `Basic realm="ringback edge", charset="UTF-8"`)
				answer(w, http.StatusUnauthorized, "the password of the page is needed (admin.password_env)")
				return
			}
		} else if !loopback(r) {
			answer(w, http.StatusForbidden, "the page is served on this machine only; set admin.password_env or admin.password_file to open it")
			return
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// loopback reports whether a request comes from this machine, by a name of it. One
// that a proxy passes on comes from elsewhere.
func loopback(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	local := func(hostport string) bool {
		host, _, err := net.SplitHostPort(hostport)
		if err != nil {
			host = strings.Trim(hostport, "[]")
		}
		ip := net.ParseIP(host)
		return host == "localhost" || ip != nil && ip.IsLoopback()
	}
	return local(r.RemoteAddr) && local(r.Host)
}

// story is an event with its actions, as the page shows it.
type story struct {
	Source, ID string
	inbox.Entry
	Known   bool // The entry of the event itself is here.
	Actions []chapter
}

// chapter is an action of an event.
type chapter struct {
	inbox.Entry
	Kind, Summary string // Empty if the configuration does not have it.
}

// State is where the event stands with all its actions.
func (s *story) Whole() inbox.State {
	states := make([]inbox.State, 0, len(s.Actions)+1)
	if s.Known {
		states = append(states, s.Entry.State)
	}
	for _, a := range s.Actions {
		states = append(states, a.State)
	}
	for _, worst := range []inbox.State{inbox.Dead, inbox.Pending} {
		if slices.Contains(states, worst) {
			return worst
		}
	}
	return inbox.Done
}

// Path is that of its page.
func (s *story) Path() string { return "/inbox/" + s.Source + "/" + url.PathEscape(s.ID) }

// stories groups entries by event, in the order in which they come.
func (e *Edge) stories(entries []inbox.Entry) []*story {
	var all []*story
	known := make(map[string]*story)
	s := e.doors.Load()
	for _, x := range entries {
		source, id := x.Source, x.ID
		act := strings.Contains(x.Source, "/")
		if act {
			source, id, _ = strings.Cut(x.ID, "/")
		}
		st := known[source+"/"+id]
		if st == nil {
			st = &story{Source: source, ID: id, Entry: x}
			known[source+"/"+id] = st
			all = append(all, st)
		}
		if !act {
			st.Entry, st.Known = x, true
			continue
		}
		c := chapter{Entry: x}
		if s != nil {
			if a := s.actions[x.Source]; a != nil {
				c.Kind, c.Summary = a.kind, a.summary
			}
		}
		st.Actions = append(st.Actions, c)
	}
	for _, st := range all {
		slices.SortStableFunc(st.Actions, func(a, b chapter) int { return strings.Compare(a.Source, b.Source) })
	}
	return all
}

// list shows the events, newest first.
func (e *Edge) list(w http.ResponseWriter, r *http.Request, page *html.Template) {
	q := r.URL.Query()
	state := inbox.State(q.Get("state"))
	entries, next, err := e.store.Entries(r.Context(), inbox.Filter{State: state}, q.Get("after"), pageEntries)
	var counts map[string]map[inbox.State]int64
	if err == nil {
		counts, err = e.store.Counts(r.Context())
	}
	if err != nil {
		e.log.Error("show the inbox", "error", err)
		answer(w, http.StatusInternalServerError, "the inbox can't be read")
		return
	}
	totals := make(map[inbox.State]int64)
	events := int64(0)
	for name, states := range counts {
		for s, n := range states {
			if !strings.Contains(name, "/") {
				events += n
			}
			totals[s] += n
		}
	}
	e.render(w, page, "list", map[string]any{"Stories": e.stories(entries), "State": state, "Next": next, "After": q.Get("after"),
		"Events": events, "Pending": totals[inbox.Pending], "Dead": totals[inbox.Dead], "Now": e.now()})
}

// find reads an event with its actions.
func (e *Edge) find(ctx context.Context, source, id string) (*story, error) {
	own, err := e.store.Entry(ctx, source, id)
	st := &story{Source: source, ID: id, Entry: own, Known: err == nil}
	if err != nil && !errors.Is(err, inbox.ErrNotFound) {
		return nil, err
	}
	page, _, err := e.store.Entries(ctx, inbox.Filter{IDs: []string{source + "/" + id}}, "", pageEntries)
	if err != nil {
		return nil, err
	}
	for _, x := range page {
		if !strings.Contains(x.Source, "/") {
			continue // A message of another source that has this id.
		}
		full, err := e.store.Entry(ctx, x.Source, x.ID)
		if errors.Is(err, inbox.ErrNotFound) {
			continue // Purged just now.
		}
		if err != nil {
			return nil, err
		}
		if !st.Known && st.Body == nil {
			st.Entry = full
		}
		c := chapter{Entry: full}
		if s := e.doors.Load(); s != nil && s.actions[x.Source] != nil {
			c.Kind, c.Summary = s.actions[x.Source].kind, s.actions[x.Source].summary
		}
		st.Actions = append(st.Actions, c)
	}
	if !st.Known && len(st.Actions) == 0 {
		return nil, inbox.ErrNotFound
	}
	slices.SortStableFunc(st.Actions, func(a, b chapter) int { return strings.Compare(a.Source, b.Source) })
	return st, nil
}

// detail shows one event.
func (e *Edge) detail(w http.ResponseWriter, r *http.Request, page *html.Template) {
	st, err := e.find(r.Context(), r.PathValue("source"), r.PathValue("id"))
	if errors.Is(err, inbox.ErrNotFound) {
		answer(w, http.StatusNotFound, "there is no such event in the inbox")
		return
	}
	if err != nil {
		e.log.Error("show an event", "error", err)
		answer(w, http.StatusInternalServerError, "the inbox can't be read")
		return
	}
	e.render(w, page, "detail", map[string]any{"Story": st, "Now": e.now()})
}

// again has dead actions tried again, and those that wait tried now.
func (e *Edge) again(w http.ResponseWriter, r *http.Request) {
	source, id := r.PathValue("source"), r.PathValue("id")
	ref := source + "/" + id
	// One action, or everything of the event.
	filters := []inbox.Filter{{Source: r.FormValue("action"), IDs: []string{ref}}}
	if filters[0].Source == "" {
		filters = append(filters, inbox.Filter{Source: source, IDs: []string{id}})
	}
	var n int64
	for _, f := range filters {
		done, err := e.store.Retry(r.Context(), f, e.now())
		if err != nil {
			e.log.Error("retry from the page", "error", err)
			answer(w, http.StatusInternalServerError, "the inbox can't be changed")
			return
		}
		n += done
	}
	e.log.Info("retry from the page", "event", ref, "action", filters[0].Source, "entries", n)
	e.runner.look()
	http.Redirect(w, r, (&story{Source: source, ID: id}).Path(), http.StatusSeeOther)
}

func (e *Edge) render(w http.ResponseWriter, page *html.Template, name string, data any) {
	var b bytes.Buffer
	if err := page.ExecuteTemplate(&b, name, data); err != nil {
		e.log.Error("show the inbox", "error", err)
		answer(w, http.StatusInternalServerError, "the page can't be made")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // The reader has gone if this fails.
}

// pretty prints JSON for reading.
func pretty(raw []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, raw, "", "  ") != nil {
		return string(raw)
	}
	return b.String()
}

// clock prints a time, with its day if that is not today.
func clock(t, now time.Time) string {
	t, now = t.UTC(), now.UTC()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// span prints how far two times are apart, roughly.
func span(from, to time.Time) string {
	d := to.Sub(from).Abs()
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// ms prints how long something took.
func ms(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return d.Round(time.Second).String()
}

// mark is the class of a state.
func mark(s inbox.State) string {
	switch s {
	case inbox.Done:
		return "good"
	case inbox.Dead:
		return "bad"
	}
	return "wait"
}
