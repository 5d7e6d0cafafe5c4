package sqlite_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/inbox/sqlite"
	"ringback.dev/internal/group"
	"ringback.dev/internal/inboxtest"
)

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	inboxtest.Run(t, func(t *testing.T) inboxtest.Store {
		s := open(t, filepath.Join(t.TempDir(), "in box?.db"))
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	})
}

// TestShared opens a file twice, as a receiver and a command do.
func TestShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	a, b := open(t, path), open(t, path)
	defer b.Close()
	now := time.Now()
	e := &inbox.Entry{ID: "msg_1", Sent: now, Received: now, Body: []byte("x"), State: inbox.Pending, Due: now}
	if first, err := a.Accept(t.Context(), e); !first || err != nil {
		t.Fatal(first, err)
	}
	if first, err := b.Accept(t.Context(), e); first || err != nil {
		t.Fatal(first, err)
	}
	if got, err := b.Claim(t.Context(), "", now, now.Add(time.Minute), 1); len(got) != 1 || err != nil {
		t.Fatal(got, err)
	}
	if got, err := a.Claim(t.Context(), "", now, now.Add(time.Minute), 1); len(got) != 0 || err != nil {
		t.Fatal(got, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Accept(context.Background(), e); !errors.Is(err, group.ErrClosed) {
		t.Errorf("a closed store accepts: %v", err)
	}
	if got, err := b.Entry(t.Context(), "", "msg_1"); err != nil || !got.Working {
		t.Errorf("got %+v, %v", got, err)
	}
}
