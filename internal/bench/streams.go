package main

import (
	"bufio"
	"context"
	"encoding/json"
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

	"ringback.dev/internal/genai"
)

const (
	// streamCount is how many background streams run at once, streamReaders how many
	// of them somebody follows, streamWords what each says, one word in streamPause.
	streamCount   = 1000
	streamReaders = 200
	streamWords   = 100
	streamPause   = 100 * time.Millisecond
	// A speaker says a token in tokenPause, to each who asks.
	tokenPause = 10 * time.Millisecond
	tokenCount = 200
)

// streams measures many background streams at once: how soon those who follow one
// hear its first word, and that everybody hears all of it, in order.
func (b *bench) streams(ctx context.Context) error {
	var words []string
	for i := range streamWords {
		words = append(words, fmt.Sprint("word", i))
	}
	scenario := filepath.Join(b.dir, "streams.yaml")
	text := fmt.Sprintf("rules:\n- {match: {}, text: %q, chunk_delay: %s}\n", strings.Join(words, " "), streamPause)
	if err := os.WriteFile(scenario, []byte(text), 0o600); err != nil {
		return err
	}
	var first, word millis
	var peak float64
	for round := range min(b.Rounds, 2) {
		dir := fmt.Sprintf("%s/streams-%d", b.dir, round)
		s, err := spawn(ctx, "server", "-dir", dir, "-scenario", scenario)
		if err != nil {
			return err
		}
		f, w, err := b.manyStreams(ctx, s)
		peak = max(peak, peakMB(s.cmd.Process.Pid))
		s.stop()
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			return err
		}
		first, word = append(first, f...), append(word, w...)
	}
	row(fmt.Sprintf("%d background streams, %.0f events/s each, %d followed live", streamCount, 1/streamPause.Seconds(), streamReaders),
		fmt.Sprintf("%d events", streamCount*(streamWords+5)), "", "< 400 MB", fmt.Sprintf("%.0f", peak))
	row("… first event, p50", first.text(50), "", "", "")
	row("… first event, p99", first.text(99), "", "≤ 100 ms", "")
	row("… first word, p50", word.text(50), "", "", "")
	row("… first word, p99", word.text(99), "", "", "")
	return nil
}

// manyStreams starts the streams within two seconds, follows some, and reads the
// others when they have ended.
func (b *bench) manyStreams(ctx context.Context, s *part) (first, word millis, err error) {
	a, err := newAPI(s.ready, streamReaders)
	if err != nil {
		return nil, nil, err
	}
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		others []string
		failed error
	)
	tick := time.NewTicker(2 * time.Second / streamCount)
	defer tick.Stop()
	for i := range streamCount {
		<-tick.C
		wg.Go(func() {
			h := &hearing{begin: time.Now(), stopAfter: 1}
			if i%(streamCount/streamReaders) == 0 {
				h.stopAfter = 0
			}
			err := a.hear(ctx, http.MethodPost, "/v1/interactions", `{"model":"m","input":"hi","background":true,"stream":true}`, h)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			if h.stopAfter == 1 {
				others = append(others, h.id)
				return
			}
			first, word = append(first, h.first), append(word, h.word)
		})
	}
	wg.Wait()
	for _, id := range others {
		failed = errors.Join(failed, a.hear(ctx, http.MethodGet, "/v1/interactions/"+id+"?stream=true", "", &hearing{begin: time.Now()}))
	}
	return first, word, failed
}

// hearing is what a client hears of one stream.
type hearing struct {
	begin       time.Time
	stopAfter   int64   // Events after which it leaves; 0 means at the end.
	id          string  // The interaction's.
	first, word float64 // Milliseconds to the first event, and to the first text.
	tokens      int
}

// hear reads a stream and makes sure that it is whole and in order.
func (a *api) hear(ctx context.Context, method, path, body string, h *hearing) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Goog-Api-Key", a.key)
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("a stream was answered %s", resp.Status)
	}
	n := int64(0)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return h.whole()
		}
		var e genai.InteractionEvent
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return err
		}
		if n++; e.ID != genai.EventID(n) {
			return fmt.Errorf("event %d is called %s", n, e.ID)
		}
		now := float64(time.Since(h.begin).Microseconds()) / 1000
		if n == 1 {
			h.first, h.id = now, e.Interaction.ID
		}
		if e.Delta != nil {
			if h.tokens++; h.tokens == 1 {
				h.word = now
			}
		}
		if n == h.stopAfter {
			return nil
		}
	}
	return errors.New("a stream broke off")
}

func (h *hearing) whole() error {
	if h.tokens != streamWords && h.tokens != tokenCount {
		return fmt.Errorf("a stream had %d words", h.tokens)
	}
	return nil
}

// tokens compares streams through the server with those of the model server
// itself.
func (b *bench) tokens(ctx context.Context) error {
	m, err := spawn(ctx, "speaker")
	if err != nil {
		return err
	}
	defer m.stop()
	dir := b.dir + "/tokens"
	s, err := spawn(ctx, "server", "-dir", dir, "-model", m.ready, "-cpuprofile", b.CPUProfile)
	if err != nil {
		return err
	}
	defer s.stop()
	a, err := newAPI(s.ready, b.InFlight)
	if err != nil {
		return err
	}
	var bare, ours series
	var firstBare, firstOurs millis
	var ratios []float64
	for range b.Rounds {
		rate, first, err := b.all(func(h *hearing) error { return listenOnce(ctx, m.ready, h) })
		if err != nil {
			return err
		}
		bare.rates, firstBare = append(bare.rates, rate), append(firstBare, first...)
		mine, first, err := b.all(func(h *hearing) error {
			return a.hear(ctx, http.MethodPost, "/v1/interactions", `{"model":"m","input":"hi","stream":true}`, h)
		})
		if err != nil {
			return err
		}
		ours.rates, firstOurs = append(ours.rates, mine), append(firstOurs, first...)
		ratios = append(ratios, mine/rate)
	}
	row(fmt.Sprintf("bare: tokens of %d streams from a model server", b.InFlight), perSecond(median(bare.rates)), "1.00", "", "")
	row("interactions streamed from it, durable", perSecond(median(ours.rates)), ratio(median(ratios)), "≥ 0.80", fmt.Sprintf("%.0f", peakMB(s.cmd.Process.Pid)))
	row("… added time to the first token, p50", fmt.Sprintf("%.1f ms", firstOurs.at(50)-firstBare.at(50)), "", "≤ 3 ms", "")
	row("… added time to the first token, p99", fmt.Sprintf("%.1f ms", firstOurs.at(99)-firstBare.at(99)), "", "", "")
	return nil
}

// all reads InFlight streams at once, one after the other, for a while. Their
// first tokens are spread over time, as they would be.
func (b *bench) all(one func(*hearing) error) (rate float64, first millis, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	total := 0
	begin := time.Now()
	for i := range b.InFlight {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * tokenPause * tokenCount / time.Duration(b.InFlight))
			for time.Since(begin) < b.Time {
				h := &hearing{begin: time.Now()}
				e := one(h)
				mu.Lock()
				total, first, err = total+h.tokens, append(first, h.word), errors.Join(err, e)
				mu.Unlock()
				if e != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(total) / time.Since(begin).Seconds(), first, err
}

// listenOnce reads a stream of the model server.
func listenOnce(ctx context.Context, url string, h *hearing) error {
	body := `{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/chat/completions", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := speakerClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if data == "[DONE]" {
			return h.whole()
		}
		var c struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		if !ok || json.Unmarshal([]byte(data), &c) != nil || len(c.Choices) == 0 || c.Choices[0].Delta.Content == "" {
			continue
		}
		if h.tokens++; h.tokens == 1 {
			h.word = float64(time.Since(h.begin).Microseconds()) / 1000
		}
	}
	return errors.New("a stream of the model server broke off")
}

var speakerClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}

// speaker is an OpenAI-compatible server that streams at a steady pace. It prints
// its address.
func speaker(context.Context, options) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		control := http.NewResponseController(w)
		tick := time.NewTicker(tokenPause)
		defer tick.Stop()
		for i := range tokenCount {
			if i > 0 {
				<-tick.C
			}
			_, err := io.WriteString(w, `data: {"id":"c","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[{"index":0,"delta":{"content":"token`+strconv.Itoa(i)+` "}}]}`+"\n\n")
			if err != nil || control.Flush() != nil {
				return
			}
		}
		_, _ = io.WriteString(w, `data: {"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n"+
			`data: {"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":200,"total_tokens":205}}`+"\n\ndata: [DONE]\n\n")
	})}
	go func() { _ = srv.Serve(l) }() // Ends when closed.
	fmt.Println("http://" + l.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return srv.Close()
}
