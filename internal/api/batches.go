package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

func (a *api) createBatch(c *call) (any, error)      { return a.newBatch(c, false, decodeBatch) }
func (a *api) createEmbedBatch(c *call) (any, error) { return a.newBatch(c, true, decodeBatch) }

// createBatchAlias takes a form of the request that only documentation shows (wire
// contract §3).
func (a *api) createBatchAlias(c *call) (any, error) {
	return a.newBatch(c, false, func(body []byte) (*genai.CreateBatch, error) {
		var alias genai.BatchCreateAlias
		if err := genai.Decode(body, &alias); err != nil {
			return nil, err
		}
		var q genai.CreateBatch
		q.Batch.DisplayName, q.Batch.Priority, q.Batch.WebhookConfig = alias.Config.DisplayName, alias.Config.Priority, alias.Config.WebhookConfig
		if json.Unmarshal(alias.Src, &q.Batch.InputConfig.FileName) == nil {
			return &q, nil
		}
		var requests []json.RawMessage
		if err := json.Unmarshal(alias.Src, &requests); err != nil {
			return nil, errors.New("src: expected a file's name or a list of requests")
		}
		inline := &genai.InlinedInputs{}
		for _, r := range requests {
			inline.Requests = append(inline.Requests, genai.InlinedInput{Request: r})
		}
		q.Batch.InputConfig.Requests = inline
		return &q, nil
	})
}

func decodeBatch(body []byte) (*genai.CreateBatch, error) {
	var q genai.CreateBatch
	return &q, genai.Decode(body, &q)
}

// newBatch stores a batch and answers at once (§4.2).
func (a *api) newBatch(c *call, embed bool, decode func([]byte) (*genai.CreateBatch, error)) (any, error) {
	body, err := a.body(c)
	if err != nil {
		return nil, err
	}
	mark, earlier, err := a.idempotency(c, body)
	if err != nil {
		return nil, err
	}
	if earlier != "" {
		return a.sendBatch(c, earlier)
	}
	q, err := decode(body)
	if err != nil {
		return nil, invalid("%v", err)
	}
	model := string(c.id())
	b := &ringback.Batch{DisplayName: q.Batch.DisplayName, Priority: int64(q.Batch.Priority), Embed: embed, Expires: c.now.Add(a.BatchTTL)}
	if len([]rune(b.DisplayName)) > maxDisplayName {
		return nil, invalid("batch.displayName: it has more than %d characters", maxDisplayName)
	}
	if own := strings.TrimPrefix(q.Batch.Model, "models/"); own != "" && own != model {
		return nil, invalid("batch.model: it is %q, the path says %q", own, model)
	}
	if r, ok := a.Backend.(backend.Resolver); ok {
		if err := r.Resolve(model); err != nil {
			return nil, err
		}
	}
	config := q.Batch.WebhookConfig
	if !given(config) {
		config = q.WebhookConfig
	}
	webhooks, err := a.dynamicWebhooks("batch.webhookConfig", config)
	if err != nil {
		return nil, err
	}
	file, inline := q.Batch.InputConfig.FileName, q.Batch.InputConfig.Requests
	switch {
	case (file == "") == (inline == nil):
		return nil, invalid("batch.inputConfig: give either fileName or requests")
	case file != "":
		f, err := a.file(c, ringback.ID(strings.TrimPrefix(file, "files/")))
		if err != nil {
			return nil, err
		}
		b.InputFile, b.InputBlob = f.ID, f.Blob
	default:
		if b.InputBlob, err = a.keepRows(c, inline.Requests); err != nil {
			return nil, err
		}
	}
	j := &ringback.Job{ID: ringback.NewBatchID(c.now), Project: c.project, Kind: ringback.KindBatch, Model: model, Spec: []byte("{}"),
		Webhooks: webhooks, Idempotency: mark}
	earlier, err = a.once(c, mark, func() error { return a.Runner.SubmitBatch(c.Context(), j, b) })
	if (err != nil || earlier != "") && b.Inline() {
		if e := a.Blobs.Delete(context.WithoutCancel(c.Context()), b.InputBlob); e != nil {
			a.Log.Error("remove the rows of a batch that was not created", "error", e)
		}
	}
	if err != nil {
		return nil, err
	}
	if earlier != "" {
		return a.sendBatch(c, earlier)
	}
	j.State = ringback.Pending // As the wire wants it, though it may run by now.
	return a.operation(j, b), nil
}

// keepRows writes the rows of a request as the lines of a blob.
func (a *api) keepRows(c *call, rows []genai.InlinedInput) (key string, err error) {
	if len(rows) == 0 {
		return "", invalid("batch.inputConfig.requests.requests: it is empty")
	}
	var lines bytes.Buffer
	for i := range rows {
		r := &rows[i]
		if given(r.Metadata) {
			var strings map[string]string
			if err := json.Unmarshal(r.Metadata, &strings); err != nil {
				return "", invalid("batch.inputConfig.requests.requests[%d].metadata: expected an object of strings", i)
			}
		} else {
			r.Metadata = nil
		}
		line, err := json.Marshal(r)
		if err != nil {
			return "", err
		}
		lines.Write(append(line, '\n'))
	}
	key = string(ringback.NewID("blob", c.now))
	w, err := a.Blobs.Append(c.Context(), key, 0)
	if err != nil {
		return "", err
	}
	defer w.Close()
	if _, err := w.Write(lines.Bytes()); err != nil {
		return "", err
	}
	return key, a.Blobs.Commit(c.Context(), key)
}

// batchStates are the wire's names without their prefix: BATCH_STATE_ in the
// metadata, JOB_STATE_ at the top (§4.4).
var batchStates = map[ringback.State]string{
	ringback.Pending: "PENDING", ringback.Running: "RUNNING", ringback.Completed: "SUCCEEDED", ringback.Failed: "FAILED",
	ringback.Cancelled: "CANCELLED", ringback.Expired: "EXPIRED",
}

// statusNumbers are the google.rpc.Code numbers of the reasons of a batch's or a
// video's end.
var statusNumbers = map[string]int{"CANCELLED": 1, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "PERMISSION_DENIED": 7,
	"RESOURCE_EXHAUSTED": 8, "UNAVAILABLE": 14}

const grpcInternal = 13

// operation shows a batch without its inlined results.
func (a *api) operation(j *ringback.Job, b *ringback.Batch) *genai.BatchOperation {
	kind := "GenerateContentBatch"
	if b.Embed {
		kind = "EmbedContentBatch"
	}
	const types = "type.googleapis.com/google.ai.generativelanguage.v1main."
	state := batchStates[j.State]
	m := genai.Batch{Type: types + kind, Name: "batches/" + string(j.ID), Model: "models/" + strings.TrimPrefix(j.Model, "models/"), DisplayName: b.DisplayName,
		State: "BATCH_STATE_" + state, CreateTime: wireTime(j.Created), UpdateTime: wireTime(j.Updated), Priority: genai.Int64(b.Priority),
		BatchStats: genai.BatchStats{RequestCount: genai.Int64(b.Rows.Total), SuccessfulRequestCount: genai.Int64(b.Rows.Succeeded),
			FailedRequestCount: genai.Int64(b.Rows.Failed), PendingRequestCount: genai.Int64(b.Rows.Pending())}}
	if b.Progressed.After(j.Updated) {
		m.UpdateTime = wireTime(b.Progressed)
	}
	if !b.Inline() {
		m.InputConfig.FileName = "files/" + string(b.InputFile)
	}
	op := &genai.BatchOperation{Name: m.Name, Done: j.State.Final(), State: "JOB_STATE_" + state}
	if op.Done {
		m.EndTime = wireTime(j.Ended)
		switch {
		case b.OutputFile != "":
			name := "files/" + string(b.OutputFile)
			m.Output, op.Dest = &genai.BatchOutput{ResponsesFile: name}, &genai.BatchDestiny{FileName: name}
		case b.OutputBlob != "":
			m.Output = &genai.BatchOutput{InlinedResponses: &genai.InlinedResponses{InlinedResponses: []json.RawMessage{}}}
		}
		if j.State == ringback.Completed && m.Output != nil {
			response := *m.Output
			response.Type = types + kind + "Output"
			op.Response = &response
		} else if j.State != ringback.Completed {
			f := j.Failure
			if f == nil {
				f = &ringback.Failure{Code: "CANCELLED", Message: "the batch was cancelled"}
			}
			op.Error = &genai.RowError{Code: statusNumbers[f.Code], Message: f.Message}
			if op.Error.Code == 0 {
				op.Error.Code = grpcInternal
			}
		}
	}
	op.Metadata = m
	return op
}

// batch reads a stored batch.
func (a *api) batch(c *call, id ringback.ID) (*ringback.Job, *ringback.Batch, error) {
	j, err := a.Store.Job(c.Context(), c.project, id)
	if err == nil && j.Kind != ringback.KindBatch {
		err = ringback.NotFound
	}
	if err != nil {
		return nil, nil, notFound(err, "batch", id)
	}
	b, err := a.Store.Batch(c.Context(), c.project, id)
	return j, b, notFound(err, "batch", id)
}

func (a *api) getBatch(c *call) (any, error) { return a.sendBatch(c, c.id()) }

// sendBatch answers a batch, with its results if the rows came within the request.
func (a *api) sendBatch(c *call, id ringback.ID) (any, error) {
	j, b, err := a.batch(c, id)
	if err != nil {
		return nil, err
	}
	op := a.operation(j, b)
	if op.Metadata.Output == nil || op.Metadata.Output.InlinedResponses == nil {
		return op, nil
	}
	text, err := json.Marshal(op)
	if err != nil {
		return nil, err
	}
	results, err := a.Blobs.Open(c.Context(), b.OutputBlob)
	if err != nil {
		return nil, err
	}
	defer results.Close()
	c.w.Header().Set("Content-Type", "application/json")
	// They can be large, so they are put into the empty lists as they are sent.
	empty := []byte(`"inlinedResponses":[]`)
	parts := bytes.Split(text, empty)
	out := bufio.NewWriter(c.w)
	for i, part := range parts {
		out.Write(part) // What goes wrong is told by Flush.
		if i == len(parts)-1 {
			break
		}
		out.Write(empty[:len(empty)-1])
		if _, err := results.Seek(0, io.SeekStart); err != nil {
			panic(http.ErrAbortHandler)
		}
		if err := joinLines(out, results); err != nil {
			a.Log.Error("send the results of a batch", "batch", id, "error", err)
			panic(http.ErrAbortHandler) // Rather no answer than half of one.
		}
		out.WriteByte(']')
	}
	_ = out.Flush() // The client has gone if this fails.
	return nil, nil
}

// joinLines writes the lines of r with commas between them.
func joinLines(w *bufio.Writer, r io.Reader) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		piece, err := lines.ReadSlice('\n')
		if len(piece) > 0 {
			whole := piece[len(piece)-1] == '\n'
			if whole {
				piece = piece[:len(piece)-1]
			}
			if _, err := w.Write(piece); err != nil {
				return nil // The client has gone.
			}
			if whole {
				if _, more := lines.Peek(1); more == nil {
					w.WriteByte(',')
				}
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// batchPage is the default number of batches in a list, and maxBatchPage the
// greatest.
const batchPage, maxBatchPage = 50, 100

func (a *api) listBatches(c *call) (any, error) {
	size, before, err := c.place(batchPage, maxBatchPage)
	if err != nil {
		return nil, err
	}
	jobs, next, err := a.Store.ListJobs(c.Context(), c.project, store.JobFilter{Kind: ringback.KindBatch}, before, size)
	if err != nil {
		return nil, err
	}
	var out struct {
		Operations    []*genai.BatchOperation `json:"operations"`
		NextPageToken string                  `json:"nextPageToken,omitempty"`
	}
	out.Operations = []*genai.BatchOperation{}
	for _, j := range jobs {
		b, err := a.Store.Batch(c.Context(), c.project, j.ID)
		if errors.Is(err, ringback.NotFound) {
			continue // It was deleted just now.
		}
		if err != nil {
			return nil, err
		}
		op := a.operation(j, b)
		if b.Inline() {
			op.Metadata.Output, op.Response = nil, nil
		}
		out.Operations = append(out.Operations, op)
	}
	out.NextPageToken = placeToken(next)
	return out, nil
}

func (a *api) cancelBatch(c *call) (any, error) {
	return struct{}{}, notFound(a.Runner.CancelBatch(c.Context(), c.project, c.id()), "batch", c.id())
}

func (a *api) deleteBatch(c *call) (any, error) {
	if _, _, err := a.batch(c, c.id()); err != nil {
		return nil, err
	}
	return struct{}{}, notFound(a.Runner.Delete(c.Context(), c.project, c.id()), "batch", c.id())
}

// updateBatch changes the display name and the priority (§4.8).
func (a *api) updateBatch(c *call) (any, error) {
	if _, _, err := a.batch(c, c.id()); err != nil {
		return nil, err
	}
	var q struct {
		DisplayName *string      `json:"displayName"`
		Priority    *genai.Int64 `json:"priority"`
	}
	if err := a.decode(c, &q, true); err != nil {
		return nil, err
	}
	var mask []string
	for field := range strings.SplitSeq(c.query("update_mask"), ",") {
		if field = strings.TrimSpace(field); field != "" {
			mask = append(mask, strings.ToLower(strings.ReplaceAll(field, "_", "")))
		}
	}
	wanted := func(field string) bool {
		return len(mask) == 0 || slices.Contains(mask, "*") || slices.Contains(mask, field)
	}
	var p store.BatchPatch
	if q.DisplayName != nil && wanted("displayname") {
		if len([]rune(*q.DisplayName)) > maxDisplayName {
			return nil, invalid("displayName: it has more than %d characters", maxDisplayName)
		}
		p.DisplayName = q.DisplayName
	}
	if q.Priority != nil && wanted("priority") {
		priority := int64(*q.Priority)
		p.Priority = &priority
	}
	if err := a.Store.UpdateBatch(c.Context(), c.project, c.id(), p, c.now); err != nil {
		return nil, notFound(err, "batch", c.id())
	}
	j, b, err := a.batch(c, c.id())
	if err != nil {
		return nil, err
	}
	return a.operation(j, b).Metadata, nil
}

// maxEmbeds bounds the contents of one call, as the real service does.
const maxEmbeds = 100

func (a *api) embedContent(c *call) (any, error) {
	var q genai.EmbedContentRequest
	if err := a.decode(c, &q, false); err != nil {
		return nil, err
	}
	if err := q.Check(); err != nil {
		return nil, invalid("%v", err)
	}
	e, err := a.embed(c.Context(), string(c.id()), &q)
	if err != nil {
		return nil, err
	}
	return genai.EmbedContentResponse{Embedding: e}, nil
}

// batchEmbedContents is what every SDK calls, even for one text (§8.6).
func (a *api) batchEmbedContents(c *call) (any, error) {
	var q genai.BatchEmbedContentsRequest
	if err := a.decode(c, &q, false); err != nil {
		return nil, err
	}
	if n := len(q.Requests); n == 0 || n > maxEmbeds {
		return nil, invalid("requests: give 1 to %d", maxEmbeds)
	}
	out := genai.BatchEmbedContentsResponse{Embeddings: make([]genai.ContentEmbedding, len(q.Requests))}
	all, ctx := errgroup.WithContext(c.Context())
	all.SetLimit(8)
	for i := range q.Requests {
		all.Go(func() (err error) {
			out.Embeddings[i], err = a.embed(ctx, string(c.id()), &q.Requests[i])
			return err
		})
	}
	return out, all.Wait()
}

func (a *api) embed(ctx context.Context, model string, q *genai.EmbedContentRequest) (genai.ContentEmbedding, error) {
	embedder, ok := a.Backend.(backend.Embedder)
	if !ok {
		return genai.ContentEmbedding{}, &backend.Error{Kind: backend.InvalidRequest, Message: "the back-end makes no embeddings"}
	}
	e, err := embedder.Embed(ctx, &backend.EmbedRequest{Model: model, Body: q})
	if err != nil {
		return genai.ContentEmbedding{}, err
	}
	return genai.ContentEmbedding{Values: e.Values}, nil
}
