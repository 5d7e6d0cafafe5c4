package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

const oneRow = `{"request":{"contents":[{"role":"user","parts":[{"text":"say hello"}]}]},"metadata":{"key":"k1"}}`

func inlineBatch(rows ...string) string {
	return `{"batch":{"displayName":"dn","inputConfig":{"requests":{"requests":[` + strings.Join(rows, ",") + `]}}}}`
}

// ended waits until a batch has ended and returns it.
func (s *server) ended(name string) answer {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		a := s.do("GET", "/v1beta/"+name, "").ok()
		if strings.Contains(a.body, `"done":true`) {
			return a
		}
	}
	s.t.Fatalf("%s did not end in 20 s", name)
	return answer{}
}

var batchIDs = regexp.MustCompile(`(batches|files)/[0-9a-z]{26,36}`)

// masked replaces the ids of a batch, which differ from run to run.
func (a answer) masked() answer {
	a.body = batchIDs.ReplaceAllString(a.body, "$1/ID")
	return a
}

func TestInlineBatch(t *testing.T) {
	s := newServer(t)
	created := s.do("POST", "/v1beta/models/gemini-x:batchGenerateContent", inlineBatch(oneRow,
		`{"request":{"contents":[{"parts":[{"text":"Why <&>?"}]}],"generation_config":{"max_output_tokens":2}}}`, `{"request":{"contents":[]},"metadata":{"key":"k3"}}`)).ok()
	created.masked().golden("batch_created")
	name := created.field("name")
	s.ended(name).masked().golden("batch_inline")
	listed := s.do("GET", "/v1beta/batches", "").ok()
	if strings.Contains(listed.body, "inlinedResponses") || !strings.Contains(listed.body, name) {
		t.Errorf("the list: %s", listed.body)
	}
}

func TestFileBatch(t *testing.T) {
	s := newServer(t)
	in := s.put(`{"key":"request-1","request":{"contents":[{"parts":[{"text":"say hello"}]}]}}`+"\n"+`{"key":"request-2","request":{}}`+"\n", "application/jsonl")
	name := s.do("POST", "/v1/models/gemini-x:batchGenerateContent", `{"batch":{"display_name":"from a file","input_config":{"file_name":"`+in+`"},"priority":"5"}}`).ok().field("name")
	ended := s.ended(name)
	ended.masked().golden("batch_file")
	var op genai.BatchOperation
	if err := json.Unmarshal([]byte(ended.body), &op); err != nil {
		t.Fatal(err)
	}
	got := s.do("GET", "/v1/"+op.Dest.FileName+":download?alt=media", "")
	lines := strings.Split(got.body, "\n")
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/jsonl" || len(lines) != 3 ||
		!strings.HasPrefix(lines[0], `{"response":{"candidates":[{"content":{"role":"model","parts":[{"text":"Hello there"}]},"finishReason":"STOP","index":0}]`) ||
		!strings.HasSuffix(lines[0], `},"key":"request-1"}`) ||
		lines[1] != `{"error":{"code":3,"message":"line 2: contents: it is required and must not be empty"},"key":"request-2"}` {
		t.Errorf("the results: %d %q", got.status, lines)
	}
	if f := s.do("GET", "/v1/"+op.Dest.FileName, "").ok(); f.field("source") != "GENERATED" || !strings.HasSuffix(f.field("downloadUri"), ":download?alt=media") {
		t.Errorf("the file: %s", f.body)
	}
	if !strings.Contains(strings.Join(s.eventBodies(name), "\n"), `"output_file_uri":"https://ringback.example/v1beta/`+op.Dest.FileName+`:download?alt=media","file_name":"`+op.Dest.FileName+`"`) {
		t.Errorf("the events: %s", s.eventBodies(name))
	}
	s.as(s.foreign, "GET", "/v1/"+name, "").refusedClassic(404, "NOT_FOUND", "batch")
	s.as(s.foreign, "POST", "/v1/"+name+":cancel", "").refusedClassic(404, "NOT_FOUND", "batch")
	s.as(s.foreign, "DELETE", "/v1/"+name, "").refusedClassic(404, "NOT_FOUND", "batch")
	s.as(s.foreign, "PATCH", "/v1/"+name, "{}").refusedClassic(404, "NOT_FOUND", "batch")
	s.do("DELETE", "/v1/"+name, "{}").ok()
	s.do("GET", "/v1/"+name, "").refusedClassic(404, "NOT_FOUND", "batch")
	s.do("GET", "/v1/"+op.Dest.FileName, "").ok() // The results are the client's.
}

// eventBodies are the bodies of the events of a batch.
func (s *server) eventBodies(name string) (bodies []string) {
	s.t.Helper()
	list, err := s.store.JobEvents(s.t.Context(), s.project, ringback.ID(strings.TrimPrefix(name, "batches/")))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range list {
		bodies = append(bodies, string(e.Body))
	}
	return bodies
}

func TestBatchCancelAndUpdate(t *testing.T) {
	s := newServer(t)
	s.subscribe("batch.cancelled")
	name := s.do("POST", "/v1/models/slow:batchGenerateContent", inlineBatch(oneRow)).ok().field("name")
	<-s.asked
	if got := s.do("GET", "/v1/"+name, "").ok(); !strings.Contains(got.body, `"state":"BATCH_STATE_RUNNING"`) || !strings.Contains(got.body, `"done":false`) ||
		!strings.Contains(got.body, `"batchStats":{"requestCount":"1","successfulRequestCount":"0","failedRequestCount":"0","pendingRequestCount":"1"}`) {
		t.Errorf("while it runs: %s", got.body)
	}
	for path, priority := range map[string]string{":updateGenerateContentBatch?updateMask=displayName": "0", "?update_mask=display_name,priority": "7"} {
		s.do("PATCH", "/v1/"+name, `{"displayName":"old","priority":0}`).ok()
		got := s.do("PATCH", "/v1/"+name+path, `{"displayName":"new","priority":7}`).ok()
		if got.field("displayName") != "new" || got.field("name") != name || got.field("priority") != priority {
			t.Errorf("update: %s", got.body)
		}
	}
	s.do("PATCH", "/v1/"+name, `{"priority":"high"}`).refusedClassic(400, "INVALID_ARGUMENT", "64-bit")
	s.do("POST", "/v1/"+name+":cancel", "{}").ok()
	ended := s.ended(name)
	if !strings.Contains(ended.body, `"state":"BATCH_STATE_CANCELLED"`) || !strings.Contains(ended.body, `"error":{"code":1,"message":"the batch was cancelled"}`) ||
		!strings.Contains(ended.body, `{"error":{"code":1,"message":"the row was not run: the batch was cancelled"},"metadata":{"key":"k1"}}`) {
		t.Errorf("cancelled: %s", ended.body)
	}
	s.do("POST", "/v1/"+name+":cancel", "").ok()
	s.waitTold()
}

func TestBatchRefusals(t *testing.T) {
	s := newServer(t)
	const path = "/v1beta/models/gemini-x:batchGenerateContent"
	for body, hint := range map[string]string{
		"": "empty", `{}`: "either fileName or requests", `{"batch":{"inputConfig":{"fileName":"files/a","requests":{}}}}`: "either",
		inlineBatch(): "it is empty", inlineBatch(`{"request":{},"metadata":{"key":1}}`): "requests[0].metadata: expected an object of strings",
		`{"batch":{"model":"models/other","inputConfig":{"fileName":"files/a"}}}`:                           `"other"`,
		`{"batch":{"displayName":"` + strings.Repeat("x", 600) + `","inputConfig":{"fileName":"files/a"}}}`: "512",
		`{"batch":{"inputConfig":{"fileName":"files/a"},"webhookConfig":{"uris":["http://example.com"]}}}`:  "batch.webhookConfig.uris[0]",
	} {
		s.do("POST", path, body).refusedClassic(400, "INVALID_ARGUMENT", hint)
	}
	s.do("POST", path, `{"batch":{"inputConfig":{"fileName":"files/none"}}}`).refusedClassic(404, "NOT_FOUND", "file")
	s.do("POST", "/v1/models/unknown:batchGenerateContent", inlineBatch(oneRow)).refusedClassic(404, "NOT_FOUND", "unknown")
	s.do("GET", "/v1/batches/none", "").refusedClassic(404, "NOT_FOUND", "batch")
	s.do("POST", "/v1/batches/none:cancel", "").refusedClassic(404, "NOT_FOUND", "batch")
	job := s.do("POST", "/v1/interactions", `{"model":"gemini-x","input":"hi"}`).ok().field("id")
	s.do("GET", "/v1/batches/"+job, "").refusedClassic(404, "NOT_FOUND", "batch")
	id := strings.TrimPrefix(s.do("POST", path, inlineBatch(oneRow)).ok().field("name"), "batches/")
	s.do("GET", "/v1/interactions/"+id, "").refused(404, "not_found", "interaction")
}

// TestIdempotencyKey: a creation that is repeated with its key creates nothing.
func TestIdempotencyKey(t *testing.T) {
	s := newServer(t)
	create := func(path, key, body string) answer {
		return s.upload("POST", path, strings.NewReader(body), "X-Goog-Api-Key", s.key, "Idempotency-Key", key)
	}
	const path = "/v1/models/gemini-x:batchGenerateContent"
	first := create(path, "nightly", inlineBatch(oneRow)).ok().field("name")
	s.ended(first)
	if again := create(path, "nightly", inlineBatch(oneRow)).ok(); again.field("name") != first || !strings.Contains(again.body, "BATCH_STATE_SUCCEEDED") {
		t.Errorf("repeated: %s", again.body)
	}
	create(path, "nightly", inlineBatch(oneRow, oneRow)).refusedClassic(400, "INVALID_ARGUMENT", "Idempotency-Key")
	create(path, strings.Repeat("x", 256), inlineBatch(oneRow)).refusedClassic(400, "INVALID_ARGUMENT", "255")
	if other := create(path, "other", inlineBatch(oneRow)).ok().field("name"); other == first {
		t.Error("another key gave the same batch")
	}
	names := make(chan string, 8)
	for range cap(names) {
		go func() { names <- create(path, "at once", inlineBatch(oneRow)).ok().field("name") }()
	}
	all := make(map[string]bool)
	for range cap(names) {
		all[<-names] = true
	}
	if len(all) != 1 {
		t.Errorf("at once: %v", all)
	}
	job := create("/v1/interactions", "bg", `{"model":"gemini-x","input":"hi","background":true}`).ok().field("id")
	if again := create("/v1/interactions", "bg", `{"model":"gemini-x","input":"hi","background":true}`).ok().field("id"); again != job {
		t.Errorf("interactions %s and %s", job, again)
	}
}

func TestBatchAlias(t *testing.T) {
	s := newServer(t)
	in := s.put(`{"key":"a","request":{"contents":[{"parts":[{"text":"say hello"}]}]}}`, "jsonl")
	for _, src := range []string{`"` + in + `"`, `[{"contents":[{"parts":[{"text":"say hello"}]}]}]`} {
		name := s.do("POST", "/v1beta/models/gemini-x:batchCreate", `{"src":`+src+`,"config":{"display_name":"alias"}}`).ok().field("name")
		if got := s.ended(name); !strings.Contains(got.body, "BATCH_STATE_SUCCEEDED") {
			t.Errorf("%s: %s", src, got.body)
		}
	}
	s.do("POST", "/v1beta/models/gemini-x:batchCreate", `{"src":7}`).refusedClassic(400, "INVALID_ARGUMENT", "src")
}

func TestBatchPages(t *testing.T) {
	s := newServer(t)
	for i := range 5 {
		s.do("POST", "/v1/models/gemini-x:batchGenerateContent", strings.Replace(inlineBatch(oneRow), "dn", fmt.Sprint("b", i), 1)).ok()
	}
	var names []string
	for token := ""; ; {
		var page struct {
			Operations    []genai.BatchOperation
			NextPageToken string
		}
		if err := json.Unmarshal([]byte(s.do("GET", "/v1/batches?pageSize=2&pageToken="+token, "").ok().body), &page); err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Operations {
			names = append(names, o.Metadata.DisplayName)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if got := fmt.Sprint(names); got != "[b4 b3 b2 b1 b0]" {
		t.Errorf("listed %s", got)
	}
}

func TestEmbeddings(t *testing.T) {
	s := newServer(t)
	one := `{"content":{"parts":[{"text":"a cat"}]},"outputDimensionality":2}`
	single := s.do("POST", "/v1beta/models/gemini-x:embedContent", one).ok()
	many := s.do("POST", "/v1beta/models/gemini-x:batchEmbedContents", `{"requests":[`+one+`,`+one+`]}`).ok()
	vector := strings.TrimSuffix(strings.TrimPrefix(single.body, `{"embedding":`), "}")
	if many.body != `{"embeddings":[`+vector+","+vector+`]}` || !strings.HasPrefix(vector, `{"values":[`) {
		t.Errorf("one: %s, two: %s", single.body, many.body)
	}
	name := s.do("POST", "/v1beta/models/gemini-x:asyncBatchEmbedContent", inlineBatch(`{"request":`+one+`,"metadata":{"key":"e"}}`, `{"request":{"content":{"parts":[]}}}`)).ok().field("name")
	ended := s.ended(name)
	if !strings.Contains(ended.body, `{"inlinedResponses":[{"response":{"tokenCount":"2","embedding":`+vector+`},"metadata":{"key":"e"}},{"error":{"code":3,`) ||
		!strings.Contains(ended.body, "v1main.EmbedContentBatch") {
		t.Errorf("the batch: %s", ended.body)
	}
	s.do("POST", "/v1beta/models/gemini-x:embedContent", `{}`).refusedClassic(400, "INVALID_ARGUMENT", "content.parts")
	s.do("POST", "/v1beta/models/gemini-x:embedContent", `{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AA=="}}]}}`).refusedClassic(400, "INVALID_ARGUMENT", "only text")
	s.do("POST", "/v1beta/models/gemini-x:embedContent", `{"content":{"parts":[{"text":"x"}]},"outputDimensionality":0}`).refusedClassic(400, "INVALID_ARGUMENT", "outputDimensionality")
	s.do("POST", "/v1beta/models/gemini-x:batchEmbedContents", `{"requests":[]}`).refusedClassic(400, "INVALID_ARGUMENT", "requests")
	s.do("POST", "/v1beta/models/none:embedContent", one).refusedClassic(404, "NOT_FOUND", "none")
}

// FuzzCreateBatch: any body is answered with a batch or with an error of the
// client's.
func FuzzCreateBatch(f *testing.F) {
	h := target(f)
	for _, body := range []string{inlineBatch(oneRow), `{"batch":{"input_config":{"file_name":"files/x"}}}`, `{"src":[{}],"config":{"priority":"1"}}`,
		`{"batch":{"inputConfig":{"requests":{"requests":[{"request":null,"metadata":{}},{}]}},"priority":-9223372036854775808}}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, verb := range []string{"batchGenerateContent", "asyncBatchEmbedContent", "batchCreate", "embedContent", "batchEmbedContents"} {
			r := httptest.NewRequest("POST", "/v1/models/gemini-x:"+verb, bytes.NewReader(body))
			r.Header.Set("X-Goog-Api-Key", "any")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
				t.Fatalf("%s %q: answered %d %s", verb, body, w.Code, w.Body)
			}
		}
	})
}
