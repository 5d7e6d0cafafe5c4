package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ringback.dev"
	"ringback.dev/internal/app"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/deliver"
	"ringback.dev/internal/egress"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
	"ringback.dev/webhook"
)

// hangs begins the paths at which the sink never answers.
const hangs = "/hangs"

// sink answers every POST with 204, except below hangs, and prints its address.
func sink(context.Context, options) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasPrefix(r.URL.Path, hangs) {
			<-r.Context().Done() // Never answers.
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	go func() { _ = srv.Serve(l) }() // Ends when closed.
	fmt.Println("http://" + l.Addr().String() + "/hook")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return srv.Close()
}

// body is an event of the size that is usual.
const body = `{"type":"interaction.completed","version":"v1","timestamp":"2026-10-01T12:05:00.123456Z","data":{"id":"v1_06h0j6zbf6jg3ynx8q3nfj0ygw"}}`

// secret is the one given, or a new one.
func (o *options) secret() (webhook.Secret, error) {
	if o.Secret == "" {
		return webhook.NewSecret(), nil
	}
	return webhook.ParseSecret(o.Secret)
}

// bare is the loop that ringback is compared with: sign and POST, as fast as
// net/http goes, with nothing stored.
func bare(ctx context.Context, o options) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.InFlight}}
	secret, err := o.secret()
	if err != nil {
		return err
	}
	var count atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	errs := make(chan error, o.InFlight)
	for range o.InFlight {
		wg.Go(func() {
			for time.Since(begin) < o.Time {
				if err := send(ctx, client, o.Sink, secret); err != nil {
					errs <- err
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	return report(int(count.Load()), time.Since(begin))
}

// rig is the part of a server that delivers: store, emitter and dispatcher.
type rig struct {
	dir string
	st  *sqlite.Store
	d   *deliver.Dispatcher
	e   *emit.Emitter
	// unrecorded holds an element for each event between its birth and the record
	// of its attempt.
	unrecorded chan struct{}
	endpoint   *ringback.Endpoint
	keys       *keyring.Keyring
}

const project ringback.ID = "proj_bench"

func newRig(ctx context.Context, o options) (*rig, error) {
	app.TuneMemory()
	st, err := sqlite.Open(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	keys, err := keyring.Open(o.Dir)
	if err != nil {
		return nil, err
	}
	r := &rig{dir: o.Dir, st: st, keys: keys}
	const id ringback.ID = "bench"
	if r.endpoint, err = st.Endpoint(ctx, project, id); err != nil {
		p := ringback.Project{ID: project, DynamicSignature: ringback.JWT, Created: time.Now()}
		if err := st.CreateProject(ctx, p, nil, store.By{Actor: store.Server, At: p.Created}); err != nil {
			return nil, err
		}
		if r.endpoint, err = r.addEndpoint(ctx, id, o.Sink, ringback.Scheme(o.Scheme)); err != nil {
			return nil, err
		}
	} else if o.Sink != "" && r.endpoint.URI != o.Sink {
		if r.endpoint, err = st.UpdateEndpoint(ctx, project, id, store.EndpointPatch{URI: &o.Sink}, store.By{Actor: store.Server, At: time.Now()}); err != nil {
			return nil, err
		}
	}
	// Some events are being stored or recorded while InFlight are being sent.
	r.unrecorded = make(chan struct{}, 8*o.InFlight*r.addresses(o))
	return r, r.wire(o, recording{st, r.unrecorded})
}

// wire makes the emitter and the dispatcher on a store, which may be watched.
func (r *rig) wire(o options, st store.Store) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	r.d = deliver.New(deliver.Config{Store: st, Secrets: r.keys, Tokens: tokens{&webhook.TokenKey{ID: "bench", Key: key}}, Node: "bench",
		Transport: egress.Client(egress.Options{AllowHTTP: true, AllowPrivate: true, MaxIdlePerHost: o.InFlight}).Transport,
		Backoff:   ringback.DefaultBackoff(), PerTarget: o.InFlight, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	r.e = emit.New(st, r.d, &bus.Bus{}, "bench", r.d.Lease, "")
	return nil
}

// addEndpoint registers a webhook that is signed with one scheme.
func (r *rig) addEndpoint(ctx context.Context, id ringback.ID, uri string, scheme ringback.Scheme) (*ringback.Endpoint, error) {
	now := time.Now()
	secret := webhook.NewSecret().Reveal()
	if scheme == ringback.V1a {
		secret = webhook.NewSigningKey().Reveal()
	}
	e := &ringback.Endpoint{ID: id, Project: project, URI: uri, Events: ringback.EventTypes(), State: ringback.Enabled, Created: now, Updated: now,
		Secrets: []ringback.Secret{{Scheme: scheme, Sealed: r.keys.Seal(secret, store.SealEndpoint+string(id)), Created: now}}}
	if scheme != "" {
		e.Settings.Schemes = []ringback.Scheme{scheme}
	}
	return e, r.st.CreateEndpoint(ctx, e, store.By{Actor: store.Server, At: now})
}

// tokens signs what goes to per-request addresses.
type tokens struct{ key *webhook.TokenKey }

func (t tokens) Sign(_ ringback.Scheme, id string, at time.Time, body []byte, audience []string) (string, error) {
	return t.key.Sign(id, at, body, "https://ringback.example", audience)
}

// recording tells when an attempt has been recorded.
type recording struct {
	store.Store
	unrecorded <-chan struct{}
}

func (r recording) RecordAttempt(ctx context.Context, lease ringback.Lease, o *store.Outcome) error {
	err := r.Store.RecordAttempt(ctx, lease, o)
	<-r.unrecorded
	return err
}

// deliveries measures events stored, sent, acknowledged and recorded. A
// bounded number of events is between birth and record, so that neither side runs
// away.
func deliveries(ctx context.Context, o options) error {
	r, err := newRig(ctx, o)
	if err != nil {
		return err
	}
	defer r.st.Close()
	stopProfile, err := o.profile()
	if err != nil {
		return err
	}
	defer stopProfile()
	before, err := r.delivered(ctx)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.d.Run(running) }()
	var wg sync.WaitGroup
	errs := make(chan error, 1)
	begin := time.Now()
	for range cap(r.unrecorded) / r.addresses(o) {
		wg.Go(func() {
			for time.Since(begin) < o.Time {
				for range r.addresses(o) {
					r.unrecorded <- struct{}{}
				}
				if err := r.happen(ctx, o); err != nil {
					select {
					case errs <- err:
					default:
					}
					return
				}
			}
		})
	}
	wg.Wait()
	stop()
	if err := <-done; err != nil {
		return err
	}
	r.d.Stop(ctx)
	took := time.Since(begin)
	select {
	case err := <-errs:
		return err
	default:
	}
	after, err := r.delivered(ctx)
	if err != nil {
		return err
	}
	return report(after-before, took)
}

// addresses is how many deliveries an event has. A job that names its receivers
// is stored twice besides, which is not what is measured, so it names some.
func (r *rig) addresses(o options) int {
	if o.Scheme == string(ringback.JWT) {
		return 4
	}
	return 1
}

// happen causes an event: a ping to the webhook, or the end of a job that names
// its own receivers.
func (r *rig) happen(ctx context.Context, o options) error {
	now := time.Now()
	if o.Scheme != string(ringback.JWT) {
		return r.e.Ping(ctx, r.endpoint, now)
	}
	j := &ringback.Job{ID: ringback.NewInteractionID(now), Project: project, Kind: ringback.KindInteraction, Model: "none", Spec: []byte("{}"),
		Webhooks: &ringback.DynamicWebhooks{}, Created: now, Updated: now}
	for i := range r.addresses(o) {
		j.Webhooks.URIs = append(j.Webhooks.URIs, fmt.Sprint(o.Sink, "?", i))
	}
	if err := r.st.CreateJob(ctx, j, nil); err != nil {
		return err
	}
	return r.e.EndJob(ctx, j, nil, &store.End{State: ringback.Completed, At: now})
}

// sign measures RS256 alone: what tokens cost without delivering them.
func sign(_ context.Context, o options) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	k := &webhook.TokenKey{ID: "bench", Key: key}
	var count atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range o.InFlight {
		wg.Go(func() {
			for time.Since(begin) < o.Time {
				now := time.Now()
				if _, err := k.Sign(string(ringback.NewID("msg", now)), now, []byte(body), "https://ringback.example", []string{o.Sink}); err != nil {
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return report(int(count.Load()), time.Since(begin))
}

// delivered counts the deliveries whose success is recorded.
func (r *rig) delivered(ctx context.Context) (n int, err error) {
	db, err := sql.Open("sqlite", r.dir+"/ringback.db")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM deliveries WHERE state = 'delivered'`).Scan(&n)
	return n, err
}

// fill stores deliveries whose retry lies hours ahead.
func fill(ctx context.Context, o options) error {
	o.Sink = "http://127.0.0.1:9/hook" // Replaced by the receiver's when it is known.
	r, err := newRig(ctx, o)
	if err != nil {
		return err
	}
	defer r.st.Close()
	const batch = 1000
	begin := time.Now()
	for stored := 0; stored < o.Backlog; stored += batch {
		now := time.Now()
		h := &store.Happening{Event: ringback.Event{ID: ringback.NewID("evt", now), Project: r.endpoint.Project,
			Type: ringback.InteractionCompleted, Body: []byte(body), Created: now}}
		for range min(batch, o.Backlog-stored) {
			h.Deliveries = append(h.Deliveries, store.NewDelivery{Delivery: ringback.Delivery{
				ID: ringback.NewID("msg", now), Event: h.Event.ID, Project: r.endpoint.Project, Target: string(r.endpoint.ID),
				Endpoint: r.endpoint.ID, State: ringback.DeliveryPending, Created: now, Updated: now,
				Due: now.Add(time.Hour + time.Duration(mathrand.Int64N(int64(23*time.Hour))))}})
		}
		if err := r.st.AddEvent(ctx, h); err != nil {
			return err
		}
	}
	return report(o.Backlog, time.Since(begin))
}

// profile begins a CPU profile, if one was asked for.
func (o *options) profile() (stop func(), err error) {
	if o.CPUProfile == "" {
		return func() {}, nil
	}
	f, err := os.Create(o.CPUProfile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // A profile that is cut short can't be read, which is seen then.
	}, nil
}

// server runs a whole server with the emulator, and prints its address and key.
func server(ctx context.Context, o options) error {
	app.TuneMemory()
	c := app.Config{Listen: "127.0.0.1:0", Data: o.Dir, Emulator: o.Model == "", OpenAIURL: o.Model, AllowHTTPCallbacks: true, AllowPrivateCallbacks: true,
		DeliveryTimeout: 15 * time.Second, MaxInFlight: 512, PerTargetInFlight: 64, MaxRunning: 2 * streamCount, Scenario: o.Scenario, MaxRequestBytes: 1 << 20,
		MaxFileBytes: 4 << 30,
		Grace:        time.Second, LogLevel: "info", LogFormat: "text"}
	a, err := app.New(ctx, c, c.Logger(io.Discard))
	if err != nil {
		return err
	}
	stopProfile, err := o.profile()
	if err != nil {
		return err
	}
	defer stopProfile()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	fmt.Println(a.URL() + " " + a.FirstKey)
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	return <-done
}
