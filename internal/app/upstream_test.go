package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/backend/backendtest"
	"ringback.dev/internal/backend/gemini"
	"ringback.dev/internal/store"
)

// These tests put one server before another: to the first one, the second, with its
// emulator, is the Gemini API.

const keyVariable = "RINGBACK_TEST_UPSTREAM_KEY"

// provider starts the second server. scenario is its emulator's.
func provider(t *testing.T, scenario string, change func(*Config)) *server {
	t.Helper()
	c := config(t, t.TempDir())
	c.AllowHTTPCallbacks, c.AllowPrivateCallbacks = true, true
	if scenario != "" {
		c.Scenario = filepath.Join(t.TempDir(), "scenario.yaml")
		if err := os.WriteFile(c.Scenario, []byte(scenario), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&c)
	}
	s := start(t, c)
	t.Setenv(keyVariable, s.FirstKey)
	return s
}

// before is a server whose models are all at an address.
func before(t *testing.T, url string) Config {
	t.Helper()
	c := config(t, t.TempDir())
	c.Emulator = false
	c.Backends = map[string]BackendConfig{"up": {Type: "gemini", URL: url, APIKeyEnv: keyVariable}}
	c.Models = []ModelRoute{{Match: "*", Backend: "up"}}
	return c
}

// reachable gives a server an address that is known before it starts.
func reachable(t *testing.T, c Config) Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Listen = l.Addr().String()
	c.PublicURL = "http://" + c.Listen
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return c
}

// ok makes a request with the first key, which must succeed.
func (s *server) ok(method, path, body string, into any) {
	s.t.Helper()
	status, text := s.call(method, path, s.FirstKey, body)
	if status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			s.t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
}

// upload stores a file and returns its name.
func (s *server) upload(text string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "POST", s.URL()+"/upload/v1beta/files", strings.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Goog-Api-Key", s.FirstKey)
	req.Header.Set("X-Goog-Upload-Protocol", "raw")
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct{ File struct{ Name string } }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.File.Name == "" {
		s.t.Fatalf("upload: %s, %v", resp.Status, err)
	}
	return out.File.Name
}

// op is a batch as it is shown.
type op struct {
	Name     string
	Done     bool
	Error    *struct{ Message string }
	Metadata struct {
		DisplayName string
		State       string
		BatchStats  struct {
			RequestCount           int `json:",string"`
			SuccessfulRequestCount int `json:",string"`
			FailedRequestCount     int `json:",string"`
			PendingRequestCount    int `json:",string"`
		}
		Output struct {
			ResponsesFile    string
			InlinedResponses struct{ InlinedResponses []json.RawMessage }
		}
	}
}

func (s *server) batch(name string) *op {
	s.t.Helper()
	o := new(op)
	s.ok("GET", "/v1beta/"+name, "", o)
	return o
}

// runFile runs a batch of the lines of a file.
func (s *server) runFile(lines string) string {
	s.t.Helper()
	var o op
	s.ok("POST", "/v1beta/models/m:batchGenerateContent", fmt.Sprintf(`{"batch":{"displayName":"d","inputConfig":{"fileName":%q}}}`, s.upload(lines)), &o)
	return o.Name
}

// batchEnd waits for the end of a batch.
func (s *server) batchEnd(name string) *op {
	s.t.Helper()
	var o *op
	until(s.t, name+" ends", func() bool {
		o = s.batch(name)
		return o.Done
	})
	return o
}

// results are the lines of a batch's output.
func (s *server) results(o *op) []string {
	s.t.Helper()
	status, text := s.call("GET", "/v1beta/"+o.Metadata.Output.ResponsesFile+":download?alt=media", s.FirstKey, "")
	if status != http.StatusOK {
		s.t.Fatalf("results of %s: %d %s", o.Name, status, text)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// created counts the batches that were ever created on a server: deleting one leaves
// its events.
func (s *server) created() int {
	s.t.Helper()
	events, err := s.Store().EventsAfter(s.t.Context(), s.Project(), store.EventFilter{Types: []ringback.EventType{
		ringback.BatchSucceeded, ringback.BatchFailed, ringback.BatchCancelled, ringback.BatchExpired}}, 0, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	open, _, err := s.Store().ListJobs(s.t.Context(), s.Project(), store.JobFilter{Kind: ringback.KindBatch, State: ringback.Running}, 0, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	return len(events) + len(open)
}

// empty waits until nothing is left on a server of what was handed to it.
func (s *server) empty() {
	s.t.Helper()
	until(s.t, "the provider has nothing left", func() bool {
		var files struct{ Files []json.RawMessage }
		var batches struct{ Operations []json.RawMessage }
		s.ok("GET", "/v1beta/files", "", &files)
		s.ok("GET", "/v1beta/batches", "", &batches)
		return len(files.Files)+len(batches.Operations) == 0
	})
}

func rows(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"key":"k%d","request":{"contents":[{"parts":[{"text":"row %d."}]}]}}`+"\n", i, i)
	}
	return b.String()
}

// checkRows wants each row once, in the order of the input, with an answer to its
// own prompt.
func checkRows(t *testing.T, lines []string, n int) {
	t.Helper()
	if len(lines) != n {
		t.Fatalf("%d lines of %d rows", len(lines), n)
	}
	for i, line := range lines {
		if !strings.HasSuffix(line, fmt.Sprintf(`"key":"k%d"}`, i)) || !strings.Contains(line, fmt.Sprintf("row %d.", i)) {
			t.Fatalf("line %d is %s", i, line)
		}
	}
}

func TestGeminiSuite(t *testing.T) {
	up := provider(t, `rules:
  - match: {model: call}
    function_call: {name: get_weather, args: {city: Paris}}
  - match: {model: fail}
    error: {kind: unavailable}
  - match: {model: hang}
    delay: 1h
`, nil)
	b, err := gemini.New(gemini.Config{URL: up.URL(), APIKey: up.FirstKey, MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Run(t, b)
}

// TestBehindTwoServers calls the first server and gets what the second one says.
func TestBehindTwoServers(t *testing.T) {
	up := provider(t, "", nil)
	s := start(t, before(t, up.URL()))
	const hello = `{"contents":[{"parts":[{"text":"hello there"}]}]}`
	for _, path := range []string{"models/m:generateContent", "models/m:countTokens", "models/m:streamGenerateContent?alt=sse"} {
		_, direct := up.call("POST", "/v1beta/"+path, up.FirstKey, hello)
		status, got := s.call("POST", "/v1beta/"+path, s.FirstKey, hello)
		if d := cmp.Diff(string(direct), string(got)); d != "" || status != http.StatusOK {
			t.Errorf("%s: %d (-direct +through):\n%s", path, status, d)
		}
	}
	const embed = `{"requests":[{"content":{"parts":[{"text":"a b"}]},"taskType":"RETRIEVAL_QUERY","outputDimensionality":5},{"content":{"parts":[{"text":"c"}]}}]}`
	_, direct := up.call("POST", "/v1beta/models/e:batchEmbedContents", up.FirstKey, embed)
	if status, got := s.call("POST", "/v1beta/models/e:batchEmbedContents", s.FirstKey, embed); status != http.StatusOK || !bytes.Equal(direct, got) {
		t.Errorf("embeddings: %d %s, not %s", status, got, direct)
	}
	_, direct = up.call("GET", "/v1beta/models", up.FirstKey, "")
	if status, got := s.call("GET", "/v1beta/models", s.FirstKey, ""); status != http.StatusOK || !bytes.Equal(direct, got) {
		t.Errorf("models: %d %s, not %s", status, got, direct)
	}
	if status, got := s.call("POST", "/v1beta/models/m:generateContent", s.FirstKey, `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"responseSchema":1}}`); status != http.StatusBadRequest {
		t.Errorf("what the provider refuses: %d %s", status, got)
	}
}

// TestUnknownFieldsPass: what neither server knows reaches the provider and comes
// back, in answers, streams and rows.
func TestUnknownFieldsPass(t *testing.T) {
	const request = `{"contents":[{"parts":[{"text":"hi","partThing":1}]}],"generationConfig":{"speechConfig":{"languageCode":"de"}},"topThing":{"a_b":[1]}}`
	const answer = `{"candidates":[{"content":{"role":"model","parts":[{"text":"ho","newThing":"<x>"}]},"finishReason":"STOP","index":0,"groundingMetadata":{"webSearchQueries":["q"]}}],"modelVersion":"m","modelStatus":{"stage":"STABLE"}}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if d := cmp.Diff(request+"\n", string(body)); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", r.URL, err, d)
		}
		if strings.Contains(r.URL.Path, "stream") {
			fmt.Fprintf(w, "data: %s\r\n\r\n", answer)
			return
		}
		fmt.Fprint(w, answer)
	}))
	defer srv.Close()
	t.Setenv(keyVariable, "k")
	c := before(t, srv.URL)
	c.Backends["up"] = BackendConfig{Type: "gemini", URL: srv.URL, APIKeyEnv: keyVariable, Batches: "rows"}
	s := start(t, c)
	if _, got := s.call("POST", "/v1beta/models/m:generateContent", s.FirstKey, request); string(got) != answer {
		t.Errorf("the answer: %s", got)
	}
	if _, got := s.call("POST", "/v1beta/models/m:streamGenerateContent?alt=sse", s.FirstKey, request); string(got) != "data: "+strings.NewReplacer("<", `\u003c`, ">", `\u003e`).Replace(answer)+"\r\n\r\n" {
		t.Errorf("the stream: %s", got)
	}
	o := s.batchEnd(s.runFile(`{"key":"a","request":` + request + "}\n"))
	if got := s.results(o); !slices.Equal(got, []string{`{"response":` + answer + `,"key":"a"}`}) {
		t.Errorf("the row: %s", got)
	}
}

// TestHandedOver hands batches of 1000 rows over. With a public URL the provider
// calls; without, it is asked.
func TestHandedOver(t *testing.T) {
	for name, public := range map[string]bool{"by webhook": true, "by polling": false} {
		t.Run(name, func(t *testing.T) {
			up := provider(t, "", nil)
			c := before(t, up.URL())
			if public {
				c = reachable(t, c)
			}
			s := start(t, c)
			begin := time.Now()
			o := s.batchEnd(s.runFile(rows(1000)))
			took := time.Since(begin)
			if o.Metadata.State != "BATCH_STATE_SUCCEEDED" || o.Metadata.BatchStats.SuccessfulRequestCount != 1000 || o.Metadata.DisplayName != "d" {
				t.Errorf("it ended as %+v", o)
			}
			checkRows(t, s.results(o), 1000)
			if n := up.created(); n != 1 {
				t.Errorf("the provider has had %d batches", n)
			}
			if called := len(deliveries(t, up)) > 0; called != public || public && took > 4*time.Second {
				t.Errorf("the provider called: %v; it took %s", called, took)
			}
			up.empty()
			if n := s.kept(); n != 2 { // The input and the output.
				if err := s.sweepFiles(t.Context(), time.Now()); err != nil || s.kept() != 2 {
					t.Errorf("%d blobs are left, %v", s.kept(), err)
				}
			}
		})
	}
}

// deliveries are the callbacks of a server.
func deliveries(t *testing.T, s *server) []ringback.Delivery {
	t.Helper()
	all, err := s.Store().ListDeliveries(t.Context(), s.Project(), store.DeliveryFilter{}, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestHandedOverRows: bad lines are not sent, rows that fail there have failed here,
// and keys come back as they were.
func TestHandedOverRows(t *testing.T) {
	up := provider(t, `rules:
  - match: {prompt: poison}
    error: {kind: invalid_request, message: "no such thing"}
`, nil)
	s := start(t, before(t, up.URL()))
	line := func(key, prompt string) string {
		return fmt.Sprintf(`{"key":%s,"request":{"contents":[{"parts":[{"text":%q}]}]},"metadata":{"m":"x"}}`+"\n", key, prompt)
	}
	o := s.batchEnd(s.runFile("\xef\xbb\xbf" + line(`"a"`, "row 0.") + "\r\n" + "no json\n" + line(`{"x":[1]}`, "poison") + `{"key":"e"}` + "\n" + line(`17`, "row 4.")))
	if s := o.Metadata.BatchStats; s.RequestCount != 5 || s.SuccessfulRequestCount != 2 || s.FailedRequestCount != 3 || o.Metadata.State != "BATCH_STATE_SUCCEEDED" {
		t.Errorf("it ended as %+v", o)
	}
	got := s.results(o)
	for i, want := range []string{`"key":"a","metadata":{"m":"x"}}`, `{"error":{"code":3,"message":"line 3: malformed JSON`, `{"error":{"code":3,"message":"no such thing"},"key":{"x":[1]},"metadata":{"m":"x"}}`,
		`{"error":{"code":3,"message":"line 5: request: it is required"},"key":"e"}`, `"key":17,"metadata":{"m":"x"}}`} {
		if len(got) != 5 || !strings.Contains(got[i], want) {
			t.Errorf("row %d: %s", i, got[i])
		}
	}
	if o := s.batchEnd(s.runFile("no json\n")); o.Metadata.State != "BATCH_STATE_FAILED" || up.created() != 1 {
		t.Errorf("without a good line: %+v, the provider has had %d batches", o, up.created())
	}
	// Within the request, and embeddings.
	var inline op
	s.ok("POST", "/v1beta/models/m:batchGenerateContent", `{"batch":{"inputConfig":{"requests":{"requests":[{"request":{"contents":[{"parts":[{"text":"row 0."}]}]},"metadata":{"key":"k0"}}]}}}}`, &inline)
	o = s.batchEnd(inline.Name)
	if r := o.Metadata.Output.InlinedResponses.InlinedResponses; len(r) != 1 || !strings.Contains(string(r[0]), `row 0.`) || !strings.HasSuffix(string(r[0]), `"metadata":{"key":"k0"}}`) {
		t.Errorf("within the request: %s", r)
	}
	file := s.upload(`{"key":"v","request":{"content":{"parts":[{"text":"a b"}]},"output_dimensionality":2}}` + "\n")
	s.ok("POST", "/v1beta/models/e:asyncBatchEmbedContent", fmt.Sprintf(`{"batch":{"inputConfig":{"file_name":%q}}}`, file), &inline)
	if got := s.results(s.batchEnd(inline.Name)); len(got) != 1 || !strings.HasPrefix(got[0], `{"response":{"tokenCount":"1","embedding":{"values":[`) || !strings.HasSuffix(got[0], `"key":"v"}`) {
		t.Errorf("an embedding: %s", got)
	}
	up.empty()
}

// slow is a scenario in which some rows take long.
const slow = `rules:
  - match: {prompt: slow}
    delay: 1h
`

// half is a batch of which ten rows are done at once and ten never.
func half() string {
	var b strings.Builder
	for i := range 20 {
		prompt := fmt.Sprintf("row %d.", i)
		if i%2 == 1 {
			prompt += " slow"
		}
		fmt.Fprintf(&b, `{"key":"k%d","request":{"contents":[{"parts":[{"text":%q}]}]}}`+"\n", i, prompt)
	}
	return b.String()
}

// underWay waits until half of a batch is done, as the first server tells it.
func (s *server) underWay(name string) {
	s.t.Helper()
	until(s.t, "half of the rows are done", func() bool {
		o := s.batch(name)
		if o.Done {
			s.t.Fatalf("it ended as %+v", o)
		}
		return o.Metadata.State == "BATCH_STATE_RUNNING" && o.Metadata.BatchStats.SuccessfulRequestCount == 10 && o.Metadata.BatchStats.PendingRequestCount == 10
	})
}

// TestCancelThere: the provider is told, and what it has finished is kept.
func TestCancelThere(t *testing.T) {
	up := provider(t, slow, nil)
	s := start(t, before(t, up.URL()))
	name := s.runFile(half())
	s.underWay(name)
	s.ok("POST", "/v1beta/"+name+":cancel", "", nil)
	o := s.batchEnd(name)
	if n := o.Metadata.BatchStats; o.Metadata.State != "BATCH_STATE_CANCELLED" || n.SuccessfulRequestCount+n.FailedRequestCount+n.PendingRequestCount != 20 || n.SuccessfulRequestCount != 10 {
		t.Errorf("it ended as %+v", o)
	}
	for i, line := range s.results(o) {
		if done := strings.Contains(line, `"response"`); done != (i%2 == 0) || !done && !strings.Contains(line, `{"error":{"code":1,"message":"the row was not run: the batch was cancelled"}`) {
			t.Errorf("row %d: %s", i, line)
		}
	}
	up.empty()
	if up.created() != 1 {
		t.Errorf("the provider has had %d batches", up.created())
	}
}

// TestDeleteThere: a batch that is deleted is not paid for any longer.
func TestDeleteThere(t *testing.T) {
	up := provider(t, slow, nil)
	s := start(t, before(t, up.URL()))
	name := s.runFile(half())
	s.underWay(name)
	s.ok("DELETE", "/v1beta/"+name, "", nil)
	up.empty()
}

// TestRestarts: both servers are started again in the middle of a batch.
func TestRestarts(t *testing.T) {
	up := provider(t, strings.Replace(slow, "1h", "3s", 1), nil)
	there := up.config
	there.Listen = up.Addr()
	key := up.FirstKey
	c := before(t, up.URL())
	s := start(t, c)
	ours := s.FirstKey
	name := s.runFile(half())
	s.underWay(name)
	s.stop()
	s = start(t, c)
	s.FirstKey = ours
	up.stop()
	up = start(t, there)
	up.FirstKey = key
	o := s.batchEnd(name)
	if o.Metadata.State != "BATCH_STATE_SUCCEEDED" {
		t.Errorf("it ended as %+v", o)
	}
	checkRows(t, s.results(o), 20)
	if n := up.created(); n != 1 {
		t.Errorf("the provider has had %d batches", n)
	}
	up.empty()
}

// TestRefusedThere: a batch that the provider refuses fails, with its reason.
func TestRefusedThere(t *testing.T) {
	up := provider(t, "", func(c *Config) {
		c.Emulator, c.Backends = false, map[string]BackendConfig{"e": {Type: "emulator"}}
		c.Models = []ModelRoute{{Match: "other", Backend: "e"}}
	})
	s := start(t, before(t, up.URL()))
	o := s.batchEnd(s.runFile(rows(3)))
	if o.Metadata.State != "BATCH_STATE_FAILED" || o.Error == nil || !strings.Contains(o.Error.Message, `model "m" is not configured`) {
		t.Errorf("it ended as %+v, %+v", o, o.Error)
	}
	up.empty()
}

// TestWebhookRefusedThere: a provider that does not want to call is asked.
func TestWebhookRefusedThere(t *testing.T) {
	up := provider(t, "", func(c *Config) { c.AllowHTTPCallbacks, c.AllowPrivateCallbacks = false, false })
	s := start(t, reachable(t, before(t, up.URL())))
	o := s.batchEnd(s.runFile(rows(3)))
	if o.Metadata.State != "BATCH_STATE_SUCCEEDED" {
		t.Errorf("it ended as %+v, %+v", o, o.Error)
	}
}

// TestHook: whatever calls at the addresses that providers are given, the answer is
// the same; what is no such call is refused.
func TestHook(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	for _, x := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/ringback/v1/upstream/x/y", `{"type":"batch.succeeded"}`, 200}, {"POST", "/ringback/v1/upstream/x/y", "", 200},
		{"GET", "/ringback/v1/upstream/x/y", "", 405}, {"POST", "/ringback/v1/upstream/x", "", 404}, {"POST", "/ringback/v1/upstream/x/y/z", "", 404},
		{"POST", "/ringback/v1/upstream/x/y", strings.Repeat("x", 100_000), 413},
	} {
		if status, body := s.call(x.method, x.path, "", x.body); status != x.status {
			t.Errorf("%s %s: %d %s", x.method, x.path, status, body)
		}
	}
}

// TestUpstreamVideos has the second server make videos: the bytes are those that it
// gave, what it holds back is told, and so is its failure.
func TestUpstreamVideos(t *testing.T) {
	up := provider(t, "rules:\n- {match: {prompt: gore}, filtered: {reasons: [violence]}}\n- {match: {prompt: broken}, error: {kind: invalid_request, message: no such thing}}\n", nil)
	s := start(t, before(t, up.URL()))
	type operation struct {
		Name     string
		Done     bool
		Error    *struct{ Message string }
		Response struct {
			GenerateVideoResponse struct {
				GeneratedSamples        []struct{ Video struct{ URI string } }
				RaiMediaFilteredReasons []string
			}
		}
	}
	made := func(on *server, body string) *operation {
		t.Helper()
		var o operation
		on.ok("POST", "/v1beta/models/v:predictLongRunning", body, &o)
		until(t, o.Name+" ends", func() bool {
			on.ok("GET", "/v1beta/"+o.Name, "", &o)
			return o.Done
		})
		return &o
	}
	bytesOf := func(on *server, o *operation, i int) string {
		t.Helper()
		path, ok := strings.CutPrefix(o.Response.GenerateVideoResponse.GeneratedSamples[i].Video.URI, on.URL())
		status, data := on.call("GET", path, on.FirstKey, "")
		if !ok || status != http.StatusOK {
			t.Fatalf("%s: %d", path, status)
		}
		return string(data)
	}
	const two = `{"instances":[{"prompt":"a cat"}],"parameters":{"sampleCount":2,"aspectRatio":"9:16"}}`
	direct, through := made(up, two), made(s, two)
	if n := len(through.Response.GenerateVideoResponse.GeneratedSamples); n != 2 || len(direct.Response.GenerateVideoResponse.GeneratedSamples) != 2 {
		t.Fatalf("%d videos came through: %+v", n, through)
	}
	for i := range 2 {
		if bytesOf(up, direct, i) != bytesOf(s, through, i) {
			t.Errorf("video %d has other bytes", i)
		}
	}
	if o := made(s, `{"instances":[{"prompt":"gore"}]}`); o.Error != nil || !slices.Equal(o.Response.GenerateVideoResponse.RaiMediaFilteredReasons, []string{"violence"}) {
		t.Errorf("held back: %+v", o)
	}
	if o := made(s, `{"instances":[{"prompt":"broken"}]}`); o.Error == nil || !strings.Contains(o.Error.Message, "no such thing") {
		t.Errorf("failed: %+v", o)
	}
}
