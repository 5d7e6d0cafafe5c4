package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/genai"
	"google.golang.org/genai/interactions/models/operations"
	"google.golang.org/genai/interactions/models/webhooks"
)

const videoModel = "veo-3.1-generate-preview"

// videoEnded polls as the documents do, though quicker.
func videoEnded(t *testing.T, c *genai.Client, op *genai.GenerateVideosOperation) *genai.GenerateVideosOperation {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !op.Done; {
		if time.Now().After(deadline) {
			t.Fatalf("video %s does not end", op.Name)
		}
		op = must[*genai.GenerateVideosOperation](t)(c.Operations.GetVideosOperation(t.Context(), op, nil))
	}
	return op
}

func makeVideo(t *testing.T, c *genai.Client, model string, source *genai.GenerateVideosSource, config *genai.GenerateVideosConfig) *genai.GenerateVideosOperation {
	t.Helper()
	return must[*genai.GenerateVideosOperation](t)(c.Models.GenerateVideosFromSource(t.Context(), model, source, config))
}

// getFrom downloads from an address, as a browser or curl does.
func getFrom(t *testing.T, uri, byteRange string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, uri+"&key=any", nil)
	if err != nil {
		t.Fatal(err)
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp, must[[]byte](t)(io.ReadAll(resp.Body))
}

func TestGoVideos(t *testing.T) {
	c := goClient(t, dev(t), "any")
	r := receive(t)
	in := decode[webhooks.WebhookInput](t, `{"uri":"`+r.URI+`","subscribed_events":["video.generated","video.failed"]}`)
	hook := must[*operations.CreateWebhookResponse](t)(c.Webhooks.Create(t.Context(), operations.CreateWebhookRequest{Body: in})).Webhook

	made := makeVideo(t, c, videoModel, &genai.GenerateVideosSource{Prompt: "a cat"}, &genai.GenerateVideosConfig{NumberOfVideos: 2, DurationSeconds: genai.Ptr[int32](8)})
	op := videoEnded(t, c, made)
	if op.Error != nil || len(op.Response.GeneratedVideos) != 2 {
		t.Fatalf("ended: %+v", op)
	}
	var videos [2][]byte
	for i, v := range op.Response.GeneratedVideos {
		videos[i] = must[[]byte](t)(c.Files.Download(t.Context(), genai.NewDownloadURIFromGeneratedVideo(v), nil))
		if !bytes.Contains(videos[i], []byte("ftypisom")) || !bytes.Contains(videos[i], []byte("No model ran.")) {
			t.Errorf("video %d has %d bytes", i, len(videos[i]))
		}
	}
	if bytes.Equal(videos[0], videos[1]) {
		t.Error("both videos are the same")
	}
	uri := op.Response.GeneratedVideos[0].Video.URI
	if resp, all := getFrom(t, uri, ""); !bytes.Equal(all, videos[0]) || resp.Header.Get("Content-Type") != "video/mp4" || resp.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("from its address: %d bytes, %v", len(all), resp.Header)
	}
	if resp, part := getFrom(t, uri, "bytes=100-299"); resp.StatusCode != http.StatusPartialContent || !bytes.Equal(part, videos[0][100:300]) {
		t.Errorf("a range: %s, %d bytes", resp.Status, len(part))
	}
	if resp, tail := getFrom(t, uri, "bytes=-50"); resp.StatusCode != http.StatusPartialContent || !bytes.Equal(tail, videos[0][len(videos[0])-50:]) {
		t.Errorf("the tail: %s, %d bytes", resp.Status, len(tail))
	}
	called := r.wait(t, "video.generated", op.Name)
	if err := verify(t, *hook.NewSigningSecret, called); err != nil {
		t.Error(err)
	}
	var event struct {
		Data struct {
			OutputFileURI string `json:"output_file_uri"`
			VideoURI      string `json:"video_uri"`
			FileName      string `json:"file_name"`
		}
	}
	if err := json.Unmarshal(called.Body, &event); err != nil || event.Data.OutputFileURI != uri || event.Data.VideoURI != uri || !strings.Contains(uri, event.Data.FileName) {
		t.Errorf("the event: %v %s", err, called.Body)
	}
	if f := must[*genai.File](t)(c.Files.Get(t.Context(), event.Data.FileName, nil)); f.Source != genai.FileSourceGenerated || f.VideoMetadata["videoDuration"] != "4s" || f.ExpirationTime.Sub(f.CreateTime) != 48*time.Hour {
		t.Errorf("the file: %+v", f)
	}

	image := &genai.Image{ImageBytes: append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 20)...), MIMEType: "image/png"}
	seen := videoEnded(t, c, makeVideo(t, c, videoModel, &genai.GenerateVideosSource{Image: image}, &genai.GenerateVideosConfig{LastFrame: image, AspectRatio: "9:16",
		ReferenceImages: []*genai.VideoGenerationReferenceImage{{Image: image, ReferenceType: genai.VideoGenerationReferenceTypeAsset}}}))
	if seen.Error != nil || len(seen.Response.GeneratedVideos) != 1 {
		t.Errorf("of images: %+v", seen)
	}
	longer := videoEnded(t, c, makeVideo(t, c, videoModel, &genai.GenerateVideosSource{Prompt: "on", Video: seen.Response.GeneratedVideos[0].Video}, nil))
	if longer.Error != nil || len(longer.Response.GeneratedVideos) != 1 {
		t.Errorf("of a video: %+v", longer)
	}

	failed := videoEnded(t, c, makeVideo(t, c, "fail-veo", &genai.GenerateVideosSource{Prompt: "a cat"}, nil))
	if failed.Error["message"] != "the model is not reachable" || failed.Error["code"] != 13.0 || failed.Response != nil {
		t.Errorf("failed: %+v", failed)
	}
	if err := verify(t, *hook.NewSigningSecret, r.wait(t, "video.failed", failed.Name)); err != nil {
		t.Error(err)
	}
	filtered := videoEnded(t, c, makeVideo(t, c, videoModel, &genai.GenerateVideosSource{Prompt: "somebody famous"}, nil))
	if filtered.Error != nil || filtered.Response.RAIMediaFilteredCount != 1 || filtered.Response.RAIMediaFilteredReasons[0] != "it shows a real person" || len(filtered.Response.GeneratedVideos) != 0 {
		t.Errorf("filtered: %+v", filtered)
	}
	r.wait(t, "video.failed", filtered.Name)
	_, err := c.Operations.GetVideosOperation(t.Context(), &genai.GenerateVideosOperation{Name: "models/m/operations/none"}, nil)
	notFoundError(t, err)
}

// TestGoVideoDynamic names a receiver in the request.
func TestGoVideoDynamic(t *testing.T) {
	s := dev(t)
	c := goClient(t, s, "any")
	r := receive(t)
	op := makeVideo(t, c, videoModel, &genai.GenerateVideosSource{Prompt: "a cat"}, &genai.GenerateVideosConfig{
		WebhookConfig: &genai.WebhookConfig{Uris: []string{r.URI}, UserMetadata: map[string]any{"reel": "7"}}})
	got := r.wait(t, "video.generated", op.Name)
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(got.Header.Get("webhook-signature"), claims, serverKeys(t, s.URL), jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(r.URI), jwt.WithIssuer(s.URL)); err != nil {
		t.Fatal(err)
	}
	if meta, ok := claims["user_metadata"].(map[string]any); claims["type"] != "video.generated" || !ok || meta["reel"] != "7" {
		t.Errorf("unexpected claims %v", claims)
	}
}
