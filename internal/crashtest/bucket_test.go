package crashtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringback.dev/internal/crash"
	"ringback.dev/internal/s3test"
)

// bucketConfig is the section of a bucket "kept", and what its key's variables hold.
func bucketConfig(s *s3test.Server) (text string, env []string) {
	return `
buckets: {kept: {url: "` + s.URL + `", bucket: results, access_key_id_env: S3_ID, secret_access_key_env: S3_SECRET}}
`, []string{"S3_ID=" + s3test.AccessKeyID, "S3_SECRET=" + s3test.SecretAccessKey}
}

// checkObject compares an object, and the checksum beside it, with what it must have.
func checkObject(t *testing.T, s *s3test.Server, key string, want []byte) {
	t.Helper()
	file := filepath.Join(s.Dir, "results", key)
	got, err := os.ReadFile(file)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s has %d bytes, want %d, %v", key, len(got), len(want), err)
	}
	sum := sha256.Sum256(want)
	line, err := os.ReadFile(file + ".sha256")
	if err != nil || string(line) != hex.EncodeToString(sum[:])+"  "+filepath.Base(key)+"\n" {
		t.Errorf("the checksum of %s is %q, %v", key, line, err)
	}
}

// TestKillWhileUploading kills an edge while it sends a result to a bucket in parts.
// Until an upload is completed there is no object; then there is all of it.
func TestKillWhileUploading(t *testing.T) {
	store := s3test.Start(t, "results")
	result := []byte(strings.Repeat("0123456789abcdef", 20<<20/16)) // Three parts.
	from := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(result) }))
	defer from.Close()
	text, env := bucketConfig(store)
	e := newEdge(t, build(t), text+`
sources: {s: {path: /s, secret_env: EDGE_SECRET}}
routes: [{name: r, actions: [{name: keep, fetch: {bucket: kept, file: "{{ id }}.out"}}]}]
`, env...)
	steps := []string{string(crash.EdgePartSent) + ":1", string(crash.EdgePartSent) + ":2", string(crash.EdgePartSent) + ":3", string(crash.EdgeSumSent) + ":1", string(crash.EdgeActed) + ":1"}
	for i, armed := range steps {
		e.start(armed)
		if !e.post(fmt.Sprint("msg_", i), `{"type":"batch.succeeded","data":{"id":"x","output_file_uri":"`+from.URL+`/"}}`) {
			t.Fatal("the message was not accepted")
		}
		step, _, _ := strings.Cut(armed, ":")
		e.killedAt(crash.Step(step))
		_, err := os.Stat(filepath.Join(store.Dir, "results", fmt.Sprintf("msg_%d.out", i)))
		if there := err == nil; there != (step == string(crash.EdgeActed)) {
			t.Errorf("%s: the object is there: %v", armed, there)
		}
	}
	e.start("")
	for e.pending("r/keep") > 0 {
		e.stderr.waitFor("action=r/keep")
	}
	for i := range steps {
		checkObject(t, store, fmt.Sprintf("msg_%d.out", i), result)
	}
	e.kill()
	fmt.Printf("crash: %d kills of an edge that sent results to a bucket in parts, %d objects, whole\n", len(steps), len(steps))
}

// TestVideoToBucket goes the whole way: a video is made, its event is signed and
// delivered, and the edge takes the video from the server to the bucket. Both are
// killed meanwhile.
func TestVideoToBucket(t *testing.T) {
	store := s3test.Start(t, "results")
	binary := build(t)
	address := freeAddress(t)
	w := newWorld(t, binary, "--emulator", "--listen="+address, "--retry-schedule=1s", "--public-url=http://"+address)
	text, env := bucketConfig(store)
	e := newEdge(t, binary, text+`
servers: {ringback: {url: "http://`+address+`", api_key_env: EDGE_KEY}}
sources:
  ringback: {path: /hooks/ringback, jwks: "http://`+address+`/.well-known/jwks.json", audience: "@edge/hooks/ringback"}
routes:
  - name: videos
    type: video.generated
    actions: [{name: keep, fetch: {server: ringback, bucket: kept, file: "videos/{{ metadata.name }}.mp4"}}]
`, append(env, "EDGE_KEY="+w.key)...)
	e.start(string(crash.EdgeBegun) + ":1")
	w.start(string(crash.EndCommitted) + ":1")
	body := `{"instances":[{"prompt":"a cat"}],"webhookConfig":{"uris":["http://` + e.address + `/hooks/ringback"],"userMetadata":{"name":"a/b"}}}`
	w.once("/v1beta/models/m:predictLongRunning", body, "key") // It may die before it answers.
	w.killedAt(crash.EndCommitted)
	w.start("")
	e.killedAt(crash.EdgeBegun)
	e.start("")
	for e.pending("videos/keep") > 0 {
		e.stderr.waitFor("action=videos/keep")
	}
	var list struct {
		Operations []struct {
			Response struct {
				GenerateVideoResponse struct {
					GeneratedSamples []struct{ Video struct{ URI string } }
				}
			}
		}
	}
	if err := w.get("/v1beta/operations", &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Operations) != 1 || len(list.Operations[0].Response.GenerateVideoResponse.GeneratedSamples) != 1 {
		t.Fatalf("got %+v", list)
	}
	_, path, _ := strings.Cut(list.Operations[0].Response.GenerateVideoResponse.GeneratedSamples[0].Video.URI, "/v1beta/")
	resp, err := w.do(http.MethodGet, "/v1beta/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	video, err := io.ReadAll(resp.Body)
	if err != nil || len(video) < 1000 {
		t.Fatalf("%d bytes, %v", len(video), err)
	}
	checkObject(t, store, "videos/a_b.mp4", video)
	e.kill()
	w.stop()
	fmt.Printf("crash: a video of %d bytes, from its job to a bucket, server and edge killed on the way\n", len(video))
}
