package spare

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestDo counts how much runs at once: everything while nobody asks, and as much
// as there are places afterwards, which rest as long as they work.
func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, places = time.Now(), newPlaces()
		defer func() { begin, places = time.Now(), newPlaces(); asked.Store(0) }()
		time.Sleep(time.Millisecond)
		n := 4 * cap(places)
		run := func() (took time.Duration, most int64) {
			var now, peak atomic.Int64
			var wg sync.WaitGroup
			start := time.Now()
			for range n {
				wg.Go(func() {
					Do(func() {
						peak.Store(max(peak.Load(), now.Add(1)))
						time.Sleep(2 * rest)
						now.Add(-1)
					})
				})
			}
			wg.Wait()
			return time.Since(start), peak.Load()
		}
		if took, most := run(); took != 2*rest || most != int64(n) {
			t.Errorf("while nobody asks %d run at once and it takes %v", most, took)
		}
		Asked()
		if took, most := run(); took != 4*4*rest || most != int64(cap(places)) {
			t.Errorf("when somebody asked %d run at once and it takes %v", most, took)
		}
		time.Sleep(attentive)
		if took, _ := run(); took != 2*rest {
			t.Errorf("a second later it takes %v", took)
		}
	})
}
