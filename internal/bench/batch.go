package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// rowBytes is about the size of a row: 100,000 of them make 200 MB.
const rowBytes = 2000

var filler = strings.Repeat("The quick brown fox jumps over the lazy dog. ", rowBytes/45)

// prompt is the text of row i.
func prompt(i int) string { return fmt.Sprintf("Row %d: %s", i, filler) }

// batches measures whole batches: from the request that creates one to the
// callback that tells of its end.
func (b *bench) batches(ctx context.Context) error {
	for _, n := range []int{b.Rows / 10, b.Rows, b.Rows * 10} {
		var s series
		rounds := b.Rounds
		if n > b.Rows {
			rounds = 1
		}
		for round := range rounds {
			got, err := b.batch(ctx, fmt.Sprintf("%s/batch-%d-%d", b.dir, n, round), n)
			if err != nil {
				return err
			}
			s.add(got)
		}
		asked := ""
		if n == b.Rows {
			asked = "≥ 8000/s"
		}
		row(fmt.Sprintf("batch of %d rows (%d MB), emulator, created to told", n, n*rowBytes/1e6), perSecond(median(s.rates)), "", asked, s.peak())
	}
	return nil
}

// upstream compares a batch with a bare client loop, on a model server that
// answers at once.
func (b *bench) upstream(ctx context.Context) error {
	m, err := spawn(ctx, "model")
	if err != nil {
		return err
	}
	defer m.stop()
	var loop, mine series
	var ratios []float64
	for round := range b.Rounds {
		bare, err := b.part(ctx, "ask", "-model", m.ready)
		if err != nil {
			return err
		}
		loop.add(bare)
		got, err := b.batch(ctx, fmt.Sprintf("%s/upstream-%d", b.dir, round), b.Rows/2, "-model", m.ready)
		if err != nil {
			return err
		}
		mine.add(got)
		ratios = append(ratios, got.PerSecond/bare.PerSecond)
	}
	row(fmt.Sprintf("bare loop: ask a model server, %d in flight", b.InFlight), perSecond(median(loop.rates)), "1.00", "", "")
	row(fmt.Sprintf("batch of %d rows on it", b.Rows/2), perSecond(median(mine.rates)), ratio(median(ratios)), "≥ 0.60", mine.peak())
	return nil
}

// crowd compares the latency of interactions on an idle server with that beside
// two batches.
func (b *bench) crowd(ctx context.Context) error {
	var idle, crowded [2]millis
	var ratios []float64
	for round := range b.Rounds {
		if err := b.crowdRound(ctx, fmt.Sprintf("%s/crowd-%d", b.dir, round), &idle, &crowded, &ratios); err != nil {
			return err
		}
	}
	row("interactions beside nothing, 50/s, p50", idle[0].text(50), "", "", "")
	row("… p99", idle[1].text(50), "1.00", "", "")
	row(fmt.Sprintf("interactions beside two batches of %d rows, p50", b.Rows/2), crowded[0].text(50), "", "", "")
	row("… p99", crowded[1].text(50), ratio(median(ratios)), "≤ 2.00", "")
	return nil
}

// crowdRound adds the p50 and p99 of a round on a server of its own.
func (b *bench) crowdRound(ctx context.Context, dir string, idle, crowded *[2]millis, ratios *[]float64) error {
	s, err := spawn(ctx, "server", "-dir", dir)
	if err != nil {
		return err
	}
	defer s.stop()
	defer os.RemoveAll(dir)
	a, err := newAPI(s.ready, 16)
	if err != nil {
		return err
	}
	r, err := a.receive(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	input, err := a.uploadRows(ctx, b.Rows/2)
	if err != nil {
		return err
	}
	calm, err := a.steady(ctx, 50, time.After(b.Time))
	if err != nil {
		return err
	}
	for range 2 {
		if err := a.createBatch(ctx, input); err != nil {
			return err
		}
	}
	var told sync.WaitGroup
	both := make(chan time.Time)
	told.Go(func() { <-r.told; <-r.told; close(both) })
	busy, err := a.steady(ctx, 50, both)
	if err != nil {
		return err
	}
	told.Wait()
	for i, p := range []int{50, 99} {
		idle[i], crowded[i] = append(idle[i], calm.at(p)), append(crowded[i], busy.at(p))
	}
	*ratios = append(*ratios, busy.at(99)/calm.at(99))
	return nil
}

// batch runs a batch of n rows on a server of its own.
func (b *bench) batch(ctx context.Context, dir string, n int, args ...string) (outcome, error) {
	var o outcome
	s, err := spawn(ctx, "server", append(args, "-dir", dir)...)
	if err != nil {
		return o, err
	}
	defer s.stop()
	defer os.RemoveAll(dir)
	a, err := newAPI(s.ready, 16)
	if err != nil {
		return o, err
	}
	r, err := a.receive(ctx)
	if err != nil {
		return o, err
	}
	defer r.Close()
	input, err := a.uploadRows(ctx, n)
	if err != nil {
		return o, err
	}
	begin := time.Now()
	if err := a.createBatch(ctx, input); err != nil {
		return o, err
	}
	stats := <-r.told
	took := time.Since(begin)
	if stats.Succeeded != n {
		return o, fmt.Errorf("%d of %d rows succeeded", stats.Succeeded, n)
	}
	return outcome{PerSecond: float64(n) / took.Seconds(), PeakMB: peakMB(s.cmd.Process.Pid)}, nil
}

// uploadRows uploads a file of n rows and returns its name.
func (a *api) uploadRows(ctx context.Context, n int) (string, error) {
	r, w := io.Pipe()
	go func() {
		lines := bufio.NewWriterSize(w, 1<<20)
		for i := range n {
			fmt.Fprintf(lines, `{"key":"k%d","request":{"contents":[{"role":"user","parts":[{"text":"%s"}]}]}}`+"\n", i, prompt(i))
		}
		w.CloseWithError(lines.Flush())
	}()
	return a.upload(ctx, r, -1)
}

func (a *api) createBatch(ctx context.Context, input string) error {
	return a.post(ctx, "/v1beta/models/m:batchGenerateContent", fmt.Sprintf(`{"batch":{"inputConfig":{"fileName":%q}}}`, input))
}

// steady asks for foreground interactions at a rate until the channel says that
// it is enough, and returns how long each took.
func (a *api) steady(ctx context.Context, rate int, enough <-chan time.Time) (millis, error) {
	var mu sync.Mutex
	var all millis
	var failed error
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for {
		select {
		case <-enough:
			wg.Wait()
			return all, failed
		case <-tick.C:
		}
		wg.Go(func() {
			begin := time.Now()
			err := a.post(ctx, "/v1/interactions", `{"model":"m","input":"Why should a long job call back?"}`)
			took := float64(time.Since(begin).Microseconds()) / 1000
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took), errors.Join(failed, err)
		})
	}
}

// batchEvents receives the callbacks of batches.
type batchEvents struct {
	*http.Server
	told chan batchStats
}

type batchStats struct {
	Succeeded int `json:"successful_request_count"`
}

// receive registers a webhook for batches.
func (a *api) receive(ctx context.Context) (*batchEvents, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &batchEvents{told: make(chan batchStats, 16)}
	r.Server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var event struct {
			Data struct {
				Stats batchStats `json:"batch_stats"`
			}
		}
		if err := json.NewDecoder(q.Body).Decode(&event); err != nil {
			fmt.Fprintln(os.Stderr, "bench: a callback:", err)
		}
		w.WriteHeader(http.StatusNoContent)
		r.told <- event.Data.Stats
	})}
	go func() { _ = r.Serve(l) }() // Ends when closed.
	return r, a.post(ctx, "/v1/webhooks", fmt.Sprintf(`{"uri":"http://%s/","subscribed_events":["batch.succeeded","batch.failed"]}`, l.Addr()))
}

// completion is what the model server always answers.
const completion = `{"id":"c","object":"chat.completion","created":1790000000,"model":"m","choices":[{"index":0,"finish_reason":"stop",` +
	`"message":{"role":"assistant","content":"A long job should call back because nobody likes to wait."}}],"usage":{"prompt_tokens":500,"completion_tokens":12,"total_tokens":512}}`

// model is an OpenAI-compatible server that answers at once. It prints its address.
func model(context.Context, options) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"m","object":"model"}]}`)
			return
		}
		_, _ = io.WriteString(w, completion)
	})}
	go func() { _ = srv.Serve(l) }() // Ends when closed.
	fmt.Println("http://" + l.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return srv.Close()
}

// ask is the loop that a batch is compared with: it asks the model server as fast
// as net/http goes, reads each answer and keeps nothing.
func ask(ctx context.Context, o options) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.InFlight}}
	var count atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, o.InFlight)
	begin := time.Now()
	for range o.InFlight {
		wg.Go(func() {
			for time.Since(begin) < o.Time {
				if err := askOnce(ctx, client, o.Model, int(count.Add(1))); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return report(int(count.Load()), time.Since(begin))
	}
}

type (
	chatMessage struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	chatRequest struct {
		Model    string        `json:"model"`
		Messages []chatMessage `json:"messages"`
	}
)

func askOnce(ctx context.Context, client *http.Client, url string, i int) error {
	body, err := json.Marshal(chatRequest{"m", []chatMessage{{"user", prompt(i)}}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Choices []struct{ Message chatMessage }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if len(answer.Choices) != 1 {
		return errors.New("the model server gave no answer")
	}
	return nil
}
