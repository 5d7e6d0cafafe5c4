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

// inbox compares receiving durably with a handler that only reads the body, under
// the same load. Bare, ours, bare, …: each of ours is compared with the mean of the
// two around it.
func (b *bench) inbox(ctx context.Context) error {
	secret := webhook.NewSecret().Reveal()
	var loops, p99s []float64
	var ours series
	for round := range b.Rounds + 1 {
		bare, err := b.part(ctx, "bare")
		if err != nil {
			return err
		}
		loops = append(loops, bare.PerSecond)
		if round > 0 {
			ours.ratios = append(ours.ratios, ours.rates[round-1]/((loops[round-1]+loops[round])/2))
		}
		if round == b.Rounds {
			break
		}
		dir := fmt.Sprintf("%s/inbox-%d", b.dir, round)
		r, err := spawn(ctx, "receiver", "-dir", dir, "-secret", secret)
		if err != nil {
			return err
		}
		got, err := run(ctx, "bare", "-sink", r.ready, "-secret", secret, "-time", b.Time.String(), "-in-flight", strconv.Itoa(b.InFlight))
		got.PeakMB = peakMB(r.cmd.Process.Pid)
		r.stop()
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return err
		}
		ours.add(got)
		// Latency at a steady rate, of a new one, so that nothing is left to do from before.
		if r, err = spawn(ctx, "receiver", "-dir", dir, "-secret", secret); err != nil {
			return err
		}
		got, err = run(ctx, "steady", "-sink", r.ready, "-secret", secret, "-time", b.Time.String())
		r.stop()
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return err
		}
		p99s = append(p99s, got.P99)
	}
	row("bare handler that reads the body", perSecond(median(loops)), "1.00", "", "")
	row("inbox.Handler, durable before 204, worked on beside", perSecond(median(ours.rates)), ratio(median(ours.ratios)), "≥ 0.50", ours.peak())
	row(fmt.Sprintf("… answered at %d messages a second, p99", steadyRate), fmt.Sprintf("%.1f ms", median(p99s)), "", "≤ 50 ms", "")
	return nil
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
