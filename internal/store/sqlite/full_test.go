package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ringback.dev"
)

// TestFullDisk lets the database run into a limit, as a full disk would: each
// refused write says so and changes nothing, and writing goes on when there is
// room again.
func TestFullDisk(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	limit := func(pages int) {
		t.Helper()
		if err := s.writer.submit(t.Context(), func(x *tx) error {
			var now int
			return x.row(fmt.Sprintf("PRAGMA max_page_count = %d", pages)).Scan(&now)
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	create := func(n int) (ringback.ID, error) {
		j := &ringback.Job{ID: ringback.ID(fmt.Sprintf("v1_%d", n)), Project: "p", Kind: ringback.KindInteraction, State: ringback.Pending,
			Spec: []byte(`"` + strings.Repeat("x", 20_000) + `"`), Created: now, Updated: now}
		return j.ID, s.CreateJob(t.Context(), j, nil)
	}
	limit(100)
	var stored []ringback.ID
	var refused ringback.ID
	for n := 0; refused == "" && n < 1000; n++ {
		id, err := create(n)
		switch {
		case err == nil:
			stored = append(stored, id)
		case errors.Is(err, ringback.StorageFull):
			refused = id
		default:
			t.Fatal(err)
		}
	}
	if refused == "" || len(stored) == 0 {
		t.Fatalf("%d jobs were stored, refused was %q", len(stored), refused)
	}
	if _, err := s.Job(t.Context(), "p", refused); !errors.Is(err, ringback.NotFound) {
		t.Errorf("the refused job: %v", err)
	}
	limit(100_000)
	if _, err := create(5000); err != nil {
		t.Errorf("with room again: %v", err)
	}
	for _, id := range stored {
		if _, err := s.Job(t.Context(), "p", id); err != nil {
			t.Errorf("a stored job is gone: %v", err)
		}
	}
}
