package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genai"
)

// page plays a video and tells its server what became of it: once it has played for a
// while, or can't be played.
const page = `<!doctype html><video muted autoplay src="%s"></video><script>
const video = document.querySelector("video");
const tell = (error) => fetch("/played", { method: "POST", body: JSON.stringify({
  width: video.videoWidth, height: video.videoHeight, duration: video.duration, time: video.currentTime, error }) });
video.onerror = () => tell(video.error.message || "code " + video.error.code);
video.ontimeupdate = () => { if (video.currentTime > 0.5) { video.ontimeupdate = null; tell(""); } };
</script>`

// TestBrowserPlaysVideos: Chromium plays what the emulator makes, straight from the
// address that the operation gives, in both shapes.
func TestBrowserPlaysVideos(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v; run scripts/setup-e2e.sh", err)
	}
	c := goClient(t, dev(t), "any")
	for shape, size := range map[string][2]int{"16:9": {640, 360}, "9:16": {360, 640}} {
		t.Run(strings.ReplaceAll(shape, ":", "x"), func(t *testing.T) {
			op := videoEnded(t, c, makeVideo(t, c, videoModel, &genai.GenerateVideosSource{Prompt: "a cat"}, &genai.GenerateVideosConfig{AspectRatio: shape}))
			uri := op.Response.GeneratedVideos[0].Video.URI + "&key=any"
			type result struct {
				Width, Height  int
				Duration, Time float64
				Error          string
			}
			results := make(chan result, 1)
			mux := http.NewServeMux()
			mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprintf(w, page, strings.ReplaceAll(uri, "&", "&amp;"))
			})
			mux.HandleFunc("POST /played", func(_ http.ResponseWriter, r *http.Request) {
				var got result
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
					t.Errorf("the page says: %v", err)
				}
				select {
				case results <- got:
				default:
				}
			})
			srv := httptest.NewServer(mux)
			defer srv.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			profile, err := os.MkdirTemp("", "ringback-chromium-") // Not t.TempDir: a late write of a child is no failure.
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(profile)
			cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
				"--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--user-data-dir="+profile, srv.URL)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			ended := make(chan error, 1)
			var log strings.Builder
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { ended <- cmd.Wait() }()
			select {
			case got := <-results:
				if got.Error != "" || got.Width != size[0] || got.Height != size[1] || got.Duration != 4 || got.Time <= 0.5 {
					t.Errorf("it played %+v", got)
				}
				cancel()
				<-ended
			case err := <-ended:
				t.Errorf("chromium ended with %v: %s", err, tail(log.String()))
			}
		})
	}
}
