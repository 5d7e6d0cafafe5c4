// Package edge is the receiving half as a process: it verifies webhooks, stores
// them durably, answers 2xx, and then does about each what its configuration
// says. Nothing else is on the path of the request.
//
// A message that is accepted is an entry of the inbox (package inbox). A
// receiver per source turns it into one more entry for each action that its
// routes ask for, and the runner (runner.go) does those: apart from each other,
// with their own retries and dead letters. What an action does is in one file per
// kind: http.go, exec.go, sql.go, job.go, notify.go and mail.go, fetch.go.
//
// The configuration (config.go) is read, checked and made ready as a whole
// (setup.go), and replaced as a whole on Reload. Secrets are in it by reference
// only, and in no error and no log.
package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"ringback.dev/inbox"
	"ringback.dev/internal/crash"
)

// Store keeps the inbox, and lets people look at it.
type Store interface {
	inbox.Store
	inbox.Desk
}

// Edge is a receiver that is ready to run.
type Edge struct {
	path    string
	store   Store
	log     *slog.Logger
	metrics *metrics
	runner  *runner

	listener, admin net.Listener // admin is nil if there is none.
	server, desk    *http.Server
	now             func() time.Time

	// Reload replaces these together.
	reloading sync.Mutex
	running   context.Context // That of Run, nil before it.
	receivers sync.WaitGroup  // Those that run, also of setups that were replaced.
	doors     atomic.Pointer[doors]
}

// doors are the sources that are open, by path.
type doors struct {
	*setup
	receivers map[string]*inbox.Receiver
	stop      context.CancelFunc
}

// Load reads a configuration file and makes it ready. The error is a Problems if
// it is not good.
func load(path string) (*setup, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return prepare(data)
}

// prepare makes the text of a file ready.
func prepare(data []byte) (*setup, error) {
	f := parse(data)
	if len(f.problems) > 0 {
		return nil, f.problems
	}
	s := f.ready()
	if len(f.problems) > 0 {
		s.close()
		return nil, f.problems
	}
	return s, nil
}

// Settings are what must be known of a file before an Edge can be made of it.
type Settings struct {
	Data string
	Log  slog.Handler
}

// Read reads those of a file, which need not be good otherwise.
func Read(path string, log io.Writer) (Settings, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("read the configuration: %w", err)
	}
	f := parse(data)
	if len(f.problems) > 0 {
		return Settings{}, f.problems
	}
	f.withDefaults()
	return Settings{Data: f.Data, Log: f.Log.handler(log)}, nil
}

// New makes an edge of a configuration file and binds its addresses; nothing runs
// yet. The store is the caller's.
func New(path string, store Store, log *slog.Logger) (_ *Edge, err error) {
	s, err := load(path)
	if err != nil {
		return nil, err
	}
	e := &Edge{path: path, store: store, log: log, metrics: newMetrics(store), now: time.Now}
	defer func() {
		if err != nil {
			s.close()
			e.Close()
		}
	}()
	if e.listener, err = listen("listen", s.config.Listen); err != nil {
		return nil, err
	}
	e.server = newServer(http.HandlerFunc(e.serve), log)
	if s.cert != nil {
		e.listener = tls.NewListener(e.listener, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: e.certificate})
		e.server.TLSConfig = &tls.Config{NextProtos: []string{"h2", "http/1.1"}} // Serve then knows HTTP/2.
	}
	if s.config.Admin.Listen != "off" {
		if e.admin, err = listen("admin.listen", s.config.Admin.Listen); err != nil {
			return nil, err
		}
		e.desk = newServer(e.adminHandler(), log)
	}
	e.runner = newRunner(store, log, e.metrics)
	e.runner.use(s)
	e.open(s)
	return e, nil
}

// newServer bounds what a connection costs. A body that a source reads has less time
// than the whole request (inbox.Receiver.BodyTimeout).
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

// certificate is that of the setup in use.
func (e *Edge) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if d := e.doors.Load(); d != nil {
		return d.cert, nil
	}
	return nil, errStopping
}

func listen(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is in use by another program; choose another address", key, address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return l, nil
}

// URL is the base address to send to from this machine; Admin that of the page and
// the metrics, empty if there is none.
func (e *Edge) URL() string {
	scheme := "http"
	if e.doors.Load().cert != nil {
		scheme = "https"
	}
	return scheme + "://" + local(e.listener.Addr())
}

// Admin is the base address of the page and the metrics, empty if there is none.
func (e *Edge) Admin() string {
	if e.admin == nil {
		return ""
	}
	return "http://" + local(e.admin.Addr())
}

func local(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// open lets messages in by a setup, and closes the doors of the one before.
func (e *Edge) open(s *setup) {
	d := &doors{setup: s, receivers: make(map[string]*inbox.Receiver)}
	for path, src := range s.sources {
		r := inbox.Handler(src.verifier, e.store, e.runner.plan)
		r.Source, r.MaxBody, r.Workers, r.Lease, r.Log = src.name, src.maxBody, planners, leaseTime, e.log
		r.KeepDone, r.Remember, r.Grace, r.AcceptTimeout = s.config.Keep, s.config.remember(), s.config.Grace, storeTimeout
		r.OnRequest = func(status int, first bool, took time.Duration, err error) {
			e.metrics.request(src.name, status, first, took)
		}
		d.receivers[path] = r
	}
	if e.running != nil {
		e.run(d)
	}
	if old := e.doors.Swap(d); old != nil && old.stop != nil {
		old.stop() // What it holds is planned, or given back to its successor.
	}
}

// planners is how many events of a source are planned at once.
const planners = 64

// run runs the receivers of doors.
func (e *Edge) run(d *doors) {
	ctx, stop := context.WithCancel(e.running)
	d.stop = stop
	for _, r := range d.receivers {
		e.receivers.Go(func() {
			if err := r.Run(ctx); err != nil {
				e.log.Error("receiver", "source", r.Source, "error", err)
			}
		})
	}
}

// Run serves and acts until ctx ends, then stops: no new work, a grace period for
// what is under way, and what remains is given back. It closes the Edge, but not
// the store.
func (e *Edge) Run(ctx context.Context) error {
	defer e.Close()
	e.reloading.Lock()
	loops, ctx := errgroup.WithContext(ctx)
	e.running = ctx
	e.run(e.doors.Load())
	e.reloading.Unlock()
	e.orphans(ctx)
	loops.Go(func() error { return e.runner.Run(ctx) })
	loops.Go(func() error { e.runner.keep(); return nil }) // Ends with Stop.
	loops.Go(func() error { return e.upkeep(ctx) })
	loops.Go(func() error { return e.reconcile(ctx) })
	loops.Go(func() error { return serve(e.server, e.listener) })
	if e.desk != nil {
		loops.Go(func() error { return serve(e.desk, e.admin) })
	}
	loops.Go(func() error {
		<-ctx.Done()
		e.reloading.Lock() // No other setup comes any more.
		grace, cancel := context.WithTimeout(context.Background(), e.doors.Load().config.Grace)
		e.reloading.Unlock()
		defer cancel()
		var servers sync.WaitGroup
		for _, s := range []*http.Server{e.server, e.desk} {
			if s == nil {
				continue
			}
			servers.Go(func() {
				if err := s.Shutdown(grace); err != nil {
					_ = s.Close() // What is still open has had its time.
				}
			})
		}
		e.receivers.Wait()
		e.runner.Stop(grace)
		servers.Wait()
		return nil
	})
	return loops.Wait()
}

func serve(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close frees everything but the store. It may be called more than once.
func (e *Edge) Close() {
	for _, l := range []net.Listener{e.listener, e.admin} {
		if l != nil {
			_ = l.Close() // Closed already if it was served.
		}
	}
	if d := e.doors.Swap(nil); d != nil {
		d.close()
	}
}

// Reload reads the file again and goes on by it. If it is not good, the error
// says why and nothing has changed.
func (e *Edge) Reload() error {
	e.reloading.Lock()
	defer e.reloading.Unlock()
	old := e.doors.Load()
	if old == nil || e.running != nil && e.running.Err() != nil {
		return errors.New("the edge is stopping")
	}
	s, err := load(e.path)
	if err == nil {
		if err = fixedParts(&old.config, &s.config); err != nil {
			s.close()
		}
	}
	e.metrics.reload(err, e.now())
	if err != nil {
		return err
	}
	e.runner.use(s)
	e.open(s)
	if e.running != nil {
		e.orphans(e.running)
	}
	return nil
}

// fixedParts refuses changes of what is decided at the start.
func fixedParts(old, now *Config) error {
	for _, x := range []struct {
		key     string
		changed bool
	}{{"listen", old.Listen != now.Listen}, {"data", old.Data != now.Data}, {"admin.listen", old.Admin.Listen != now.Admin.Listen}, {"log", old.Log != now.Log},
		{"tls", (old.TLS.Cert == "") != (now.TLS.Cert == "")}} {
		if x.changed {
			return fmt.Errorf("%s: it can't be changed while the edge runs; start it again", x.key)
		}
	}
	return nil
}

// orphans tells of actions that wait in the inbox and that the configuration does
// not have.
func (e *Edge) orphans(ctx context.Context) {
	counts, err := e.store.Counts(ctx)
	if err != nil {
		if ctx.Err() == nil {
			e.log.Error("count the inbox", "error", err)
		}
		return
	}
	s := e.doors.Load().setup
	for name, states := range counts {
		n := states[inbox.Pending]
		switch {
		case n == 0:
		case strings.Contains(name, "/") && s.actions[name] == nil:
			e.log.Warn("events wait for an action that the configuration does not have; put it back, or purge them", "action", name, "waiting", n)
		case !strings.Contains(name, "/") && !s.has(name):
			e.log.Warn("events wait of a source that the configuration does not have; put it back, or purge them", "source", name, "waiting", n)
		}
	}
}

func (s *setup) has(source string) bool {
	_, ok := s.config.Sources[source]
	return ok
}

// upkeepEvery is how often the work is done that nobody waits for.
const upkeepEvery = 10 * time.Minute

// upkeep forgets what is old. What fails is logged and done the next time.
func (e *Edge) upkeep(ctx context.Context) error {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		if err := e.sweep(ctx, e.now()); err != nil && ctx.Err() == nil {
			e.log.Error("forget what is old", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (e *Edge) sweep(ctx context.Context, now time.Time) error {
	d := e.doors.Load()
	if d == nil {
		return nil
	}
	n, err := e.store.Purge(ctx, inbox.Filter{State: inbox.Dead, EndedBefore: now.Add(-d.config.KeepDead)}, now)
	if n > 0 {
		e.log.Warn("old dead letters removed", "count", n, "older_than", d.config.KeepDead)
	}
	counts, err2 := e.store.Counts(ctx)
	errs := []error{err, err2}
	names := make(map[string]bool)
	for name := range counts {
		names[name] = true
	}
	for name := range d.config.Sources {
		names[name] = true
	}
	for name := range d.actions {
		names[name] = true
	}
	ids := now.Add(-d.config.remember())
	for name := range names {
		errs = append(errs, e.store.Sweep(ctx, name, now.Add(-d.config.Keep), ids))
	}
	for _, x := range d.databases { // What is dead may be retried as long as it is there.
		errs = append(errs, x.sweep(ctx, ids.Add(-d.config.KeepDead)))
	}
	return errors.Join(errs...)
}

// remember is how long ids are known.
func (c *Config) remember() time.Duration { return max(inbox.Remember, c.Keep) }

// serve takes the requests of senders.
func (e *Edge) serve(w http.ResponseWriter, r *http.Request) {
	d := e.doors.Load()
	if d == nil {
		answer(w, http.StatusServiceUnavailable, "stopping")
		return
	}
	receiver := d.receivers[r.URL.Path]
	switch {
	case receiver != nil:
	case r.URL.Path == "/healthz":
		answer(w, http.StatusOK, "ok")
		return
	case r.URL.Path == "/readyz":
		e.ready(w, r)
		return
	default:
		e.metrics.unknown()
		answer(w, http.StatusNotFound, "no source has this path")
		return
	}
	if src := d.sources[r.URL.Path]; !allowed(src.allow, d.trusted, r) {
		e.metrics.request(src.name, http.StatusForbidden, false, 0)
		e.log.Warn("message refused", "source", src.name, "status", http.StatusForbidden, "from", sender(r, d.trusted), "error", "the address is not in allow_from")
		answer(w, http.StatusForbidden, "this address may not send here")
		return
	}
	receiver.ServeHTTP(w, r)
	crash.At(crash.EdgeAccepted) // The answer leaves when this returns.
}

// ready tells whether messages can be taken: the store can be read.
func (e *Edge) ready(w http.ResponseWriter, r *http.Request) {
	if _, err := e.store.Claim(r.Context(), "", e.now(), e.now(), 0); err != nil {
		answer(w, http.StatusServiceUnavailable, "the inbox can't be read")
		return
	}
	answer(w, http.StatusOK, "ok")
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // The caller has gone if this fails.
}

// sender is the address that a request comes from: that of the connection, or,
// through proxies that are trusted, what the first that is not trusted said.
func sender(r *http.Request, trusted []netip.Prefix) netip.Addr {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := from.Addr().Unmap().WithZone("") // Prefixes have none.
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && within(trusted, at); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = next.Unmap()
	}
	return at
}

// allowed reports whether a request may come from where it comes from.
func allowed(allow, trusted []netip.Prefix, r *http.Request) bool {
	return len(allow) == 0 || within(allow, sender(r, trusted))
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
