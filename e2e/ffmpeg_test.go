package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genai"
	"google.golang.org/genai/interactions/models/operations"
	"google.golang.org/genai/interactions/models/webhooks"
)

// TestGoVideoByCommand: the SDK asks for a video, examples/video-ffmpeg makes it, the
// callback comes, and what is downloaded is a video as it was ordered.
func TestGoVideoByCommand(t *testing.T) {
	text := string(must[[]byte](t)(os.ReadFile("../examples/video-ffmpeg/ringback.yaml")))
	here := must[string](t)(filepath.Abs("../examples/video-ffmpeg"))
	dir := t.TempDir()
	config, file := filepath.Join(dir, "ringback.yaml"), filepath.Join(dir, "card.mp4")
	// The server of this test does not run at the root of the tree.
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(text, "examples/video-ffmpeg", here)), 0o600); err != nil {
		t.Fatal(err)
	}
	c := goClient(t, start(t, "dev", "--config", config), "any")
	r := receive(t)
	in := decode[webhooks.WebhookInput](t, `{"uri":"`+r.URI+`","subscribed_events":["video.generated","video.failed"]}`)
	hook := must[*operations.CreateWebhookResponse](t)(c.Webhooks.Create(t.Context(), operations.CreateWebhookRequest{Body: in})).Webhook
	op := makeVideo(t, c, videoModel, &genai.GenerateVideosSource{Prompt: "A paper boat, 100 % rain: 'done'"},
		&genai.GenerateVideosConfig{NumberOfVideos: 1, DurationSeconds: genai.Ptr[int32](4), AspectRatio: "9:16", Resolution: "720p"})
	called := r.wait(t, "video.generated", op.Name)
	if err := verify(t, *hook.NewSigningSecret, called); err != nil {
		t.Error(err)
	}
	op = videoEnded(t, c, op)
	if op.Error != nil || len(op.Response.GeneratedVideos) != 1 {
		t.Fatalf("ended: %+v", op)
	}
	data := must[[]byte](t)(c.Files.Download(t.Context(), genai.NewDownloadURIFromGeneratedVideo(op.Response.GeneratedVideos[0]), nil))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out := must[[]byte](t)(exec.Command("ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height:format=duration", "-of", "json", file).Output())
	var said struct {
		Streams []struct {
			Codec         string `json:"codec_name"`
			Width, Height int
		}
		Format struct{ Duration string }
	}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatal(err)
	}
	if len(said.Streams) != 1 || said.Streams[0].Codec != "h264" || said.Streams[0].Width != 720 || said.Streams[0].Height != 1280 || said.Format.Duration != "4.000000" {
		t.Errorf("the video is %s", out)
	}
}
