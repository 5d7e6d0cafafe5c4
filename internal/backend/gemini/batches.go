package gemini

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	next "github.com/go-json-experiment/json/v1"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// rowsType is the MIME type of files of rows.
const rowsType = "application/jsonl"

// AppendRow implements backend.BatchUpstream (wire contract §4.9). The key is the
// row's number.
func (b *Backend) AppendRow(text []byte, row *backend.UpstreamRow) ([]byte, error) {
	var request any
	if row.Embed != nil {
		own := *row.Embed
		own.Model = "" // The batch says it.
		request = &own
	} else {
		own := *row.Generate
		own.Model = ""
		request = &own
	}
	line, err := encode(struct {
		Key     string `json:"key"`
		Request any    `json:"request"`
	}{strconv.FormatInt(row.Number, 10), request})
	return append(text, line...), err
}

// UploadRows implements backend.BatchUpstream.
func (b *Backend) UploadRows(ctx context.Context, name string, rows io.Reader) (string, error) {
	file := "files/" + name
	return file, b.upload(ctx, file, rowsType, rows)
}

// CreateBatch implements backend.BatchUpstream (§4.2, §4.3). Nothing is tried again.
func (b *Backend) CreateBatch(ctx context.Context, batch *backend.UpstreamBatch) (string, error) {
	verb := "batchGenerateContent"
	input := map[string]any{"fileName": batch.File}
	if batch.Embed {
		verb = "asyncBatchEmbedContent"
		input = map[string]any{"file_name": batch.File} // So all SDKs send it, here alone.
	}
	path, err := modelPath(batch.Model, verb)
	if err != nil {
		return "", err
	}
	what := map[string]any{"displayName": batch.DisplayName, "inputConfig": input}
	if batch.Priority != 0 {
		what["priority"] = genai.Int64(batch.Priority)
	}
	if batch.Webhook != "" {
		what["webhookConfig"] = map[string]any{"uris": []string{batch.Webhook}}
	}
	body, err := encode(map[string]any{"batch": what})
	if err != nil {
		return "", err
	}
	var op operation
	if err := b.call(ctx, &request{method: http.MethodPost, path: path, body: body}, &op); err != nil {
		return "", err
	}
	if _, err := batchPath(op.Name); err != nil {
		return "", err
	}
	return op.Name, nil
}

// batchPath is the path of a batch, whose name the API has given.
func batchPath(name string) (string, error) {
	id, ok := strings.CutPrefix(name, "batches/")
	if !ok || id == "" || id == "." || id == ".." || strings.Contains(id, "/") {
		return "", &backend.Error{Kind: backend.Internal, Message: "the back-end does not say what the batch is called"}
	}
	return "batches/" + url.PathEscape(id), nil
}

// batchOperation is a batch as it is shown (§4.4), as far as it is read here.
type batchOperation struct {
	Name     string `json:"name"`
	Metadata struct {
		DisplayName string    `json:"displayName"`
		State       string    `json:"state"`
		CreateTime  time.Time `json:"createTime"`
		Output      struct {
			ResponsesFile string `json:"responsesFile"`
		} `json:"output"`
		BatchStats genai.BatchStats `json:"batchStats"`
	} `json:"metadata"`
	Done     bool      `json:"done"`
	Error    *rpcError `json:"error"`
	Response struct {
		ResponsesFile string `json:"responsesFile"`
	} `json:"response"`
}

// FindBatch implements backend.BatchUpstream. The list is newest first.
func (b *Backend) FindBatch(ctx context.Context, displayName string, since time.Time) (found string, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	err = b.pages(ctx, "batches?pageSize=100", func(page []byte) (bool, error) {
		var list struct {
			Operations []batchOperation `json:"operations"`
		}
		if err := next.Unmarshal(page, &list); err != nil {
			return false, err
		}
		for i := range list.Operations {
			op := &list.Operations[i]
			if op.Metadata.DisplayName == displayName {
				found = op.Name
				return false, nil
			}
			if created := op.Metadata.CreateTime; !created.IsZero() && created.Before(since) {
				return false, nil
			}
		}
		return true, nil
	})
	return found, err
}

// batchStates are the wire's names without their prefix, which differs (§4.4).
var batchStates = map[string]ringback.State{
	"PENDING": ringback.Pending, "RUNNING": ringback.Running, "SUCCEEDED": ringback.Completed, "FAILED": ringback.Failed,
	"CANCELLED": ringback.Cancelled, "EXPIRED": ringback.Expired,
}

// codeNames are the google.rpc.Code names of the reasons for a batch's end.
var codeNames = map[int]string{1: "CANCELLED", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED", 14: "UNAVAILABLE"}

// BatchStatus implements backend.BatchUpstream.
func (b *Backend) BatchStatus(ctx context.Context, batch string) (*backend.UpstreamStatus, error) {
	path, err := batchPath(batch)
	if err != nil {
		return nil, err
	}
	var op batchOperation
	if err := b.call(ctx, &request{method: http.MethodGet, path: path, timeout: look}, &op); err != nil {
		return nil, err
	}
	_, name, _ := strings.Cut(op.Metadata.State, "_STATE_")
	state, known := batchStates[name]
	s := &backend.UpstreamStatus{State: state, Results: op.Metadata.Output.ResponsesFile}
	if s.Results == "" {
		s.Results = op.Response.ResponsesFile
	}
	switch {
	case known:
	case op.Done && op.Error != nil:
		s.State = ringback.Failed
	case op.Done:
		s.State = ringback.Completed
	default:
		s.State = ringback.Running
	}
	n := &op.Metadata.BatchStats
	s.Rows = ringback.RowCounts{Total: int64(n.RequestCount), Succeeded: int64(n.SuccessfulRequestCount), Failed: int64(n.FailedRequestCount)}
	if op.Error != nil {
		code := codeNames[op.Error.Code]
		if code == "" {
			code = "INTERNAL"
		}
		s.Failure = &ringback.Failure{Code: code, Message: b.operationError(op.Error).Message}
	}
	return s, nil
}

// BatchResults implements backend.BatchUpstream.
func (b *Backend) BatchResults(ctx context.Context, file string, to io.Writer) error {
	return b.download(ctx, file, func(string) (io.Writer, error) { return to, nil })
}

// ReadResult implements backend.BatchUpstream (§4.9). What package genai does not
// know of a response stays in it.
func (b *Backend) ReadResult(line []byte) (*backend.UpstreamResult, error) {
	var in struct {
		Key      json.RawMessage `json:"key"`
		Response json.RawMessage `json:"response"`
		Error    *rpcError       `json:"error"`
	}
	if err := next.Unmarshal(line, &in); err != nil {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's results hold a line that is not JSON", Cause: err}
	}
	number, err := strconv.ParseInt(strings.Trim(string(in.Key), `"`), 10, 64)
	if err != nil || number < 0 {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's results hold a line without the key of a row"}
	}
	r := &backend.UpstreamResult{Number: number}
	switch {
	case in.Error != nil:
		code := in.Error.Code
		if code < 1 || code > 16 {
			code = 2 // UNKNOWN.
		}
		r.Error = &genai.RowError{Code: code, Message: b.reason(in.Error)} // No details: Go can't decode them (§0.3).
	case len(in.Response) == 0 || in.Response[0] != '{':
		r.Error = &genai.RowError{Code: 13, Message: "the back-end's result is neither a response nor an error"}
	default:
		r.Response = in.Response
	}
	return r, nil
}

// CancelBatch implements backend.BatchUpstream.
func (b *Backend) CancelBatch(ctx context.Context, batch string) error {
	path, err := batchPath(batch)
	if err != nil {
		return err
	}
	err = b.call(ctx, &request{method: http.MethodPost, path: path + ":cancel", body: []byte("{}"), timeout: look, retries: b.retries}, new(struct{}))
	if isStatus(err, http.StatusBadRequest) {
		return nil // It has ended.
	}
	return err
}

// RemoveBatch implements backend.BatchUpstream.
func (b *Backend) RemoveBatch(ctx context.Context, batch string, files ...string) error {
	var paths []string
	if batch != "" {
		path, err := batchPath(batch)
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	for _, f := range files {
		if f != "" && fileName.FindString(f) == f {
			paths = append(paths, f)
		}
	}
	var first error
	for _, path := range paths {
		err := b.call(ctx, &request{method: http.MethodDelete, path: path, retries: b.retries}, new(struct{}))
		if err != nil && first == nil && !isStatus(err, http.StatusNotFound, http.StatusForbidden) {
			first = err
		}
	}
	return first
}
