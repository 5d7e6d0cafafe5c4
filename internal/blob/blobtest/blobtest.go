// Package blobtest checks that a store of blobs keeps the contract of package
// blob.
package blobtest

import (
	"errors"
	"io"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/blob"
)

// Run checks a store that reopen opens, each time on the same data.
func Run(t *testing.T, reopen func(t *testing.T) blob.Store) {
	write := func(t *testing.T, s blob.Store, key string, offset int64, text string) {
		t.Helper()
		w, err := s.Append(t.Context(), key, offset)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Sync(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	read := func(t *testing.T, s blob.Store, key string) string {
		t.Helper()
		r, err := s.Open(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	t.Run("a blob is written in pieces over restarts", func(t *testing.T) {
		s := reopen(t)
		write(t, s, "blob_pieces", 0, "hello ")
		if _, err := s.Open(t.Context(), "blob_pieces"); !errors.Is(err, ringback.NotFound) {
			t.Errorf("an unfinished blob was opened: %v", err)
		}
		s = reopen(t)
		write(t, s, "blob_pieces", 6, "world, and too much")
		write(t, s, "blob_pieces", 11, "!")
		for range 2 { // The second time it is final already.
			if err := s.Commit(t.Context(), "blob_pieces"); err != nil {
				t.Fatal(err)
			}
		}
		s = reopen(t)
		if got := read(t, s, "blob_pieces"); got != "hello world!" {
			t.Errorf("the blob holds %q", got)
		}
		r, err := s.Open(t.Context(), "blob_pieces")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		part := make([]byte, 5)
		if _, err := r.ReadAt(part, 6); err != nil || string(part) != "world" {
			t.Errorf("ReadAt: %q, %v", part, err)
		}
		if end, err := r.Seek(0, io.SeekEnd); err != nil || end != 12 {
			t.Errorf("Seek: %d, %v", end, err)
		}
	})
	t.Run("an empty blob", func(t *testing.T) {
		s := reopen(t)
		write(t, s, "blob_empty", 0, "")
		if err := s.Commit(t.Context(), "blob_empty"); err != nil {
			t.Fatal(err)
		}
		if got := read(t, s, "blob_empty"); got != "" {
			t.Errorf("the blob holds %q", got)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		s := reopen(t)
		if _, err := s.Append(t.Context(), "blob_short", 5); !errors.Is(err, ringback.FailedPrecondition) {
			t.Errorf("append behind the end: %v", err)
		}
		if err := s.Commit(t.Context(), "blob_none"); !errors.Is(err, ringback.NotFound) {
			t.Errorf("commit: %v", err)
		}
		if err := s.Delete(t.Context(), "blob_none"); err != nil {
			t.Errorf("delete: %v", err)
		}
		for _, key := range []string{"", "..", "../../etc", "a/b0", "ABCD"} {
			if _, err := s.Open(t.Context(), key); !errors.Is(err, ringback.InvalidArgument) {
				t.Errorf("open %q: %v", key, err)
			}
		}
	})
	t.Run("delete and sweep", func(t *testing.T) {
		s := reopen(t)
		write(t, s, "blob_final", 0, "x")
		if err := s.Commit(t.Context(), "blob_final"); err != nil {
			t.Fatal(err)
		}
		write(t, s, "blob_half", 0, "x")
		if n, err := s.Sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
			t.Errorf("sweep of what is fresh: %d, %v", n, err)
		}
		if n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour)); n < 1 || err != nil {
			t.Errorf("sweep: %d, %v", n, err)
		}
		if err := s.Commit(t.Context(), "blob_half"); !errors.Is(err, ringback.NotFound) {
			t.Errorf("after the sweep: %v", err)
		}
		if got := read(t, s, "blob_final"); got != "x" {
			t.Errorf("the final blob holds %q", got)
		}
		if err := s.Delete(t.Context(), "blob_final"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(t.Context(), "blob_final"); !errors.Is(err, ringback.NotFound) {
			t.Errorf("after its deletion: %v", err)
		}
	})
}
