// Package blob is the port to large bodies: uploaded files, the inputs and
// outputs of batches. A body is never in memory whole.
//
// # Contract
//
//   - A blob is written under a key that its writer made up and that is used
//     once. Until Commit it is unfinished: it can be appended to, by one writer at
//     a time, and can't be read. From Commit on it never changes.
//   - What Writer.Sync covered and what Commit made final survives the loss of
//     power.
//   - Errors wrap a ringback.Code: NotFound, FailedPrecondition (fewer bytes are
//     there than the caller knows of), StorageFull, Unavailable.
//   - Keys consist of [a-z0-9_-].
package blob

import (
	"context"
	"io"
	"time"
)

// Store keeps blobs. Any number of goroutines may call at once.
type Store interface {
	// Append opens an unfinished blob, making it if there is none, for writing at
	// offset. What lies behind offset is dropped; with fewer bytes than offset
	// the error is FailedPrecondition.
	Append(ctx context.Context, key string, offset int64) (Writer, error)
	// Commit makes an unfinished blob final. It is no error if it is final already.
	Commit(ctx context.Context, key string) error
	// Open opens a final blob for reading.
	Open(ctx context.Context, key string) (Reader, error)
	// Delete removes a blob, final or not. It is no error if there is none.
	Delete(ctx context.Context, key string) error
	// Sweep removes unfinished blobs that nothing was written to since a time, and
	// returns how many.
	Sweep(ctx context.Context, before time.Time) (int, error)
}

// Writer writes to an unfinished blob.
type Writer interface {
	io.Writer
	// Sync makes what was written durable.
	Sync() error
	io.Closer
}

// Reader reads a final blob.
type Reader interface {
	io.ReadSeekCloser
	io.ReaderAt
}
