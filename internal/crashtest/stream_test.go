package crashtest

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringback.dev/internal/crash"
	"ringback.dev/internal/genai"
)

const (
	streamEvents = 500
	// streamKillEvery is after how many events that a client has heard the server is
	// killed.
	streamKillEvery = 45
)

// streamScenario makes the emulator say as many words as make streamEvents events.
func streamScenario(t *testing.T) (file, text string) {
	t.Helper()
	var words []string
	for i := range streamEvents - 5 { // Created, status, start, stop, completed.
		words = append(words, fmt.Sprint("word", i))
	}
	text = strings.Join(words, " ")
	file = filepath.Join(t.TempDir(), "scenario.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "rules:\n- {match: {}, text: %q, chunk_delay: 2ms}\n", text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, text
}

// heard is what a client has put together of a stream.
type heard struct {
	id     string
	events int64
	text   string
	status string
}

// hear opens the stream after what was heard and takes up to n events. It reports
// whether the stream has ended.
func (w *world) hear(h *heard, n int) bool {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	path := "/v1/interactions/" + h.id + "?stream=true"
	if h.events > 0 {
		path += "&last_event_id=" + genai.EventID(h.events)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("X-Goog-Api-Key", w.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false // The server was killed.
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("the stream after %s is answered %d", genai.EventID(h.events), resp.StatusCode)
	}
	lines := bufio.NewScanner(resp.Body)
	for n > 0 && lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if data == "[DONE]" {
			return true
		}
		if !ok {
			continue
		}
		e, err := genai.ReadEvent([]byte("\ndata: " + data))
		if err != nil {
			return false // It was cut off by the kill.
		}
		if e.ID != genai.EventID(h.events+1) {
			w.t.Fatalf("after %s came %s", genai.EventID(h.events), e.ID)
		}
		h.events++
		n--
		if e.Delta != nil {
			h.text += e.Delta.Text
		}
		if e.Interaction != nil {
			h.status = e.Interaction.Status
		}
	}
	return false
}

// TestKillStream has a client drop and resume after every event of a stream, and
// kills the server again and again: each event is heard once, in order.
func TestKillStream(t *testing.T) {
	file, text := streamScenario(t)
	w := newWorld(t, build(t), "--scenario", file)
	w.start("")
	h := w.startStream()
	kills, opened := 0, 0
	for !w.hear(h, 1) {
		if opened++; h.events%streamKillEvery == 0 && int(h.events)/streamKillEvery > kills {
			w.kill()
			kills++
			w.start("")
		}
	}
	h.check(t, text)
	w.everyCallback()
	w.stop()
	fmt.Printf("crash: a stream of %d events, resumed %d times and after each event, %d kills, each event heard once and in order\n", h.events, opened, kills)
}

// TestKillStreamWhenRecorded kills the server right after events were stored that
// no client has heard.
func TestKillStreamWhenRecorded(t *testing.T) {
	file, text := streamScenario(t)
	w := newWorld(t, build(t), "--scenario", file)
	kills := 0
	for _, nth := range []int{1, 2, 5, 12, 25} {
		w.start(fmt.Sprintf("%s:%d", crash.StreamRecorded, nth))
		h := w.startStream()
		for alive := true; alive; {
			before := h.events
			w.hear(h, streamEvents)
			alive = h.events > before
		}
		w.killedAt(crash.StreamRecorded)
		kills++
		w.start("")
		for !w.hear(h, streamEvents) {
		}
		h.check(t, text)
		w.everyCallback()
		w.stop()
	}
	fmt.Printf("crash: %d kills after events of a stream were stored, each event heard once and in order\n", kills)
}

// startStream creates a background interaction that is a stream, and leaves it
// after the first event.
func (w *world) startStream() *heard {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/v1/interactions", strings.NewReader(`{"model":"m","input":"hi","background":true,"stream":true}`))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("X-Goog-Api-Key", w.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			e, err := genai.ReadEvent([]byte("\ndata: " + data))
			if err != nil || e.Type != genai.EventCreated {
				w.t.Fatalf("the stream begins with %q, %v", data, err)
			}
			w.acknowledged[e.Interaction.ID] = true
			return &heard{id: e.Interaction.ID, events: 1}
		}
	}
	w.t.Fatal("the stream is empty")
	return nil
}

func (h *heard) check(t *testing.T, text string) {
	t.Helper()
	if h.events != streamEvents || h.text != text || h.status != "completed" {
		t.Errorf("heard %d events, status %s; the text is %v", h.events, h.status, h.text == text)
	}
}
