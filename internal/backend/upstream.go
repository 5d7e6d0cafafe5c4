package backend

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

// BatchUpstream is a provider that takes whole batches and runs them in its own
// time: their rows are uploaded as a file, a batch of them is created, asked after
// now and then, and its results are fetched. Files and batches have the names that
// the provider gives them. Errors are those of Backend; of kind ModelNotFound when
// there is no file or batch of that name. All but CreateBatch can be called again
// safely, and an adapter repeats them itself as far as that is worth it.
type BatchUpstream interface {
	// AppendRow appends a row to the text of a file of rows.
	AppendRow(text []byte, row *UpstreamRow) ([]byte, error)
	// UploadRows stores a file of rows under a name of 1 to 40 characters of [a-z0-9]
	// that the caller makes up, and goes on after a broken connection. A file that
	// is there already under that name stays, and is the answer.
	UploadRows(ctx context.Context, name string, rows io.Reader) (file string, err error)
	// CreateBatch has a batch run. After an error of kind Unavailable, Timeout or
	// Internal, or when ctx ended, it may exist nevertheless: FindBatch tells.
	CreateBatch(ctx context.Context, b *UpstreamBatch) (batch string, err error)
	// FindBatch looks for a batch by its display name among those that were created
	// since; "" if there is none.
	FindBatch(ctx context.Context, displayName string, since time.Time) (batch string, err error)
	// BatchStatus tells how far a batch is.
	BatchStatus(ctx context.Context, batch string) (*UpstreamStatus, error)
	// BatchResults writes a file of results to a writer, whose errors it returns as
	// they are. It goes on after a broken connection.
	BatchResults(ctx context.Context, file string, to io.Writer) error
	// ReadResult reads a line of a file of results, without its end.
	ReadResult(line []byte) (*UpstreamResult, error)
	// CancelBatch asks a batch to end; it does so some time later. It is no error if
	// it has ended already.
	CancelBatch(ctx context.Context, batch string) error
	// RemoveBatch removes a batch that has ended, unless batch is empty, and files.
	// What is gone already is no error.
	RemoveBatch(ctx context.Context, batch string, files ...string) error
}

// UpstreamRow is a row of a batch: one of Generate and Embed. Its result comes
// back under its number.
type UpstreamRow struct {
	Number   int64
	Generate *genai.GenerateContentRequest
	Embed    *genai.EmbedContentRequest
}

// UpstreamBatch says what to create.
type UpstreamBatch struct {
	// Model is the name as the provider knows it.
	Model       string
	DisplayName string
	// File has the rows, which ask for embeddings if Embed is true.
	File     string
	Embed    bool
	Priority int64
	// Webhook, if not empty, is an address to call when the batch has ended.
	Webhook string
}

// UpstreamStatus is how far a batch is.
type UpstreamStatus struct {
	State ringback.State
	// Rows counts the rows, as far as the provider tells while they run.
	Rows ringback.RowCounts
	// Results is the file of results of a batch that has ended; empty if there is
	// none.
	Results string
	// Failure says why it failed as a whole, or expired.
	Failure *ringback.Failure
}

// UpstreamResult is what became of a row: one of Response and Error.
type UpstreamResult struct {
	Number int64
	// Response is the JSON of a genai.GenerateContentResponse or a
	// genai.EmbedContentResponse, as the provider wrote it.
	Response json.RawMessage
	Error    *genai.RowError
}

// Upstreams is a back-end that knows which models' batches are handed over whole.
type Upstreams interface {
	// Upstream returns the provider that takes the batches of a model, and the
	// model's name there; nil if their rows are run one by one.
	Upstream(model string) (BatchUpstream, string)
}

// Upstream implements Upstreams.
func (r *Router) Upstream(model string) (BatchUpstream, string) {
	route, model, err := r.find(model)
	if err != nil || route.Rows {
		return nil, ""
	}
	u, ok := route.Backend.(BatchUpstream)
	if !ok {
		return nil, ""
	}
	return u, model
}
