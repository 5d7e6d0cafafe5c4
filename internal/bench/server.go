package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// api talks to the server under test.
type api struct {
	url, key string
	client   *http.Client
}

func newAPI(ready string, connections int) (*api, error) {
	url, key, ok := strings.Cut(ready, " ")
	if !ok {
		return nil, fmt.Errorf("the server printed %q", ready)
	}
	return &api{url, key, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}}, nil
}

func (a *api) post(ctx context.Context, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Goog-Api-Key", a.key)
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return err
}

const job = `{"model":"gemini-3.6-flash","input":"Why should a long job call back instead of being polled?","background":true}`

// millis are latencies.
type millis []float64

func (m millis) text(percent int) string {
	if len(m) == 0 {
		return "none"
	}
	return fmt.Sprintf("%.1f ms", m.at(percent))
}

// at is a percentile of some.
func (m millis) at(percent int) float64 {
	s := slices.Sorted(slices.Values(m))
	return s[min(len(s)-1, len(s)*percent/100)]
}

// latencies submits jobs at a steady rate and measures, for each callback, the
// time from the job's end, which its event carries, to the first byte here.
func latencies(ctx context.Context, ready string, rate int, d time.Duration) (millis, error) {
	a, err := newAPI(ready, 16)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	arrived := make(chan float64, 64)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		var event struct{ Timestamp time.Time }
		if json.NewDecoder(r.Body).Decode(&event) == nil {
			arrived <- float64(now.Sub(event.Timestamp).Microseconds()) / 1000
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	go func() { _ = srv.Serve(l) }() // Ends when closed.
	defer srv.Close()
	hook := fmt.Sprintf(`{"uri":"http://%s/","subscribed_events":["interaction.completed"]}`, l.Addr())
	if err := a.post(ctx, "/v1/webhooks?webhook_id=bench-latency", hook); err != nil {
		return nil, err
	}
	defer func() {
		req, err := http.NewRequest(http.MethodDelete, a.url+"/v1/webhooks/bench-latency?key="+a.key, nil)
		if err == nil {
			if resp, err := a.client.Do(req); err == nil {
				resp.Body.Close()
			}
		}
	}()
	jobs := int(d.Seconds() * float64(rate))
	failed := make(chan error, jobs)
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for range jobs {
			<-tick.C
			go func() {
				if err := a.post(ctx, "/v1/interactions", job); err != nil {
					failed <- err
				}
			}()
		}
	}()
	var all millis
	for range jobs {
		select {
		case v := <-arrived:
			all = append(all, v)
		case err := <-failed:
			return nil, err
		case <-time.After(30 * time.Second):
			return nil, fmt.Errorf("%d of %d callbacks arrived", len(all), jobs)
		}
	}
	return all, nil
}

// creations measures how many background interactions a second are accepted,
// each durable before it is answered, while the server also runs them.
func creations(ctx context.Context, ready string, inFlight int, d time.Duration) (float64, error) {
	a, err := newAPI(ready, inFlight)
	if err != nil {
		return 0, err
	}
	var count atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, inFlight)
	begin := time.Now()
	for range inFlight {
		wg.Go(func() {
			for time.Since(begin) < d {
				if err := a.post(ctx, "/v1/interactions", job); err != nil {
					errs <- err
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	rate := float64(count.Load()) / time.Since(begin).Seconds()
	select {
	case err := <-errs:
		return 0, err
	default:
		return rate, nil
	}
}
