package exec

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"ringback.dev/internal/backend"
)

// FuzzRead reads anything at all. What is heard keeps the promises of the types, and
// an error is the command's.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"", "\n", `{"type":"progress","percent":40,"message":"half"}`, "{\"type\":\"chunk\",\"text\":\"a\"}\n{\"type\":\"result\",\"response\":{\"candidates\":[]}}\n",
		`{"type":"result","files":[{"path":"out.mp4","mime_type":"video/mp4"}],"filtered":{"count":1,"reasons":["x"]}}`,
		`{"type":"error","kind":"invalid_request","message":"no","retry_after":1e99}`, `{"type":"checkpoint","state":null}`, `{"type":"later","x":[]}`,
		`{"type":"progress","percent":-1e300}`, `[]`, "null\r\n", "{\"type\":\"chunk\",\"text\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ends, heard := 0, 0
		err := read(bytes.NewReader(data), func(said any) error {
			heard++
			switch s := said.(type) {
			case *progress:
				if s.Percent < 0 || s.Percent > 100 {
					t.Errorf("%v percent", s.Percent)
				}
			case *result:
				ends++
				if s.Filtered.Count < 0 {
					t.Errorf("%d filtered", s.Filtered.Count)
				}
			case *failure:
				ends++
				if e := s.asError(); e.Message == "" || len(e.Message) > maxMessage+len("…") || e.RetryAfter < 0 || e.RetryAfter > 24*time.Hour {
					t.Errorf("got %+v", e)
				}
			case *chunk, *checkpoint:
			case string:
				if s == "" {
					t.Error("a line without a type was heard")
				}
			default:
				t.Errorf("heard %T", said)
			}
			return nil
		})
		var e *backend.Error
		if err != nil && (!errors.As(err, &e) || e.Kind != backend.Internal) {
			t.Errorf("got %v", err)
		}
		if ends > 1 || heard > bytes.Count(data, []byte("\n"))+1 {
			t.Errorf("%d lines were heard, %d of them the end", heard, ends)
		}
	})
}

// endless prints lines for ever.
type endless struct{ line string }

func (e endless) Read(b []byte) (int, error) { return copy(b, e.line), nil }

// TestPrintedTooMuch: all that a command prints is bounded, also what is not kept.
func TestPrintedTooMuch(t *testing.T) {
	err := read(endless{strings.Repeat(" ", 4<<10-1) + "\n"}, func(any) error { return nil })
	if e := backend.AsError(err); e.Kind != backend.Internal || !strings.Contains(e.Message, "more than 256 MiB") {
		t.Errorf("got %v", err)
	}
}

// TestLateReader: what a command printed is read after its end too, however long the
// reader was away.
func TestLateReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close() // A program that left the group still holds it.
	if _, err := w.WriteString("late"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	p := &pipe{r, ended}
	close(ended)
	if err := r.SetReadDeadline(time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(p); err != nil || string(got) != "late" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestTail keeps the end, however it is written.
func TestTail(t *testing.T) {
	for _, step := range []int{1, 1000, maxComplaint, maxComplaint + 1, 3 * maxComplaint} {
		all := []byte(strings.Repeat("0123456789", 3000))
		var kept tail
		for rest := all; len(rest) > 0; {
			n := min(step, len(rest))
			if written, err := kept.Write(rest[:n]); written != n || err != nil {
				t.Fatalf("got %d, %v", written, err)
			}
			rest = rest[n:]
		}
		if !kept.cut || !bytes.Equal(kept.text, all[len(all)-maxComplaint:]) {
			t.Errorf("in steps of %d: %d bytes are kept, cut: %t", step, len(kept.text), kept.cut)
		}
	}
	var kept tail
	_, _ = kept.Write([]byte("a"))
	if kept.cut || string(kept.text) != "a" {
		t.Errorf("got %q, cut: %t", kept.text, kept.cut)
	}
}
