package sqlite

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestCountsPlan: counting reads neither bodies nor the ids that are merely
// remembered, which are most of the file after some weeks.
func TestCountsPlan(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "inbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	rows, err := s.read.QueryContext(t.Context(), `EXPLAIN QUERY PLAN `+countSQL)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	searches := 0
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		if step == "SCAN sources" || !strings.HasPrefix(step, "SCAN") && !strings.HasPrefix(step, "SEARCH") {
			continue
		}
		if searches++; !strings.HasPrefix(step, "SEARCH") || !strings.Contains(step, "USING COVERING INDEX") {
			t.Error(step)
		}
	}
	if err := rows.Err(); err != nil || searches != 5 {
		t.Errorf("%d searches, %v", searches, err)
	}
}
