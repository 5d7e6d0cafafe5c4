package work

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/store"
)

// journal gathers the results of rows and has the store keep them: all that came
// while the last ones were being stored go together. A row counts as open until
// it is stored, so that a slow store slows the rows down.
type journal struct {
	x *batchRun
	// places holds an element for each open row.
	places chan struct{}
	// shardDone has an element when a shard was done; sent to without blocking.
	shardDone chan struct{}
	wake      chan struct{} // The same when something was added.

	mu     sync.Mutex
	shards map[int]*openShard
	rows   int // In the shards' data.
	closed bool
}

// Results are held back for a while after the first, or until there are enough: a
// step of the store costs nearly the same for many as for one.
const (
	gatherTime = 20 * time.Millisecond
	enoughRows = openRows / 2
)

// openShard is a shard that this process works on.
type openShard struct {
	held              store.HeldShard
	left              int // Rows without a result, those in data excepted.
	data              []byte
	succeeded, failed int
	weight            int64
}

func newJournal(x *batchRun) *journal {
	return &journal{x: x, places: make(chan struct{}, openRows), shardDone: make(chan struct{}, 1), wake: make(chan struct{}, 1), shards: make(map[int]*openShard)}
}

// open lists a claimed shard, so that its lease is renewed.
func (j *journal) open(s *store.ClaimedShard) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.shards[s.Number] = &openShard{held: store.HeldShard{Number: s.Number, Token: s.Token}, left: s.Rows}
}

// expect tells how many results the shard still needs.
func (j *journal) expect(shard, left int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.shards[shard].left = left
}

func (j *journal) held() []store.HeldShard {
	j.mu.Lock()
	defer j.mu.Unlock()
	held := make([]store.HeldShard, 0, len(j.shards))
	for _, s := range j.shards {
		held = append(held, s.held)
	}
	return held
}

// A result in a group: the row's number within its shard, 1 if it failed, the
// length of its line, and the line.
func appendResult(data []byte, number int, failed bool, line []byte) []byte {
	data = binary.AppendUvarint(data, uint64(number))
	flag := byte(0)
	if failed {
		flag = 1
	}
	data = binary.AppendUvarint(append(data, flag), uint64(len(line)))
	return append(data, line...)
}

// recordedRow is a result as it was read back.
type recordedRow struct {
	line   []byte
	failed bool
}

var errJournal = errors.New("a group of results is damaged")

// readGroups reads the results of a shard, by the rows' numbers. Of a row that is
// there twice the first counts: it was the one that was paid for first.
func readGroups(groups [][]byte) (map[int]recordedRow, error) {
	rows := make(map[int]recordedRow)
	for _, data := range groups {
		for len(data) > 0 {
			number, n := binary.Uvarint(data)
			if n <= 0 || number >= shardRows || len(data) < n+1 {
				return nil, errJournal
			}
			failed := data[n] == 1
			data = data[n+1:]
			length, n := binary.Uvarint(data)
			if n <= 0 || uint64(len(data)-n) < length {
				return nil, errJournal
			}
			if _, ok := rows[int(number)]; !ok {
				rows[int(number)] = recordedRow{line: data[n : n+int(length)], failed: failed}
			}
			data = data[n+int(length):]
		}
	}
	return rows, nil
}

// add takes the result of a row.
func (j *journal) add(shard, number int, line []byte, failed bool, weight int64) {
	j.mu.Lock()
	s := j.shards[shard]
	s.data = appendResult(s.data, number, failed, line)
	if failed {
		s.failed++
	} else {
		s.succeeded++
	}
	s.weight += weight
	j.rows++
	j.mu.Unlock()
	j.hint()
}

// drop closes a row that has no result.
func (j *journal) drop(weight int64) {
	j.x.bytes.Release(weight)
	<-j.places
}

func (j *journal) hint() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// close ends run when everything that was added is stored.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.hint()
}

// run stores results until the journal is closed. When a lease was lost the whole
// run is: somebody else goes on with the batch.
func (j *journal) run(ctx context.Context, cancel context.CancelCauseFunc) {
	for range j.wake {
		j.gather()
		j.mu.Lock()
		closed := j.closed
		j.rows = 0
		var groups []group
		for number, s := range j.shards {
			if s.data == nil {
				continue
			}
			s.left -= s.succeeded + s.failed
			groups = append(groups, group{store.RowGroup{HeldShard: s.held, Data: s.data, Succeeded: s.succeeded, Failed: s.failed, Done: s.left == 0}, s.weight})
			s.data, s.succeeded, s.failed, s.weight = nil, 0, 0, 0
			if s.left == 0 {
				delete(j.shards, number)
			}
		}
		j.mu.Unlock()
		var storing sync.WaitGroup
		for _, g := range groups {
			storing.Go(func() { j.store(ctx, cancel, g) })
		}
		storing.Wait()
		if closed {
			return
		}
	}
}

// gather waits until there are enough results, or long enough.
func (j *journal) gather() {
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	for {
		j.mu.Lock()
		enough := j.closed || j.rows >= enoughRows
		j.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-j.wake:
		case <-timer.C:
			return
		}
	}
}

type group struct {
	store.RowGroup
	weight int64
}

func (j *journal) store(ctx context.Context, cancel context.CancelCauseFunc, g group) {
	x := j.x
	crash.At(crash.RowsAnswered)
	// A stop gives up on a store that can't be written; the rows are run again.
	stopped, done := context.WithCancel(ctx)
	defer done()
	defer context.AfterFunc(x.cutOff, done)()
	err := x.untilStored(stopped, "the results of rows", func() error { return x.Store.RecordRows(ctx, x.job.ID, g.RowGroup, x.Now()) })
	crash.At(crash.RowsRecorded)
	for range g.Succeeded + g.Failed {
		<-j.places
	}
	x.bytes.Release(g.weight)
	switch {
	case err == nil && g.Done:
		select {
		case j.shardDone <- struct{}{}:
		default:
		}
	case errors.Is(err, ringback.Stale):
		cancel(errLost)
	case err != nil:
		x.Log.Error("results of rows were not recorded; they will be run again", "batch", x.job.ID, "rows", g.Succeeded+g.Failed, "error", err)
		cancel(errLost)
	}
}
