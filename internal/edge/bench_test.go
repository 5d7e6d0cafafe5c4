package edge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	inboxsqlite "ringback.dev/inbox/sqlite"
	"ringback.dev/webhook"
)

// BenchmarkAccept compares an edge with a handler that only reads the body: 64
// senders, one message after the other. "acted" has an action for each message.
func BenchmarkAccept(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // The sender has gone if this fails.
			w.WriteHeader(http.StatusNoContent)
		}))
		defer s.Close()
		flood(b, s.URL+"/s")
	})
	for name, routes := range map[string]string{
		"stored": "routes: [{name: r, type: other, actions: [{name: a, exec: {command: [/bin/true]}}]}]\n",
		"acted":  "databases: {d: {url: \"sqlite:DIR/d.db\"}}\nroutes: [{name: r, actions: [{name: a, sql: {database: d, statements: [{sql: SELECT 1}]}}]}]\n",
	} {
		b.Run(name, func(b *testing.B) {
			b.Setenv("EDGE_TEST_SECRET", secret)
			dir := b.TempDir()
			file := filepath.Join(dir, "edge.yaml")
			text := strings.Replace(base, `admin: {listen: "127.0.0.1:0"}`, `admin: {listen: "off"}`, 1) + strings.Replace(routes, "DIR", dir, 1)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
			store, err := inboxsqlite.Open(b.Context(), filepath.Join(dir, "inbox.db"))
			if err != nil {
				b.Fatal(err)
			}
			e, err := New(file, store, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- e.Run(ctx) }()
			flood(b, e.URL()+"/s")
			cancel()
			if err := <-done; err != nil {
				b.Error(err)
			}
			if err := store.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// flood sends b.N messages and reports the 99th percentile of their times.
func flood(b *testing.B, url string) {
	s, err := webhook.ParseSecret(secret)
	if err != nil {
		b.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	body := []byte(succeeded)
	times := make([]time.Duration, b.N)
	var next atomic.Int64
	var all sync.WaitGroup
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range 64 {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				now := time.Now()
				id := fmt.Sprintf("msg_%s_%d", run, i)
				req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set(webhook.HeaderID, id)
				req.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
				req.Header.Set(webhook.HeaderSignature, webhook.Sign(id, now, body, s))
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_ = resp.Body.Close() // It is empty.
				if resp.StatusCode != http.StatusNoContent {
					b.Errorf("answered %d", resp.StatusCode)
				}
				times[i] = time.Since(now)
			}
		})
	}
	all.Wait()
	b.StopTimer()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	spent := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-µs/op")
	slices.Sort(times)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}
