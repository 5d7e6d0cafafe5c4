package work

import (
	"bytes"
	"log/slog"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/backend/gemini"
)

// FuzzResults: whatever a provider sends, each row gets a result that bears its own
// number, or none.
func FuzzResults(f *testing.F) {
	f.Add([]byte("\xef\xbb\xbf{\"key\":\"1\",\"response\":{}}\r\n{\"key\":0,\"error\":{\"code\":3}}\n\n{\"key\":\"1\",\"response\":{\"again\":1}}"))
	f.Add([]byte("{\"key\":\"99\"}\nstrange\n{\"key\":\"2\",\"response\":[]}"))
	f.Fuzz(func(t *testing.T, file []byte) {
		up, err := gemini.New(gemini.Config{APIKey: "k"})
		if err != nil {
			t.Fatal(err)
		}
		x := &batchRun{Runner: New(Config{Log: slog.New(slog.DiscardHandler)}), job: &ringback.Job{}}
		u := &upstreamRun{batchRun: x, up: up, total: 3}
		found, err := u.index(t.Context(), bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		for row := range u.total {
			line, err := found.read(row)
			if err != nil {
				t.Fatal(err)
			}
			if line == nil {
				continue
			}
			if r, err := up.ReadResult(line); err != nil || r.Number != row {
				t.Fatalf("row %d gets %q of %q: %v", row, line, file, err)
			}
		}
	})
}
