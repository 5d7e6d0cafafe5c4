package work

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"ringback.dev"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/spare"
	"ringback.dev/internal/store"
)

// ResultType is the MIME type of a batch's output.
const ResultType = "application/jsonl"

// assemble writes the output: a line for each row, in the order of the input. Rows
// without a result, of a batch that did not come to its end, get an error that
// says so.
func (x *batchRun) assemble(ctx context.Context, state ringback.State) (Result, error) {
	var res Result
	stopped, done := context.WithCancel(ctx)
	defer done()
	defer context.AfterFunc(x.cutOff, done)()
	err := x.untilStored(stopped, "the output of a batch", func() (err error) {
		res, err = x.write(stopped, state)
		return err
	})
	crash.At(crash.OutputWritten)
	return res, err
}

func (x *batchRun) write(ctx context.Context, state ringback.State) (Result, error) {
	res := Result{State: state}
	shards, err := x.Store.Shards(ctx, x.job.ID)
	if err != nil {
		return res, err
	}
	if len(shards) == 0 {
		return res, nil // It was cancelled or expired before anything ran.
	}
	key := "batch-" + string(x.job.ID)
	w, err := x.Blobs.Append(ctx, key, 0)
	if err != nil {
		return res, err
	}
	defer w.Close()
	out := &counted{w: w, sum: sha256.New()}
	lines := bufio.NewWriterSize(out, 256<<10)
	unfinished := &genai.RowError{Code: grpcCancelled, Message: "the row was not run: the batch was cancelled"}
	if state == ringback.Expired {
		unfinished = &genai.RowError{Code: grpcDeadlineExceeded, Message: "the row was not run: the batch expired"}
		res.Failure = &ringback.Failure{Code: "DEADLINE_EXCEEDED", Message: "the batch was not done in time (the server's --batch-ttl)"}
	}
	if x.failure != nil {
		res.Failure = x.failure
		unfinished.Message = "the row was not run: " + x.failure.Message
		if state == ringback.Failed {
			unfinished.Code = grpcInternal
		}
	}
	for i := range shards {
		if err := ctx.Err(); err != nil {
			return res, errStopping
		}
		spare.Do(func() { err = x.writeShard(ctx, lines, &shards[i], unfinished, &res.Rows) })
		if err != nil {
			return res, err
		}
	}
	if err := lines.Flush(); err != nil {
		return res, err
	}
	if err := w.Sync(); err != nil {
		return res, err
	}
	if err := x.Blobs.Commit(ctx, key); err != nil {
		return res, err
	}
	if x.batch.Inline() {
		res.Blob = key
		return res, nil
	}
	now := x.Now()
	name := x.batch.DisplayName
	if name == "" {
		name = "batch " + string(x.job.ID)
	}
	res.Files = []ringback.File{{ID: ringback.NewFileID(now), Project: x.job.Project, DisplayName: "results of " + name, MimeType: ResultType,
		Size: out.n, SHA256: out.sum.Sum(nil), Blob: key, Generated: true, Created: now, Updated: now, Expires: now.Add(x.ResultTTL)}}
	return res, nil
}

// writeShard writes the lines of one shard.
func (x *batchRun) writeShard(ctx context.Context, w *bufio.Writer, s *store.ShardStatus, unfinished *genai.RowError, rows *ringback.RowCounts) error {
	groups, err := x.Store.ShardRows(ctx, x.job.ID, s.Number)
	if err != nil {
		return err
	}
	recorded, err := readGroups(groups)
	if err != nil {
		return fmt.Errorf("journal of batch %s: %w", x.job.ID, err)
	}
	var input *lineReader
	if len(recorded) < s.Rows {
		input = newLineReader(io.NewSectionReader(x.input, s.Offset, s.Length), s.Offset, s.Line-1, x.MaxRow)
	}
	rows.Total += int64(s.Rows)
	for i := range s.Rows {
		var in inputLine
		if input != nil {
			if in, err = input.next(); err != nil {
				return fmt.Errorf("input of batch %s: %w", x.job.ID, err)
			}
		}
		r, ok := recorded[i]
		switch {
		case !ok:
			parsed, _ := parseRow(&in, x.job.Model, x.batch) // Its key is all that is wanted.
			if r.line, err = parsed.result(nil, unfinished); err != nil {
				return err
			}
		case r.failed:
			rows.Failed++
		default:
			rows.Succeeded++
		}
		if _, err := w.Write(r.line); err != nil {
			return err
		}
		if err := w.WriteByte('\n'); err != nil {
			return err
		}
	}
	return nil
}

// counted counts and hashes what is written.
type counted struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.sum.Write(b[:n])
	c.n += int64(n)
	return n, err
}
