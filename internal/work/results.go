package work

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/spare"
	"ringback.dev/internal/store"
)

// The last steps of a batch that was handed over (upstream.go): its results are
// fetched and recorded.
const (
	// maxResult bounds a line of results; groupBytes is how many bytes of them are
	// recorded at once, about.
	maxResult  = 64 << 20
	groupBytes = 4 << 20
)

// fetch copies the results into a blob, unless an earlier run did.
func (u *upstreamRun) fetch(ctx context.Context) error {
	key := resultsBlob(u.job.ID)
	if r, err := u.Blobs.Open(ctx, key); err == nil {
		return r.Close()
	}
	const what = "the download of the results of a batch"
	err := u.patiently(ctx, what, func() error {
		return u.untilStored(ctx, what, func() error {
			w, err := u.Blobs.Append(ctx, key, 0)
			if err != nil {
				return err
			}
			defer w.Close()
			to := bufio.NewWriterSize(w, 256<<10)
			if err := u.up.BatchResults(ctx, u.note.Ended.Results, to); err != nil {
				return err
			}
			if err := to.Flush(); err != nil {
				return err
			}
			return w.Sync()
		})
	})
	if err == nil {
		err = u.untilStored(ctx, what, func() error { return u.Blobs.Commit(ctx, key) })
	}
	var refused *backend.Error
	if errors.As(err, &refused) && ctx.Err() == nil {
		// They are gone. Each row says so, unless the batch had failed anyway.
		u.Log.Error("the results of a batch can't be fetched", "batch", u.job.ID, "as", u.note.Batch, "error", err)
		return u.untilStored(ctx, what, func() error { return u.emptyResults(ctx, key) })
	}
	crash.At(crash.UpstreamFetched)
	return err
}

// emptyResults stands for results that are gone.
func (u *upstreamRun) emptyResults(ctx context.Context, key string) error {
	w, err := u.Blobs.Append(ctx, key, 0)
	if err != nil {
		return err
	}
	return errors.Join(w.Close(), u.Blobs.Commit(ctx, key))
}

// results are what was fetched, and where in it the result of each row is.
type results struct {
	file io.ReaderAt
	// place and length are those of a row's line; the latter is 0 if there is none.
	// Of a row that is there twice the first counts.
	place  []int64
	length []int32
}

// index looks for the rows in the results, whose order is not promised.
func (u *upstreamRun) index(ctx context.Context, file io.ReaderAt) (*results, error) {
	r := &results{file: file, place: make([]int64, u.total), length: make([]int32, u.total)}
	lines := newLineReader(io.NewSectionReader(file, 0, 1<<62), 0, 0, maxResult)
	strange := 0
	for ctx.Err() == nil {
		line, err := lines.next()
		if err == io.EOF {
			if strange > 0 {
				u.Log.Warn("the results of a batch hold lines that belong to none of its rows", "batch", u.job.ID, "rows", u.total, "lines", strange)
			}
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		var one *backend.UpstreamResult
		spare.Do(func() { one, err = u.up.ReadResult(line.text) })
		if err != nil || line.tooLong || one.Number >= u.total || r.length[one.Number] > 0 {
			strange++
			continue
		}
		r.place[one.Number], r.length[one.Number] = line.offset, int32(line.length)
	}
	return nil, errStopping
}

// read returns the line of a row, nil if there is none.
func (r *results) read(row int64) ([]byte, error) {
	if r.length[row] == 0 {
		return nil, nil
	}
	text := make([]byte, r.length[row])
	if _, err := r.file.ReadAt(text, r.place[row]); err != nil && err != io.EOF {
		return nil, err
	}
	return bytes.TrimSpace(bytes.TrimPrefix(text, bom)), nil
}

// record puts the results into the journals of the shards. What an earlier run has
// recorded stays.
func (u *upstreamRun) record(ctx context.Context) error {
	if err := u.openInput(ctx); err != nil {
		return err
	}
	file, err := u.Blobs.Open(ctx, resultsBlob(u.job.ID))
	if err != nil {
		return err
	}
	defer file.Close()
	found, err := u.index(ctx, file)
	if err != nil {
		return err
	}
	looked := make(map[int]bool)
	for {
		var shards []store.ClaimedShard
		err := u.untilStored(ctx, "the claim of a shard", func() (err error) {
			now := u.Now()
			shards, err = u.Store.ClaimShards(ctx, u.job.ID, u.Node, now, now.Add(u.Lease), claimAhead)
			return err
		})
		if err != nil {
			return err
		}
		for i := range shards {
			if looked[shards[i].Number] {
				continue // Rows are missing in it that nobody has run.
			}
			looked[shards[i].Number] = true
			if err := u.recordShard(ctx, &shards[i], found); err != nil {
				return err
			}
		}
		if len(shards) > 0 {
			continue
		}
		// The lease of one may be a dead run's.
		all, err := u.Store.Shards(ctx, u.job.ID)
		if err != nil {
			return err
		}
		left := false
		for _, s := range all {
			left = left || !s.Done && !looked[s.Number]
		}
		if !left {
			return nil
		}
		if err := u.rest(ctx, poll, nil); err != nil {
			return err
		}
	}
}

// recordShard records the rows of a shard. If the provider has finished the batch,
// rows that it says nothing of have failed.
func (u *upstreamRun) recordShard(ctx context.Context, s *store.ClaimedShard, found *results) error {
	have, err := u.Store.ShardRows(ctx, u.job.ID, s.Number)
	if err != nil {
		return err
	}
	recorded, err := readGroups(have)
	if err != nil {
		return fmt.Errorf("journal of batch %s: %w", u.job.ID, err)
	}
	held := store.HeldShard{Number: s.Number, Token: s.Token}
	left := s.Rows - len(recorded)
	g := store.RowGroup{HeldShard: held}
	flush := func() error {
		left -= g.Succeeded + g.Failed
		if g.Done = left == 0; len(g.Data) == 0 {
			return nil
		}
		crash.At(crash.RowsAnswered)
		err := u.untilStored(ctx, "the results of rows", func() error { return u.Store.RecordRows(ctx, u.job.ID, g, u.Now()) })
		crash.At(crash.RowsRecorded)
		g = store.RowGroup{HeldShard: held}
		if errors.Is(err, ringback.Stale) {
			return errLost
		}
		if err == nil && left > 0 { // Results can be large.
			err = u.Store.RenewShards(ctx, u.job.ID, []store.HeldShard{held}, u.Now().Add(u.Lease))
		}
		return err
	}
	lines := newLineReader(io.NewSectionReader(u.input, s.Offset, s.Length), s.Offset, s.Line-1, u.MaxRow)
	for i := range s.Rows {
		line, err := lines.next()
		if err != nil {
			return fmt.Errorf("input of batch %s, row %d of shard %d: %w", u.job.ID, i, s.Number, err)
		}
		if _, ok := recorded[i]; ok {
			continue
		}
		text, failed, err := u.result(&line, s.First+int64(i), found)
		if err != nil {
			return err
		}
		if text == nil {
			continue
		}
		g.Data = appendResult(g.Data, i, failed, text)
		if failed {
			g.Failed++
		} else {
			g.Succeeded++
		}
		if len(g.Data) > groupBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// result prints the line of a row for the output, nil if it was not run.
func (u *upstreamRun) result(line *inputLine, row int64, found *results) (text []byte, failed bool, err error) {
	spare.Do(func() {
		r, bad := parseRow(line, u.job.Model, u.batch)
		if bad != nil {
			failed = true
			text, err = r.result(nil, &genai.RowError{Code: grpcInvalidArgument, Message: bad.Error()})
			return
		}
		var there []byte
		if there, err = found.read(row); err != nil {
			return
		}
		one := &backend.UpstreamResult{Error: &genai.RowError{Code: grpcInternal, Message: "the back-end's results have none for this row"}}
		if there != nil {
			if one, err = u.up.ReadResult(there); err != nil {
				return
			}
		} else if u.note.Ended.State != ringback.Completed {
			return
		}
		failed = one.Error != nil
		text, err = r.result(one.Response, one.Error)
	})
	return text, failed, err
}
