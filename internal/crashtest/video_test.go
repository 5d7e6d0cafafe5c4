package crashtest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ringback.dev/internal/crash"
)

const (
	videosPerRun  = 2 // Jobs.
	videosPerJob  = 2
	videoStepKill = 4
)

// TestKillVideoAtEveryStep kills the server at each step of video jobs, and of their
// ends. Each job ends with its files, whole, and nothing else stays.
func TestKillVideoAtEveryStep(t *testing.T) {
	w := newWorld(t, build(t), "--emulator")
	kills := 0
	for _, step := range append(crash.VideoSteps(), crash.EndDecided, crash.EndCommitted) {
		for n := range videoStepKill {
			nth := 1 + n%videosPerRun
			if step == crash.VideoWritten {
				nth = 1 + n // Of the first video and of further ones.
			}
			w.start(fmt.Sprintf("%s:%d", step, nth))
			w.submitVideos(videosPerRun)
			w.killedAt(step)
			kills++
		}
		w.start("")
		w.everyCallback()
		w.checkVideos()
		w.stop()
	}
	w.start("") // Upkeep begins at once.
	// A job may be stored whose creation the server did not live to acknowledge.
	left := w.sweptTo(w.operations() * videosPerJob)
	w.stop()
	jobs, doubles := w.receiver.check(t, w.acknowledged)
	fmt.Printf("crash: %d kills at the steps of videos, %d jobs acknowledged, 0 lost, each with its %d files, %d blobs left, %d callbacks doubled\n",
		kills, jobs, videosPerJob, left, doubles)
}

// TestVideoGoesOnAfterKill: the next run begins where the back-end's last note says.
// The emulator notes each of its ten steps.
func TestVideoGoesOnAfterKill(t *testing.T) {
	scenario := filepath.Join(t.TempDir(), "scenario.yaml")
	if err := os.WriteFile(scenario, []byte("rules:\n  - delay: 100ms\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, build(t), "--scenario", scenario)
	w.start(string(crash.VideoNoted) + ":8")
	w.submitVideos(1)
	w.killedAt(crash.VideoNoted)
	// A run that began again would come to its eighth note, and die of it.
	w.start(string(crash.VideoNoted) + ":8")
	w.everyCallback()
	w.checkVideos()
	w.sweptTo(videosPerJob)
	w.stop()
	w.receiver.check(t, w.acknowledged)
	fmt.Println("crash: a video job, killed at the eighth of ten steps, went on from there")
}

// submitVideos creates n video jobs at once. Those that the server did not live to
// acknowledge are not counted.
func (w *world) submitVideos(n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var op struct{ Name string }
			body := fmt.Sprintf(`{"instances":[{"prompt":"a cat"}],"parameters":{"sampleCount":%d}}`, videosPerJob)
			if w.post("/v1beta/models/m:predictLongRunning", body, &op) == nil && op.Name != "" {
				w.mu.Lock()
				w.acknowledged[op.Name] = true
				w.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// operations counts the video jobs that there are, all of which have ended.
func (w *world) operations() (n int) {
	w.t.Helper()
	for page := ""; ; {
		var list struct {
			Operations    []struct{ Done bool }
			NextPageToken string
		}
		if err := w.get("/v1beta/operations?pageSize=100&pageToken="+page, &list); err != nil {
			w.t.Fatal(err)
		}
		for _, o := range list.Operations {
			if n++; !o.Done {
				w.t.Fatal("a video job has not ended")
			}
		}
		if page = list.NextPageToken; page == "" {
			return n
		}
	}
}

// checkVideos downloads the videos of all jobs.
func (w *world) checkVideos() {
	w.t.Helper()
	for name := range w.acknowledged {
		var op struct {
			Done     bool
			Response struct {
				GenerateVideoResponse struct {
					GeneratedSamples []struct{ Video struct{ URI string } }
				}
			}
		}
		if err := w.get("/v1beta/"+name, &op); err != nil {
			w.t.Fatal(err)
		}
		made := op.Response.GenerateVideoResponse.GeneratedSamples
		if !op.Done || len(made) != videosPerJob {
			w.t.Fatalf("%s: %+v", name, op)
		}
		for i, v := range made {
			_, path, _ := strings.Cut(v.Video.URI, "/v1beta/")
			resp, err := w.do(http.MethodGet, "/v1beta/"+path, nil)
			if err != nil {
				w.t.Fatal(err)
			}
			data, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Contains(data, []byte("moov")) || !bytes.Contains(data, fmt.Appendf(nil, "(video %d of %d", i+1, videosPerJob)) {
				w.t.Errorf("%s: video %d has %d bytes (%v)", name, i, len(data), err)
			}
			_ = resp.Body.Close()
		}
	}
}

// sweptTo waits until so many blobs are left, and no unfinished one.
func (w *world) sweptTo(want int) (left int) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		left = 0
		err := filepath.WalkDir(filepath.Join(w.data, "blobs"), func(name string, d fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil // It was removed just now.
			}
			if err == nil && !d.IsDir() {
				left++
				if strings.Contains(name, "partial") {
					left += want // It must go, too.
				}
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
		if left == want {
			return left
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d blobs are left, want %d; the server's log:\n%s", left, want, w.stderr)
		}
	}
}
