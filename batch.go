package ringback

import "time"

// Batch is what a job of KindBatch has besides what all jobs have.
type Batch struct {
	DisplayName string
	// Priority decides which batches go first: the greater, the sooner.
	Priority int64
	// Embed: the rows ask for embeddings, not for content.
	Embed bool
	// InputFile is the file that holds the rows; empty if they came within the
	// request. InputBlob is where they are, one JSON object per line.
	InputFile ID
	InputBlob string
	// Expires is when a batch that has not ended is given up.
	Expires time.Time
	// Cancelled is when the client asked to cancel it; zero if it did not.
	Cancelled time.Time
	// Planned: the input was looked through and split into shards. Rows counts
	// nothing before.
	Planned bool
	Rows    RowCounts
	// Progressed is when the latest rows were finished; zero before the first.
	Progressed time.Time
	// OutputFile holds the results of a batch that has ended. It may have been
	// deleted since.
	OutputFile ID
	// OutputBlob holds the results of rows that came within the request, like
	// InputBlob; empty until it ends.
	OutputBlob string
}

// Inline reports whether the rows came within the request.
func (b *Batch) Inline() bool { return b.InputFile == "" }

// RowCounts tells how the rows of a batch fared.
type RowCounts struct{ Total, Succeeded, Failed int64 }

// Pending is how many rows have no result.
func (r RowCounts) Pending() int64 { return r.Total - r.Succeeded - r.Failed }

// Shard is a part of a batch's input that one node works on at a time.
type Shard struct {
	Number int
	// First is the number of its first row, from 0; Line that row's line in the
	// input, from 1: blank lines are no rows.
	First, Line int64
	Rows        int
	// Offset and Length are its place in the input, in bytes.
	Offset, Length int64
}

// NewBatchID makes a batch's id: 36 characters of [a-z0-9] (wire contract §4.4).
func NewBatchID(now time.Time) ID { return NewEndpointID(now) }
