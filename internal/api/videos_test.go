package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/api"
	"ringback.dev/internal/genai"
)

const videoPath = "/v1beta/models/gemini-veo:predictLongRunning"

var (
	operationIDs = regexp.MustCompile(`(operations|files)/[0-9a-z]{26,36}`)
	pngBytes     = "\x89PNG\r\n\x1a\n" + strings.Repeat("x", 20)
	png          = base64.StdEncoding.EncodeToString([]byte(pngBytes))
)

// hidden replaces the ids of a video, which differ from run to run.
func (a answer) hidden() answer {
	a.body = operationIDs.ReplaceAllString(a.body, "$1/ID")
	return a
}

func prompted(prompt string) string { return `{"instances":[{"prompt":"` + prompt + `"}]}` }

// videoJob is the job behind an operation, and the spec that it keeps.
func (s *server) videoJob(name string) (*ringback.Job, *genai.VideoSpec) {
	s.t.Helper()
	j, err := s.store.Job(s.t.Context(), s.project, ringback.ID(name[strings.LastIndexByte(name, '/')+1:]))
	if err != nil {
		s.t.Fatal(err)
	}
	var spec genai.VideoSpec
	if err := json.Unmarshal(j.Spec, &spec); err != nil {
		s.t.Fatal(err)
	}
	return j, &spec
}

func TestVideoLife(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.PublicURL = "https://ringback.example" })
	created := s.do("POST", videoPath, `{"instances":[{"prompt":"a cat"}],"parameters":{"sampleCount":2}}`).ok()
	created.hidden().golden("video_created")
	name := created.field("name")
	if !regexp.MustCompile(`^models/gemini-veo/operations/[a-z0-9]+$`).MatchString(name) {
		t.Errorf("the name is %q", name)
	}
	ended := s.ended(name)
	ended.hidden().golden("video")
	files := regexp.MustCompile(`files/[a-z0-9]+`).FindAllString(ended.body, -1)
	if len(files) != 2 {
		t.Fatalf("the videos: %s", ended.body)
	}
	got := s.do("GET", "/v1beta/"+files[1]+":download?alt=media", "")
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "video/mp4" || !strings.Contains(got.body, "No model ran. gemini-veo was asked") {
		t.Errorf("the video: %d %v, %d bytes", got.status, got.header, len(got.body))
	}
	part := s.send("GET", "/v1beta/"+files[1]+":download?alt=media", http.Header{"X-Goog-Api-Key": {s.key}, "Range": {"bytes=4-7"}}, nil)
	if part.status != http.StatusPartialContent || part.body != "ftyp" {
		t.Errorf("a range: %d %q", part.status, part.body)
	}
	f := s.do("GET", "/v1beta/"+files[0], "").ok()
	if f.field("source") != "GENERATED" || f.field("displayName") != "a cat (1 of 2)" || !strings.Contains(f.body, `"videoMetadata":{"videoDuration":"4s"}`) {
		t.Errorf("the file: %s", f.body)
	}
	id := strings.TrimPrefix(name, "models/gemini-veo/")
	if alias := s.do("GET", "/v1/"+id, "").ok(); alias.body != ended.body {
		t.Errorf("by its alias: %s", alias.body)
	}
	if types := s.events(strings.TrimPrefix(id, "operations/")); len(types) != 1 || types[0] != ringback.VideoGenerated {
		t.Errorf("events %v", types)
	}
	for _, method := range []string{"GET", "DELETE"} {
		s.do(method, "/v1/models/gemini-other/"+id, "").refusedClassic(404, "NOT_FOUND", "operation")
		s.as(s.foreign, method, "/v1/"+name, "").refusedClassic(404, "NOT_FOUND", "operation")
		s.do(method, "/v1/operations/none", "").refusedClassic(404, "NOT_FOUND", "operation")
	}
	s.as(s.foreign, "POST", "/v1/"+name+":cancel", "").refusedClassic(404, "NOT_FOUND", "operation")
	s.do("POST", "/v1/operations/none:cancel", "").refusedClassic(404, "NOT_FOUND", "operation")
	s.do("POST", "/v1/"+name+":cancel", "{}").ok() // Too late, and no error.
	s.do("DELETE", "/v1/"+name, "").ok()
	s.do("GET", "/v1/"+name, "").refusedClassic(404, "NOT_FOUND", "operation")
	s.do("GET", "/v1/"+files[0], "").ok() // The video is the client's.
}

func TestVideoEnds(t *testing.T) {
	s := newServer(t)
	s.ended(s.do("POST", videoPath, prompted("somebody famous")).ok().field("name")).hidden().golden("video_filtered")
	s.ended(s.do("POST", "/v1/models/fail:predictLongRunning", prompted("a cat")).ok().field("name")).hidden().golden("video_failed")
	some := s.ended(s.do("POST", videoPath, `{"instances":[{"prompt":"one of them"}],"parameters":{"sampleCount":3}}`).ok().field("name"))
	var op genai.VideoOperation
	if err := json.Unmarshal([]byte(some.body), &op); err != nil || op.Metadata.State != "SUCCEEDED" || len(op.Response.GenerateVideoResponse.GeneratedSamples) != 2 ||
		op.Response.GenerateVideoResponse.RAIMediaFilteredCount != 1 || op.Response.GenerateVideoResponse.RAIMediaFilteredReasons[0] != "it is too loud" {
		t.Errorf("%v: %s", err, some.body)
	}
	if uri := op.Response.GenerateVideoResponse.GeneratedSamples[0].Video.URI; !strings.HasPrefix(uri, s.url+"/v1beta/files/") {
		t.Errorf("without a public address the video is at %s", uri)
	}

	slow := s.do("POST", videoPath, prompted("take your time")).ok().field("name")
	running := s.do("GET", "/v1/"+slow, "").ok()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(running.body, `"RUNNING"`) && time.Now().Before(deadline); {
		running = s.do("GET", "/v1/"+slow, "").ok()
	}
	running.hidden().golden("video_running")
	s.subscribe("video.failed")
	s.do("POST", "/v1/"+slow+":cancel", "{}").ok()
	s.ended(slow).hidden().golden("video_cancelled")
	s.waitTold()
	deleted := s.do("POST", videoPath, prompted("take your time")).ok().field("name")
	s.do("DELETE", "/v1/"+deleted, "").ok()
	s.do("GET", "/v1/"+deleted, "").refusedClassic(404, "NOT_FOUND", "operation")
}

// TestVideoSpellings: whatever the spelling, the job keeps the same.
func TestVideoSpellings(t *testing.T) {
	s := newServer(t)
	file := s.put(pngBytes, "image/png")
	octets := s.put(pngBytes, "application/octet-stream")
	film := s.put("\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", "")
	image := &genai.Blob{MimeType: "image/png", Data: png}
	yes, seed := true, int64(-5)
	for body, want := range map[string]genai.VideoSpec{
		`{"instances":[{"prompt":"a cat","image":{"bytesBase64Encoded":"` + png + `","mimeType":"image/png"},"lastFrame":{"bytesBase64Encoded":"` + png + `","mimeType":"image/png"},
			"referenceImages":[{"image":{"bytesBase64Encoded":"` + png + `","mimeType":"image/png"},"referenceType":"ASSET"}]}],
			"parameters":{"sampleCount":1,"durationSeconds":8,"aspectRatio":"16:9","resolution":"720p","personGeneration":"allow_all","negativePrompt":"dog","enhancePrompt":true,"seed":-5},
			"unknown":{"a":[1]}}`: {Prompt: "a cat", Image: image, LastFrame: image, References: []genai.VideoReference{{Image: image, Type: "ASSET"}}, Count: 1, DurationSeconds: 8,
			AspectRatio: "16:9", Resolution: "720p", PersonGeneration: "allow_all", NegativePrompt: "dog", EnhancePrompt: &yes, Seed: &seed},
		`{"instances":[{"prompt":"p","image":{"inlineData":{"mimeType":"image/png","data":"` + png + `"}},"last_frame":{"inline_data":{"mime_type":"image/png","data":"` + png + `"}}}],
			"parameters":{"number_of_videos":"4","duration_seconds":"6","aspect_ratio":"9:16","enhance_prompt":true,"seed":"-5"}}`: {Prompt: "p", Image: image, LastFrame: image, Count: 4,
			DurationSeconds: 6, AspectRatio: "9:16", EnhancePrompt: &yes, Seed: &seed},
		`{"instances":[{"image":{"uri":"` + s.url + "/v1beta/" + file + `"},"lastFrame":{"uri":"` + octets + `"}}]}`:                            {Image: image, LastFrame: image, Count: 1},
		`{"instances":[{"image":{"fileData":{"fileUri":"https://elsewhere.example/p/v1/` + file + `:download?alt=media"}}}],"parameters":null}`: {Image: image, Count: 1},
		`{"instances":[{"image":{"imageBytes":"` + strings.TrimRight(png, "=") + `"}}],"parameters":{"sampleCount":null}}`:                      {Image: image, Count: 1},
		`{"instances":[{"video":{"encodedVideo":"AAAA","encoding":"video/mp4"}}]}`:                                                              {Video: &genai.Blob{MimeType: "video/mp4", Data: "AAAA"}, Count: 1},
		`{"instances":[{"video":{"uri":"` + film + `"}}]}`: {Count: 1, Video: &genai.Blob{MimeType: "video/mp4",
			Data: base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41"))}},
	} {
		_, got := s.videoJob(s.do("POST", videoPath, body).ok().field("name"))
		if d := cmp.Diff(&want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", body, d)
		}
	}
	// What was in a file is in the job, so that the file may go.
	name := s.do("POST", videoPath, `{"instances":[{"prompt":"a cat","image":{"uri":"`+file+`"}}]}`).ok().field("name")
	s.do("DELETE", "/v1/"+file, "").ok()
	if ended := s.ended(name); !strings.Contains(ended.body, "generatedSamples") {
		t.Errorf("it ended %s", ended.body)
	}
}

func TestVideoRefusals(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.MaxBody = 2000 })
	large := s.put(strings.Repeat("x", 1500), "image/png")
	text := s.put("hello", "text/plain")
	for body, hint := range map[string]string{
		"":   "empty",
		`{}`: "instances: one is required, 0 were given",
		`{"instances":[{"prompt":"a"},{"prompt":"b"}]}`:                                                   "instances: one is required, 2",
		`{"instances":[{"prompt":" "}]}`:                                                                  "instances[0].prompt",
		`{"instances":[{"prompt":7}]}`:                                                                    "instances[0].prompt: expected a string",
		`{"instances":[{"image":{}}]}`:                                                                    "instances[0].image: it has no data",
		`{"instances":[{"image":{"bytesBase64Encoded":"!"}}]}`:                                            "instances[0].image: the data is not base64",
		`{"instances":[{"image":{"gcsUri":"gs://b/o.png"}}]}`:                                             "instances[0].image: a gs:// address",
		`{"instances":[{"video":{"uri":"gs://b/o.mp4"}}]}`:                                                "instances[0].video: a gs:// address",
		`{"instances":[{"video":{"uri":"https://e.com/o"}}]}`:                                             "instances[0].video: the address is none of a file of this server",
		`{"instances":[{"image":{"uri":"` + text + `"}}]}`:                                                "instances[0].image: expected image/…, got text/plain",
		`{"instances":[{"prompt":"a","lastFrame":{"bytesBase64Encoded":"AAAA","mimeType":"video/mp4"}}]}`: "instances[0].lastFrame: expected image/…, got video/mp4",
		`{"instances":[{"prompt":"a","referenceImages":[{"image":{"bytesBase64Encoded":"` + png + `"}},{"referenceType":"ASSET"}]}]}`: "instances[0].referenceImages[1].image: it is required",
		`{"instances":[{"prompt":"a"}],"parameters":{"sampleCount":0}}`:                                                               "parameters.sampleCount: 0 is not between 1 and 4",
		`{"instances":[{"prompt":"a"}],"parameters":{"numberOfVideos":5}}`:                                                            "parameters.numberOfVideos: 5 is not between",
		`{"instances":[{"prompt":"a"}],"parameters":{"durationSeconds":"long"}}`:                                                      `parameters.durationSeconds: expected a whole number, got "long"`,
		`{"instances":[{"prompt":"a"}],"parameters":{"durationSeconds":4.5}}`:                                                         "parameters.durationSeconds: expected a whole number, got 4.5",
		`{"instances":[{"prompt":"a"}],"parameters":{"durationSeconds":-1}}`:                                                          "parameters.durationSeconds",
		`{"instances":[{"prompt":"a"}],"parameters":{"seed":[1]}}`:                                                                    "parameters.seed",
		`{"instances":[{"prompt":"a"}],"parameters":{"enhancePrompt":"yes"}}`:                                                         "parameters.enhancePrompt: expected true or false",
		`{"instances":[{"prompt":"a"}],"webhookConfig":{"uris":["http://e.com"]}}`:                                                    "webhookConfig.uris[0]",
		`{"instances":[{"prompt":"a"}],"webhook_config":{"user_metadata":[]}}`:                                                        "webhookConfig.user_metadata",
	} {
		s.do("POST", videoPath, body).refusedClassic(400, "INVALID_ARGUMENT", hint)
	}
	s.do("POST", videoPath, `{"instances":[{"image":{"uri":"`+large+`"},"lastFrame":{"uri":"`+large+`"}}]}`).refusedClassic(413, "INVALID_ARGUMENT", "instances[0].lastFrame: the images and videos of a request may have 2000 bytes together (the server's --max-request-bytes)")
	s.do("POST", videoPath, `{"instances":[{"image":{"uri":"files/none"}}]}`).refusedClassic(404, "NOT_FOUND", `instances[0].image: there is no file "none"`)
	s.do("POST", "/v1/models/none:predictLongRunning", prompted("a")).refusedClassic(404, "NOT_FOUND", "none")
	s.do("POST", "/v1/models/slow:predictLongRunning", prompted("a")).refusedClassic(400, "INVALID_ARGUMENT", `the back-end of model "slow" makes no videos`)
	if got := s.do("GET", "/v1/operations", "").ok(); got.body != `{"operations":[]}` {
		t.Errorf("something was stored: %s", got.body)
	}
	// Other kinds of jobs are no operations, and the other way round.
	job := s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"hi"}`).ok().field("id")
	s.do("GET", "/v1/operations/"+job, "").refusedClassic(404, "NOT_FOUND", "operation")
	id := strings.TrimPrefix(s.do("POST", videoPath, prompted("a cat")).ok().field("name"), "models/gemini-veo/operations/")
	s.do("GET", "/v1/batches/"+id, "").refusedClassic(404, "NOT_FOUND", "batch")
	s.do("POST", "/v1/interactions/"+id+"/cancel", "").refused(404, "not_found", "interaction")
}

func TestVideoWebhooksAndKeys(t *testing.T) {
	s := newServer(t)
	body := `{"instances":[{"prompt":"a cat"}],"webhook_config":{"uris":["https://example.com/dyn"],"userMetadata":{"a":1}}}`
	create := func(body string) answer {
		return s.upload("POST", videoPath, strings.NewReader(body), "X-Goog-Api-Key", s.key, "Idempotency-Key", "film")
	}
	name := create(body).ok().field("name")
	s.ended(name)
	s.waitTold()
	j, _ := s.videoJob(name)
	if j.Webhooks == nil || j.Webhooks.URIs[0] != "https://example.com/dyn" || string(j.Webhooks.UserMetadata) != `{"a":1}` {
		t.Errorf("webhooks %+v", j.Webhooks)
	}
	if again := create(body).ok(); again.field("name") != name || !strings.Contains(again.body, "generatedSamples") {
		t.Errorf("repeated: %s", again.body)
	}
	create(prompted("another")).refusedClassic(400, "INVALID_ARGUMENT", "Idempotency-Key")
}

func TestVideoPages(t *testing.T) {
	s := newServer(t)
	var want, got []string
	for i := range 5 {
		want = append([]string{s.do("POST", videoPath, prompted(fmt.Sprint("cat ", i))).ok().field("name")}, want...)
	}
	s.do("POST", "/v1/models/gemini-x:batchGenerateContent", inlineBatch(oneRow)).ok()
	for token := ""; ; {
		var page struct {
			Operations    []genai.VideoOperation
			NextPageToken string
		}
		if err := json.Unmarshal([]byte(s.do("GET", "/v1/operations?pageSize=2&pageToken="+token, "").ok().body), &page); err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Operations {
			got = append(got, o.Name)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("listed (-want +got):\n%s", d)
	}
}

// FuzzGenerateVideos: any body is answered with an operation or with an error of the
// client's.
func FuzzGenerateVideos(f *testing.F) {
	h := target(f)
	for _, body := range []string{prompted("a cat"), `{"instances":[{"prompt":"a","image":{"bytesBase64Encoded":"aGk=","mimeType":"image/png"},"last_frame":{"uri":"files/x"}}],
		"parameters":{"sampleCount":"2","duration_seconds":8,"seed":-1,"enhancePrompt":null},"webhook_config":{"uris":["https://e.com/dyn"],"user_metadata":{"a":1}}}`,
		`{"instances":[{"video":{"inlineData":{"data":"_-8","mime_type":"video/mp4"}},"reference_images":[{"image":{"gcs_uri":"gs://x"}}]}]}`,
		`{"instances":null,"parameters":[]}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest("POST", "/v1/models/gemini-x:predictLongRunning", bytes.NewReader(body))
		r.Header.Set("X-Goog-Api-Key", "any")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%q: answered %d %s", body, w.Code, w.Body)
		}
	})
}
