package emulator_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// shelf is a VideoOutput in memory.
type shelf struct {
	videos   [][]byte
	notes    []string
	progress []int
	refuse   error
}

type videoFile struct {
	bytes.Buffer
	shelf *shelf
}

func (f *videoFile) Close() error {
	f.shelf.videos = append(f.shelf.videos, f.Bytes())
	return nil
}

func (s *shelf) Create(_ context.Context, mimeType string) (io.WriteCloser, error) {
	if mimeType != "video/mp4" {
		return nil, fmt.Errorf("unexpected type %s", mimeType)
	}
	return &videoFile{shelf: s}, s.refuse
}

func (s *shelf) Note(_ context.Context, checkpoint []byte) error {
	s.notes = append(s.notes, string(checkpoint))
	return s.refuse
}

func (s *shelf) Progress(percent int) { s.progress = append(s.progress, percent) }

// boxes lists the boxes of an MP4, those within the ones named with their path.
func boxes(t *testing.T, data []byte, path string, within ...string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	for len(data) > 0 {
		if len(data) < 8 || int(binary.BigEndian.Uint32(data)) < 8 || int(binary.BigEndian.Uint32(data)) > len(data) {
			t.Fatalf("%s: a malformed box: %x", path, data[:min(len(data), 16)])
		}
		size, name := int(binary.BigEndian.Uint32(data)), path+string(data[4:8])
		content := data[8:size]
		all[name] = content
		if len(within) > 0 && string(data[4:8]) == within[0] {
			if within[0] == "meta" {
				content = content[4:] // Version and flags.
			}
			for k, v := range boxes(t, content, name+"/", within[1:]...) {
				all[k] = v
			}
		}
		data = data[size:]
	}
	return all
}

func TestVideos(t *testing.T) {
	wide := &backend.VideoRequest{Model: "veo", Prompt: "a cat", Count: 2}
	made := func(req *backend.VideoRequest) *shelf {
		t.Helper()
		var out shelf
		held, err := scenario(t, "rules: []").MakeVideos(t.Context(), req, &out)
		if err != nil || held.Filtered != 0 || len(out.videos) != req.Count {
			t.Fatalf("%d videos, %+v, %v", len(out.videos), held, err)
		}
		return &out
	}
	first := made(wide)
	for i, v := range first.videos {
		all := boxes(t, v, "", "moov", "udta", "meta", "ilst")
		for _, name := range []string{"ftyp", "mdat", "moov/mvhd", "moov/trak", "moov/udta/meta/ilst/\xa9nam"} {
			if all[name] == nil {
				t.Errorf("there is no %q", name)
			}
		}
		title := string(all["moov/udta/meta/ilst/\xa9nam"][16:])
		if !strings.HasPrefix(title, `[ringback emulator] No model ran. veo was asked "a cat" (video `+fmt.Sprint(i+1)+" of 2, digest ") {
			t.Errorf("the title is %q", title)
		}
		if len(v) > 60_000 {
			t.Errorf("it has %d bytes", len(v))
		}
	}
	if !slices.EqualFunc(made(wide).videos, first.videos, bytes.Equal) {
		t.Error("the same request got other videos")
	}
	if bytes.Equal(first.videos[0], first.videos[1]) {
		t.Error("both videos are the same")
	}
	if !slices.Equal(first.notes, []string{"0"}) || first.progress[len(first.progress)-1] != 100 {
		t.Errorf("notes %q, progress %v", first.notes, first.progress)
	}
	tall := *wide
	tall.AspectRatio, tall.Count, tall.Image = "9:16", 1, &genai.Blob{MimeType: "image/png", Data: "AA=="}
	size := func(v []byte) (w, h uint32) {
		tkhd := boxes(t, v, "", "moov", "trak")["moov/trak/tkhd"]
		return binary.BigEndian.Uint32(tkhd[76:]) >> 16, binary.BigEndian.Uint32(tkhd[80:]) >> 16
	}
	if w, h := size(first.videos[0]); w != 640 || h != 360 {
		t.Errorf("wide: %d × %d", w, h)
	}
	if w, h := size(made(&tall).videos[0]); w != 360 || h != 640 {
		t.Errorf("tall: %d × %d", w, h)
	}
	tall.AspectRatio = "1:1"
	var e *backend.Error
	if _, err := scenario(t, "rules: []").MakeVideos(t.Context(), &tall, &shelf{}); !errors.As(err, &e) || e.Kind != backend.InvalidRequest || !strings.Contains(e.Message, "aspectRatio") {
		t.Errorf("another shape: %v", err)
	}
	broken := errors.New("no disk")
	if _, err := scenario(t, "rules: []").MakeVideos(t.Context(), wide, &shelf{refuse: broken}); !errors.Is(err, broken) {
		t.Errorf("a broken output: %v", err)
	}
}

func TestVideoScenario(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := scenario(t, `rules:
  - {match: {prompt: cat}, text: not for videos}
  - {match: {prompt: cat}, function_call: {name: f}}
  - {match: {model: fail}, error: {kind: internal, message: broken}, delay: 1m}
  - {match: {model: busy}, rate_limit: {times: 1, retry_after: 7s}}
  - {match: {model: some}, filtered: {count: 1, reasons: [it looks like somebody]}}
  - {match: {model: all}, filtered: {}}
  - {match: {prompt: slow}, delay: 100s}
`)
		ask := func(model, prompt string, checkpoint string) (*shelf, *backend.VideoResult, error) {
			var out shelf
			held, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Model: model, Prompt: prompt, Count: 3, Checkpoint: []byte(checkpoint)}, &out)
			return &out, held, err
		}
		var e *backend.Error
		if out, _, err := ask("fail", "cat", ""); !errors.As(err, &e) || e.Message != "broken" || len(out.videos)+len(out.notes) > 0 {
			t.Errorf("fail: %v, %+v", err, out)
		}
		if _, _, err := ask("busy", "cat", ""); !errors.As(err, &e) || e.RetryAfter != 7*time.Second {
			t.Errorf("busy: %v", err)
		}
		if out, _, err := ask("busy", "cat", ""); err != nil || len(out.videos) != 3 {
			t.Errorf("busy again: %v", err)
		}
		if out, held, err := ask("some", "cat", ""); err != nil || len(out.videos) != 2 || held.Filtered != 1 || held.FilteredReasons[0] != "it looks like somebody" {
			t.Errorf("some: %v, %+v", err, held)
		}
		if out, held, err := ask("all", "cat", ""); err != nil || len(out.videos) != 0 || held.Filtered != 3 {
			t.Errorf("all: %v, %+v", err, held)
		}
		begin := time.Now()
		out, _, err := ask("m", "slow", "")
		if err != nil || time.Since(begin) != 100*time.Second || strings.Join(out.notes, "") != "0123456789" || fmt.Sprint(out.progress) != "[10 20 30 40 50 60 70 80 90 100]" {
			t.Errorf("slow: %v after %s, %+v", err, time.Since(begin), out)
		}
		begin = time.Now()
		if out, _, err = ask("m", "slow", "7"); err != nil || time.Since(begin) != 30*time.Second || len(out.videos) != 3 {
			t.Errorf("it goes on: %v after %s", err, time.Since(begin))
		}
		reason := errors.New("cut off")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(15*time.Second, func() { cancel(reason) })
		if _, err := b.MakeVideos(ctx, &backend.VideoRequest{Model: "m", Prompt: "slow", Count: 1}, &shelf{}); !errors.Is(err, reason) {
			t.Errorf("cut off: %v", err)
		}
	})
	// What is for videos only is passed over elsewhere.
	if text, _ := answer(t, scenario(t, "rules:\n  - filtered: {}\n"), `{"contents":[{"parts":[{"text":"x"}]}]}`); !strings.HasPrefix(text, "[ringback emulator]") {
		t.Errorf("got %q", text)
	}
}
