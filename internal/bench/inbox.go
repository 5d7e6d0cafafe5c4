package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/inbox"
	"ringback.dev/inbox/sqlite"
	"ringback.dev/internal/app"
	"ringback.dev/webhook"
)

// steadyRate is how many messages a second come when latency is measured.
const steadyRate = 500

// receiving are the receivers that are measured: the part that each is, and its
// arguments.
var receiving = []struct {
	what  string
	role  string
	args  []string
	asked string
}{
	{"inbox.Handler, durable before 204, worked on beside", "receiver", nil, "≥ 0.50"},
	{"ringback edge, durable before 204, routed beside", "edge", nil, "≥ 0.50"},
	{"… with an sql action about each event, beside", "edge", []string{"-acting"}, ""},
}

// inbox compares receiving durably with a handler that only reads the body, under
// the same load. Bare, each of ours, bare, …: ours are compared with the mean of the
// two around them.
func (b *bench) inbox(ctx context.Context) error {
	secret := webhook.NewSecret().Reveal()
	var loops []float64
	ours, p99s := make([]series, len(receiving)), make([][]float64, len(receiving))
	for round := range b.Rounds + 1 {
		bare, err := b.part(ctx, "bare")
		if err != nil {
			return err
		}
		loops = append(loops, bare.PerSecond)
		for i, x := range receiving {
			if round > 0 {
				ours[i].ratios = append(ours[i].ratios, ours[i].rates[round-1]/((loops[round-1]+loops[round])/2))
			}
			if round == b.Rounds {
				continue
			}
			got, err := b.receive(ctx, "bare", secret, x.role, x.args...)
			if err != nil {
				return err
			}
			ours[i].add(got)
			// Latency at a steady rate, of a new one, so that nothing is left to do from before.
			if got, err = b.receive(ctx, "steady", secret, x.role, x.args...); err != nil {
				return err
			}
			p99s[i] = append(p99s[i], got.P99)
		}
	}
	row("bare handler that reads the body", perSecond(median(loops)), "1.00", "", "")
	for i, x := range receiving {
		row(x.what, perSecond(median(ours[i].rates)), ratio(median(ours[i].ratios)), x.asked, ours[i].peak())
		row(fmt.Sprintf("… answered at %d messages a second, p99", steadyRate), fmt.Sprintf("%.1f ms", median(p99s[i])), "", "≤ 50 ms", "")
	}
	return nil
}

// receive runs a load against a new receiver.
func (b *bench) receive(ctx context.Context, load, secret, role string, args ...string) (outcome, error) {
	dir := b.dir + "/" + role
	r, err := spawn(ctx, role, append(args, "-dir", dir, "-secret", secret)...)
	if err != nil {
		return outcome{}, err
	}
	got, err := run(ctx, load, "-sink", r.ready, "-secret", secret, "-time", b.Time.String(), "-in-flight", strconv.Itoa(b.InFlight))
	got.PeakMB = peakMB(r.cmd.Process.Pid)
	r.stop()
	return got, errors.Join(err, os.RemoveAll(dir))
}

// edge runs a whole "ringback edge" with its defaults, its log in a file. Its route
// is for other events than those that come, or for them all.
func edge(ctx context.Context, o options) error {
	app.TuneMemory()
	stopProfile, err := o.profile()
	if err != nil {
		return err
	}
	defer stopProfile()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	const variable = "BENCH_SECRET"
	if err := os.Setenv(variable, o.Secret); err != nil {
		return err
	}
	file := filepath.Join(o.Dir, "edge.yaml")
	types := "batch.failed"
	if o.Acting {
		types = "*"
	}
	text := fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "off"}
data: %[1]q
sources: {ringback: {path: /hook, secret_env: %[2]s}}
databases: {results: {url: "sqlite:%[1]s/results.db"}}
routes: [{name: all, type: %[3]q, actions: [{name: note, sql: {database: results, statements: [{sql: SELECT 1}]}}]}]
`, o.Dir, variable, types)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(o.Dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	e, err := app.NewEdge(ctx, file, log)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	fmt.Println(e.URL() + "/hook")
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	return <-ended
}

// receiver serves an inbox whose function does nothing.
func receiver(ctx context.Context, o options) error {
	app.TuneMemory()
	stop, err := o.profile()
	if err != nil {
		return err
	}
	defer stop()
	secret, err := o.secret()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	store, err := sqlite.Open(ctx, filepath.Join(o.Dir, "inbox.db"))
	if err != nil {
		return err
	}
	hook := inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{secret}}, store, func(context.Context, *inbox.Entry) error { return nil })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- hook.Run(running) }()
	srv := &http.Server{Handler: hook}
	go func() { _ = srv.Serve(l) }() // Ends when closed.
	fmt.Println("http://" + l.Addr().String() + "/hook")
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	return errors.Join(srv.Close(), <-ended, store.Close())
}

// steady sends messages at a steady rate, however long the answers take, and
// reports the p99 of that.
func steady(ctx context.Context, o options) error {
	secret, err := o.secret()
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var mu sync.Mutex
	var took millis
	var failed error
	var wg sync.WaitGroup
	begin := time.Now()
	tick := time.NewTicker(time.Second / steadyRate)
	defer tick.Stop()
	for due := begin; due.Sub(begin) < o.Time; due = <-tick.C {
		wg.Go(func() {
			err := send(ctx, client, o.Sink, secret)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			took = append(took, float64(time.Since(due).Microseconds())/1000)
		})
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	return reportP99(len(took), time.Since(begin), took.at(99))
}

// send sends one message.
func send(ctx context.Context, client *http.Client, url string, secret webhook.Secret) error {
	now := time.Now()
	id := string(ringback.NewID("msg", now))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(webhook.HeaderID, id)
	req.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(webhook.HeaderSignature, webhook.Sign(id, now, []byte(body), secret))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}
