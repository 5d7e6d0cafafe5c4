package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genai"
	"google.golang.org/genai/interactions/models/operations"
	"google.golang.org/genai/interactions/models/webhooks"
)

// batchEnded polls as the documents do, though quicker.
func batchEnded(t *testing.T, c *genai.Client, job *genai.BatchJob) *genai.BatchJob {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		switch job.State {
		case genai.JobStateSucceeded, genai.JobStateFailed, genai.JobStateCancelled, genai.JobStateExpired:
			return job
		}
		if time.Now().After(deadline) {
			t.Fatalf("batch %s is %s", job.Name, job.State)
		}
		job = must[*genai.BatchJob](t)(c.Batches.Get(t.Context(), job.Name, nil))
	}
}

func notFoundError(t *testing.T, err error) {
	t.Helper()
	var api genai.APIError
	if !errors.As(err, &api) || api.Code != 404 {
		t.Errorf("got %v, want a 404", err)
	}
}

func TestGoFiles(t *testing.T) {
	c := goClient(t, dev(t), "any")
	path := filepath.Join(t.TempDir(), "poem.txt")
	text := bytes.Repeat([]byte("x"), 9<<20) // More than a chunk.
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	made := must[*genai.File](t)(c.Files.UploadFromPath(t.Context(), path, &genai.UploadFileConfig{MIMEType: "text/plain", DisplayName: "a poem"}))
	if made.State != genai.FileStateActive || *made.SizeBytes != 9<<20 || made.DisplayName != "a poem" {
		t.Errorf("uploaded: %+v", made)
	}
	small := must[*genai.File](t)(c.Files.Upload(t.Context(), strings.NewReader("hello"), &genai.UploadFileConfig{MIMEType: "text/plain", Name: "my-file"}))
	if got := must[*genai.File](t)(c.Files.Get(t.Context(), small.Name, nil)); got.URI != small.URI || small.Name != "files/my-file" {
		t.Errorf("got %+v", got)
	}
	page := must[genai.Page[genai.File]](t)(c.Files.List(t.Context(), &genai.ListFilesConfig{PageSize: 1}))
	next := must[genai.Page[genai.File]](t)(page.Next(t.Context()))
	if len(page.Items) != 1 || page.Items[0].Name != small.Name || next.Items[0].Name != made.Name {
		t.Errorf("listed %+v, %+v", page.Items, next.Items)
	}
	got := must[[]byte](t)(c.Files.Download(t.Context(), genai.NewDownloadURIFromFile(&genai.File{DownloadURI: made.Name}), nil))
	if !bytes.Equal(got, text) {
		t.Errorf("downloaded %d bytes", len(got))
	}
	must[*genai.DeleteFileResponse](t)(c.Files.Delete(t.Context(), made.Name, nil))
	_, err := c.Files.Get(t.Context(), made.Name, nil)
	notFoundError(t, err)
}

func TestGoBatches(t *testing.T) {
	c := goClient(t, dev(t), "any")
	r := receive(t)
	in := decode[webhooks.WebhookInput](t, `{"uri":"`+r.URI+`","subscribed_events":["batch.succeeded","batch.cancelled"]}`)
	hook := must[*operations.CreateWebhookResponse](t)(c.Webhooks.Create(t.Context(), operations.CreateWebhookRequest{Body: in})).Webhook
	const model = "gemini-3.6-flash"
	inline := must[*genai.BatchJob](t)(c.Batches.Create(t.Context(), model, &genai.BatchJobSource{InlinedRequests: []*genai.InlinedRequest{
		{Contents: genai.Text("one"), Metadata: map[string]string{"key": "k1"}}, {Contents: []*genai.Content{{Role: "user"}}, Metadata: map[string]string{"key": "bad"}},
	}}, &genai.CreateBatchJobConfig{DisplayName: "inline"}))
	inline = batchEnded(t, c, inline)
	if inline.State != genai.JobStateSucceeded || len(inline.Dest.InlinedResponses) != 2 ||
		!strings.Contains(inline.Dest.InlinedResponses[0].Response.Text(), `"one"`) || *inline.Dest.InlinedResponses[1].Error.Code != 3 {
		t.Errorf("inline: %+v", inline)
	}
	called := r.wait(t, "batch.succeeded", inline.Name)
	if err := verify(t, *hook.NewSigningSecret, called); err != nil {
		t.Error(err)
	}

	var rows strings.Builder
	for i := range 50 {
		fmt.Fprintf(&rows, `{"key":"request-%d","request":{"contents":[{"parts":[{"text":"number %d"}]}]}}`+"\n", i, i)
	}
	source := must[*genai.File](t)(c.Files.Upload(t.Context(), strings.NewReader(rows.String()), &genai.UploadFileConfig{MIMEType: "jsonl"}))
	file := batchEnded(t, c, must[*genai.BatchJob](t)(c.Batches.Create(t.Context(), model, &genai.BatchJobSource{FileName: source.Name}, nil)))
	out := must[[]byte](t)(c.Files.Download(t.Context(), genai.NewDownloadURIFromFile(&genai.File{DownloadURI: file.Dest.FileName}), nil))
	lines := json.NewDecoder(bytes.NewReader(out))
	for i := 0; ; i++ {
		var line struct{ Key string }
		if err := lines.Decode(&line); err == io.EOF && i == 50 {
			break
		} else if err != nil || line.Key != fmt.Sprint("request-", i) {
			t.Fatalf("line %d: %v, key %q", i, err, line.Key)
		}
	}
	n := 0
	for job, err := range c.Batches.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		_ = job
	}
	if n != 2 {
		t.Errorf("%d batches are listed", n)
	}

	slow := must[*genai.BatchJob](t)(c.Batches.Create(t.Context(), "slow-model", &genai.BatchJobSource{InlinedRequests: []*genai.InlinedRequest{{Contents: genai.Text("x")}}}, nil))
	if err := c.Batches.Cancel(t.Context(), slow.Name, nil); err != nil {
		t.Fatal(err)
	}
	if slow = batchEnded(t, c, slow); slow.State != genai.JobStateCancelled {
		t.Errorf("cancelled: %s", slow.State)
	}
	if err := verify(t, *hook.NewSigningSecret, r.wait(t, "batch.cancelled", slow.Name)); err != nil {
		t.Error(err)
	}

	embedded := batchEnded(t, c, must[*genai.BatchJob](t)(c.Batches.CreateEmbeddings(t.Context(), genai.Ptr(model), &genai.EmbeddingsBatchJobSource{
		InlinedRequests: &genai.EmbedContentBatch{Contents: genai.Text("a cat"), Config: &genai.EmbedContentConfig{OutputDimensionality: genai.Ptr[int32](8)}}}, nil)))
	if embedded.State != genai.JobStateSucceeded || len(embedded.Dest.InlinedEmbedContentResponses) != 1 ||
		len(embedded.Dest.InlinedEmbedContentResponses[0].Response.Embedding.Values) != 8 {
		t.Errorf("embedded: %+v", embedded)
	}
	must[*genai.DeleteResourceJob](t)(c.Batches.Delete(t.Context(), file.Name, nil))
	_, err := c.Batches.Get(t.Context(), file.Name, nil)
	notFoundError(t, err)
	vectors := must[*genai.EmbedContentResponse](t)(c.Models.EmbedContent(t.Context(), model, genai.Text("a cat"), nil))
	if len(vectors.Embeddings) != 1 || len(vectors.Embeddings[0].Values) == 0 {
		t.Errorf("embedContent: %+v", vectors)
	}
}
