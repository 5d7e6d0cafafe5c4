// Package video_test runs the example as a server does. It needs ffmpeg and Python,
// which scripts/setup-e2e.sh installs.
package video_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"ringback.dev/internal/app"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/exec"
	"ringback.dev/internal/genai"
)

// backEnd is the one that ringback.yaml describes.
func backEnd(t *testing.T) *exec.Backend {
	t.Helper()
	t.Chdir("../..")
	text, err := os.ReadFile("examples/video-ffmpeg/ringback.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := app.Config{Listen: "127.0.0.1:0", Data: t.TempDir()}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	film := c.Backends["title-cards"]
	if film.Type != "exec" || len(c.Models) != 1 || c.Models[0].Backend != "title-cards" {
		t.Fatalf("unexpected configuration %+v", c)
	}
	b, err := exec.New(exec.Config{Command: film.Command, Dir: film.Dir, Env: film.Env, Timeout: film.Timeout, Temp: filepath.Join(c.Data, "jobs")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, _ := filepath.Glob(filepath.Join(c.Data, "jobs", "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return b
}

// output keeps videos in a folder.
type output struct {
	dir      string
	files    []string
	progress []int
	told     func()
}

func (o *output) Create(_ context.Context, mimeType string) (io.WriteCloser, error) {
	if mimeType != "video/mp4" {
		return nil, fmt.Errorf("unexpected type %s", mimeType)
	}
	o.files = append(o.files, filepath.Join(o.dir, fmt.Sprintf("%d.mp4", len(o.files))))
	return os.Create(o.files[len(o.files)-1])
}

func (o *output) Note(context.Context, []byte) error { return errors.New("nothing is to be noted") }

func (o *output) Progress(percent int) {
	o.progress = append(o.progress, percent)
	if o.told != nil {
		o.told()
	}
}

// stream is what ffprobe says of a video.
type stream struct {
	Codec  string `json:"codec_name"`
	Pixels string `json:"pix_fmt"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Rate   string `json:"avg_frame_rate"`
	Frames string `json:"nb_read_frames"`
}

// probe decodes a video and returns its streams, and how long it is.
func probe(t *testing.T, file string) ([]stream, float64) {
	t.Helper()
	out, err := osexec.Command("ffprobe", "-v", "error", "-count_frames", "-show_entries",
		"stream=codec_name,pix_fmt,width,height,avg_frame_rate,nb_read_frames:format=duration", "-of", "json", file).Output()
	if err != nil {
		t.Fatalf("ffprobe: %v; scripts/setup-e2e.sh installs it", err)
	}
	var said struct {
		Streams []stream
		Format  struct {
			Duration float64 `json:",string"`
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatal(err)
	}
	return said.Streams, said.Format.Duration
}

// pixels is a digest of all frames, whatever the file is like.
func pixels(t *testing.T, file string) string {
	t.Helper()
	out, err := osexec.Command("ffmpeg", "-v", "error", "-i", file, "-f", "md5", "-").Output()
	if err != nil {
		t.Fatalf("ffmpeg: %v", err)
	}
	return string(out)
}

func TestVideos(t *testing.T) {
	b := backEnd(t)
	seed := int64(7)
	for name, c := range map[string]struct {
		req           backend.VideoRequest
		width, height int
	}{
		"several": {backend.VideoRequest{Prompt: "A paper boat crosses the flooded square", Count: 2, DurationSeconds: 2}, 1280, 720},
		"upright": {backend.VideoRequest{Prompt: "A paper boat", Count: 1, DurationSeconds: 1, AspectRatio: "9:16", Seed: &seed, NegativePrompt: "a dog"}, 720, 1280},
		"large":   {backend.VideoRequest{Prompt: "Grüße aus Zürich", Count: 1, DurationSeconds: 1, Resolution: "1080p"}, 1920, 1080},
		"hostile": {backend.VideoRequest{Prompt: `',drawtext=text=x:[in];\n%{pts}: "$(id)" ../../etc/passwd` + "\x00\x1b\n-y'", Count: 1, DurationSeconds: 1, AspectRatio: "1:1"}, 720, 720},
		"long":    {backend.VideoRequest{Prompt: strings.Repeat("word ", 5000) + strings.Repeat("x", 5000), Count: 1, DurationSeconds: 1}, 1280, 720},
	} {
		t.Run(name, func(t *testing.T) {
			out := &output{dir: t.TempDir()}
			res, err := b.MakeVideos(t.Context(), &c.req, out)
			if err != nil {
				t.Fatal(err)
			}
			if len(out.files) != c.req.Count || res.Filtered != 0 {
				t.Fatalf("got %v, %+v", out.files, res)
			}
			if n := len(out.progress); n == 0 || out.progress[n-1] != 100 {
				t.Errorf("progress is %v", out.progress)
			}
			for i := range out.progress[1:] {
				if out.progress[i+1] <= out.progress[i] {
					t.Errorf("progress is %v", out.progress)
				}
			}
			seen := make(map[string]bool)
			for _, file := range out.files {
				streams, seconds := probe(t, file)
				want := []stream{{"h264", "yuv420p", c.width, c.height, "24/1", fmt.Sprint(24 * c.req.DurationSeconds)}}
				if d := cmp.Diff(want, streams); d != "" {
					t.Error(d)
				}
				if math.Abs(seconds-float64(c.req.DurationSeconds)) > 0.05 {
					t.Errorf("it takes %g s", seconds)
				}
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if index := bytes.Index(data, []byte("moov")); index < 0 || index > bytes.Index(data, []byte("mdat")) {
					t.Error("it can't be played while it loads")
				}
				seen[pixels(t, file)] = true
			}
			if len(seen) != c.req.Count {
				t.Error("two videos are the same")
			}
		})
	}
}

// TestSeed: the same request gets the same pictures; another seed or prompt others.
func TestSeed(t *testing.T) {
	b := backEnd(t)
	film := func(prompt string, seed *int64) string {
		t.Helper()
		out := &output{dir: t.TempDir()}
		if _, err := b.MakeVideos(t.Context(), &backend.VideoRequest{Prompt: prompt, Count: 1, DurationSeconds: 1, Seed: seed}, out); err != nil {
			t.Fatal(err)
		}
		return pixels(t, out.files[0])
	}
	one, two := int64(1), int64(2)
	first := film("a cat", &one)
	if film("a cat", &one) != first {
		t.Error("the same request got other pictures")
	}
	if film("a cat", &two) == first {
		t.Error("the seed changes nothing")
	}
	if film("a dog", &one) == first {
		t.Error("the prompt is not in the picture")
	}
}

func TestRefusals(t *testing.T) {
	b := backEnd(t)
	for _, c := range []struct {
		req  backend.VideoRequest
		want string
	}{
		{backend.VideoRequest{Prompt: "a cat", LastFrame: &genai.Blob{MimeType: "image/png", Data: "AA=="}}, "lastFrame: title cards are made of text only"},
		{backend.VideoRequest{Prompt: " \n"}, "prompt: it is required"},
		{backend.VideoRequest{Prompt: "a cat", AspectRatio: "2:1"}, "aspectRatio: '2:1' is not one of"},
		{backend.VideoRequest{Prompt: "a cat", Resolution: "8k"}, "resolution: '8k' is not one of"},
		{backend.VideoRequest{Prompt: "a cat", DurationSeconds: 61}, "durationSeconds: 61 is not between 1 and 60"},
	} {
		c.req.Count = 1
		_, err := b.MakeVideos(t.Context(), &c.req, &output{})
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != backend.InvalidRequest || !strings.HasPrefix(e.Message, c.want) {
			t.Errorf("%+v: got %v", c.req, err)
		}
	}
}

// TestCancelled: ffmpeg, which the command runs, ends with the job.
func TestCancelled(t *testing.T) {
	b := backEnd(t)
	ctx, cancel := context.WithCancel(t.Context())
	out := &output{told: cancel}
	if _, err := b.MakeVideos(ctx, &backend.VideoRequest{Prompt: "a cat", Count: 4, DurationSeconds: 60}, out); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(out.files) > 0 {
		t.Errorf("got %v", out.files)
	}
}
