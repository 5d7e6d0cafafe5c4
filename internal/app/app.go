// Package app puts a server together from its configuration, in one straight
// line, and runs it. It is the only package that names adapters.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"ringback.dev"
	"ringback.dev/internal/api"
	"ringback.dev/internal/api/manage"
	"ringback.dev/internal/attach"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/blob/dir"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/deliver"
	"ringback.dev/internal/egress"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
	"ringback.dev/internal/web"
	"ringback.dev/internal/work"
)

// node names this process in leases. There is one process per data folder, so
// what an earlier one held under this name is free when the next one starts.
const node = "local"

// App is a server that is ready to run.
type App struct {
	// FirstKey is the API key of the project that New made because there was
	// none. It is shown once, and so is OperatorKey, by which projects are managed.
	FirstKey, OperatorKey string

	config     Config
	log        *slog.Logger
	store      store.Store
	blobs      blob.Store
	project    ringback.ID
	secrets    *keyring.Keyring
	runner     *work.Runner
	dispatcher *deliver.Dispatcher
	callbacks  *http.Client
	hints      bus.Bus
	signing    *signing
	used       keysUsed
	clock      *clock
	jump       chan struct{} // Wakes upkeep when the clock was set forward. Holds one element.
	closing    chan struct{} // Closed when Run begins to stop.
	listener   net.Listener
	server     *http.Server
}

// New opens the data, binds the address and wires everything; nothing runs yet.
// Close frees it again if Run is not called.
func New(ctx context.Context, c Config, log *slog.Logger) (_ *App, err error) {
	if c.Dev {
		c.AllowHTTPCallbacks, c.AllowPrivateCallbacks = true, true
	}
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	a := &App{config: c, log: log, clock: &clock{}, jump: make(chan struct{}, 1), closing: make(chan struct{})}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	// Not straight into a.store: a nil *sqlite.Store in it would pass for one.
	opened, err := sqlite.Open(ctx, c.Data)
	if err != nil {
		return nil, err
	}
	a.store = opened
	if c.Dev {
		if a.clock, err = openClock(c.Data); err != nil {
			return nil, err
		}
	}
	if a.blobs, err = dir.Open(filepath.Join(c.Data, "blobs")); err != nil {
		return nil, err
	}
	if a.secrets, err = c.keyring(ctx); err != nil {
		return nil, err
	}
	if err := a.checkMasterKey(ctx); err != nil {
		return nil, err
	}
	models, err := c.router(log)
	if err != nil {
		return nil, err
	}
	files := attach.New(a.store, a.blobs, c.MaxRequestBytes)
	models.Attach = func(ctx context.Context, project ringback.ID, body *genai.GenerateContentRequest) (*genai.GenerateContentRequest, func(), error) {
		return files.To(ctx, project, a.clock.now(), body)
	}
	models.Log = log
	if a.listener, err = listen(c.Listen); err != nil {
		return nil, err
	}
	a.signing = &signing{store: a.store, secret: a.secrets, issuer: strings.TrimRight(c.PublicURL, "/"), maxAge: c.SigningKeyAge, now: a.clock.now, opened: make(map[string]openKey)}
	if a.signing.issuer == "" {
		a.signing.issuer = a.URL()
	}
	outside, err := c.outside()
	if err != nil {
		return nil, err
	}
	a.callbacks = egress.Client(outside)
	a.dispatcher = deliver.New(deliver.Config{
		Store: a.store, Secrets: a.secrets, Tokens: a.signing, Transport: a.callbacks.Transport, Hints: &a.hints, Node: node, Backoff: c.backoff(),
		MaxInFlight: c.MaxInFlight, PerTarget: c.PerTargetInFlight, Timeout: c.DeliveryTimeout, CatchUpRate: c.CatchUpRate,
		DisableAfter: c.DisableAfter, RequireHTTPS: !c.AllowHTTPCallbacks, Now: a.clock.now, Stamp: time.Now, Log: log,
	})
	emitter := emit.New(a.store, a.dispatcher, &a.hints, node, a.dispatcher.Lease, a.signing.issuer)
	hooks := ""
	if c.PublicURL != "" {
		hooks = strings.TrimRight(c.PublicURL, "/") + api.UpstreamPath
	}
	a.runner = work.New(work.Config{Store: a.store, Emit: emitter, Backend: models, Node: node, MaxRunning: c.MaxRunning,
		Blobs: a.blobs, MaxBatches: c.MaxBatches, MaxRow: int(c.MaxRequestBytes), ResultTTL: c.ResultTTL, HookURL: hooks,
		MaxVideos: c.MaxVideos, VideoTTL: c.VideoTTL, MaxVideoBytes: c.MaxFileBytes, StallAfter: c.StallAfter, Hints: &a.hints, Now: a.clock.now, Log: log})
	// Only now that nothing is left to go wrong: the key of the first project is
	// shown once, so a start that fails must not make it.
	if err := a.firstProject(ctx, a.clock.now()); err != nil {
		return nil, err
	}
	apiConfig := api.Config{
		Store: a.store, Runner: a.runner, Pinger: emitter, Backend: models, Secrets: a.secrets,
		CheckURI: func(uri string) error { return egress.CheckURI(uri, outside) },
		Blobs:    a.blobs, PublicURL: strings.TrimRight(c.PublicURL, "/"), MaxFileBytes: c.MaxFileBytes, FileQuota: c.FileQuotaBytes, FileTTL: c.FileTTL, BatchTTL: c.BatchTTL, AnswerWithin: c.AnswerWithin,
		MaxBody: c.MaxRequestBytes, Used: a.used.note, JWKS: a.signing.jwks, Now: a.clock.now, Log: log,
		Manage: manage.Config{Bus: &a.hints, RotateSigningKeys: a.signing.rotate, RevokeSigningKey: a.signing.revoke, Wake: a.dispatcher.Wake,
			Backoff: c.backoff(), Closing: a.closing},
	}
	if c.OperatorKey != "" {
		apiConfig.OperatorKey = keyring.HashKey(c.OperatorKey)
	}
	if c.Dev {
		apiConfig.AnyKey = a.project
		apiConfig.Manage.Advance, apiConfig.Manage.Ahead = a.Advance, a.Ahead
		apiConfig.Manage.Trigger = func(ctx context.Context, project ringback.ID, t ringback.EventType, body []byte, now time.Time) (ringback.ID, error) {
			if body == nil {
				var err error
				if body, err = emit.Sample(t, now, a.signing.issuer); err != nil {
					return "", err
				}
			}
			return emitter.Trigger(ctx, project, t, body, now)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", a.ready)
	mux.Handle("/", api.New(apiConfig))
	var inbox *web.Inbox
	if c.Dev {
		if err := a.devInbox(ctx, a.clock.now()); err != nil {
			return nil, err
		}
		inbox = web.NewInbox(a.store, a.secrets, a.project, inboxID, a.clock.now)
		mux.Handle("/inbox", inbox)
	}
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	if inbox != nil {
		a.server.RegisterOnShutdown(inbox.Close)
	}
	return a, nil
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use by another program; choose another address with --listen", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (--listen): %w", address, err)
	}
	return l, nil
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // The caller has gone if this fails.
}

// ready tells whether requests can be served: the store can be read.
func (a *App) ready(w http.ResponseWriter, r *http.Request) {
	if err := a.store.Ping(r.Context()); err != nil {
		answer(w, http.StatusServiceUnavailable, "the store can't be read")
		return
	}
	answer(w, http.StatusOK, "ok")
}

// keyring opens the master key, from where the configuration says.
func (c *Config) keyring(ctx context.Context) (*keyring.Keyring, error) {
	switch {
	case c.MasterKey != "":
		return keyring.Parse(c.MasterKey)
	case c.MasterKeyCommand != "":
		return keyring.Command(ctx, c.MasterKeyCommand)
	}
	return keyring.Open(c.Data)
}

// RotateMaster seals everything under a new master key and returns how many
// values that were: one that it makes, if the key is in the data folder, or
// NextMasterKey. The server must not run. It can be broken off and begun again.
func RotateMaster(ctx context.Context, c Config) (int, error) {
	st, err := sqlite.Open(ctx, c.Data)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	own := c.MasterKey == "" && c.MasterKeyCommand == ""
	var k *keyring.Keyring
	if own {
		k, err = keyring.BeginRotation(c.Data)
	} else {
		var old, next *keyring.Keyring
		if c.NextMasterKey == "" {
			return 0, errors.New("the master key is not in the data folder: give the new one, the base64 of 32 bytes, in RINGBACK_MASTER_KEY_NEXT")
		}
		old, err = c.keyring(ctx)
		if err == nil {
			next, err = keyring.Parse(c.NextMasterKey)
		}
		if err == nil {
			k = next.WithPrevious(old)
		}
	}
	if err != nil {
		return 0, err
	}
	n, err := st.Reseal(ctx, k.Reseal, byServer(time.Now()))
	if err == nil && own {
		err = keyring.FinishRotation(c.Data)
	}
	return n, err
}

// checkMasterKey makes sure at the start, not at the first callback, that the
// stored secrets can be opened.
func (a *App) checkMasterKey(ctx context.Context) error {
	projects, err := a.store.Projects(ctx)
	if err != nil {
		return err
	}
	for _, p := range projects {
		endpoints, err := a.store.ProjectEndpoints(ctx, p.ID)
		if err != nil {
			return err
		}
		for _, e := range endpoints {
			for _, s := range e.Secrets {
				if _, err := a.secrets.Unseal(s.Sealed, "endpoint/"+string(e.ID)); errors.Is(err, keyring.ErrWrongKey) {
					return fmt.Errorf("%w: restore master.key, or RINGBACK_MASTER_KEY, from your backup", err)
				}
				break
			}
		}
	}
	keys, err := a.store.SigningKeys(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Sealed == nil {
			continue
		}
		if _, err := a.secrets.Unseal(k.Sealed, store.SealSigning+k.ID); errors.Is(err, keyring.ErrWrongKey) {
			return fmt.Errorf("%w: restore master.key, or RINGBACK_MASTER_KEY, from your backup", err)
		}
	}
	return nil
}

// firstProject makes a project with a key if there is none yet.
func (a *App) firstProject(ctx context.Context, now time.Time) error {
	projects, err := a.store.Projects(ctx)
	if err != nil {
		return err
	}
	if len(projects) > 0 {
		a.project = projects[0].ID
		return nil
	}
	key := keyring.NewAPIKey()
	p := ringback.Project{ID: ringback.NewID("proj", now), Name: "default", Created: now}
	err = a.store.CreateProject(ctx, p, &ringback.APIKey{ID: ringback.NewID("key", now), Project: p.ID, Name: "first",
		Prefix: keyring.ShownPrefix(key), Hash: keyring.HashKey(key), Created: now}, byServer(now))
	if err != nil {
		return err
	}
	a.project, a.FirstKey = p.ID, key
	operator := "rbo_" + strings.TrimPrefix(keyring.NewAPIKey(), "rbk_")
	a.OperatorKey = operator
	return a.store.CreateKey(ctx, ringback.APIKey{ID: ringback.NewID("key", now), Name: "first operator",
		Prefix: keyring.ShownPrefix(operator), Hash: keyring.HashKey(operator), Created: now}, byServer(now))
}

// Addr is the address that the server is bound to, HOST:PORT.
func (a *App) Addr() string { return a.listener.Addr().String() }

// URL is the base address to give to clients on this machine.
func (a *App) URL() string {
	host, port, err := net.SplitHostPort(a.Addr())
	if err != nil {
		return "http://" + a.Addr()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// Store gives commands in the same process access to the facts.
func (a *App) Store() store.Store { return a.store }

// Project is the only project of a development server.
func (a *App) Project() ringback.ID { return a.project }

// Run serves until ctx ends, then stops: no new work, a grace period for what is
// under way, and what remains is given back. It closes the App.
func (a *App) Run(ctx context.Context) error {
	defer a.Close()
	// Not cut off by a stop that comes at once: that is no failure.
	if err := a.store.Reclaim(context.WithoutCancel(ctx), node, a.clock.now()); err != nil {
		return err
	}
	loops, ctx := errgroup.WithContext(ctx)
	loops.Go(func() error { return a.runner.Run(ctx) })
	loops.Go(func() error { return a.dispatcher.Run(ctx) })
	loops.Go(func() error { return a.upkeep(ctx) })
	loops.Go(func() error { return a.replays(ctx) })
	loops.Go(func() error { return serve(a.server, a.listener) })
	loops.Go(func() error {
		<-ctx.Done()
		close(a.closing)
		grace, cancel := context.WithTimeout(context.Background(), a.config.Grace)
		defer cancel()
		if err := a.server.Shutdown(grace); err != nil {
			_ = a.server.Close() // What is still open has had its time.
		}
		a.runner.Stop(grace)
		a.dispatcher.Stop(grace)
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

// Close frees everything. It may be called more than once.
func (a *App) Close() {
	if a.listener != nil {
		_ = a.listener.Close() // Closed already if the server ran.
	}
	if a.callbacks != nil {
		a.callbacks.CloseIdleConnections()
	}
	if a.store != nil {
		if err := a.store.Close(); err != nil {
			a.log.Error("close the store", "error", err)
		}
		a.store = nil
	}
}

func byServer(now time.Time) store.By { return store.By{Actor: store.Server, At: now} }

// inboxID is the id of the webhook that dev registers for its own receiver.
const inboxID ringback.ID = "dev-inbox"

// devInbox registers the built-in receiver for all events, and follows the port
// if it has changed since the last start.
func (a *App) devInbox(ctx context.Context, now time.Time) error {
	uri := a.URL() + "/inbox"
	have, err := a.store.Endpoint(ctx, a.project, inboxID)
	switch {
	case err == nil && have.URI == uri:
		return nil
	case err == nil:
		_, err = a.store.UpdateEndpoint(ctx, a.project, inboxID, store.EndpointPatch{URI: &uri}, byServer(now))
		return err
	case !errors.Is(err, ringback.NotFound):
		return err
	}
	secret := web.NewInboxSecret(a.secrets, inboxID, now)
	return a.store.CreateEndpoint(ctx, &ringback.Endpoint{ID: inboxID, Project: a.project, Name: "dev inbox (built in)", URI: uri,
		Events: ringback.EventTypes(), State: ringback.Enabled, Secrets: []ringback.Secret{secret}, Created: now, Updated: now}, byServer(now))
}

// TuneMemory lets the heap grow to five times what is live before it is
// collected, unless GOGC says otherwise: the live heap is a few megabytes, and
// collecting it all the time costs a tenth of the deliveries.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// Logger makes the logger that a configuration asks for.
func (c *Config) Logger(w interface{ Write([]byte) (int, error) }) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(strings.ToUpper(c.LogLevel))); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
