package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"ringback.dev/inbox"
	inboxsqlite "ringback.dev/inbox/sqlite"
	"ringback.dev/internal/edge"
)

// Edge is a receiver with its inbox, ready to run.
type Edge struct {
	*edge.Edge
	Log   *slog.Logger
	store *inboxsqlite.Store
}

// NewEdge opens the inbox of a configuration file and binds its addresses. Close
// frees it again if Run is not called.
func NewEdge(ctx context.Context, file string, logTo io.Writer) (*Edge, error) {
	set, err := edge.Read(file, logTo)
	if err != nil {
		return nil, err
	}
	store, err := openInbox(ctx, set.Data, true)
	if err != nil {
		return nil, err
	}
	log := slog.New(set.Log)
	e, err := edge.New(file, store, log)
	if err != nil {
		_ = store.Close() // The error that matters is known.
		return nil, err
	}
	return &Edge{e, log, store}, nil
}

// Run serves and acts until ctx ends, then stops and closes everything.
func (e *Edge) Run(ctx context.Context) error {
	err := e.Edge.Run(ctx)
	if e2 := e.store.Close(); err == nil {
		err = e2
	}
	return err
}

// Close frees an Edge that did not run.
func (e *Edge) Close() {
	e.Edge.Close()
	_ = e.store.Close() // Nothing was written.
}

// inboxFile is the inbox in an edge's data folder.
const inboxFile = "inbox.db"

func openInbox(ctx context.Context, data string, make bool) (*inboxsqlite.Store, error) {
	if make {
		if err := os.MkdirAll(data, 0o700); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
	}
	return inboxsqlite.Open(ctx, filepath.Join(data, inboxFile))
}

// InboxDesk is the inbox of an edge, for people.
type InboxDesk interface {
	inbox.Desk
	Close() error
}

// EdgeInbox opens the inbox of an edge, which may be running, by its configuration
// file or, if that is not empty, its data folder.
func EdgeInbox(ctx context.Context, file, data string) (InboxDesk, error) {
	if data == "" {
		set, err := edge.Read(file, io.Discard)
		if err != nil {
			return nil, err
		}
		data = set.Data
	}
	if _, err := os.Stat(filepath.Join(data, inboxFile)); err != nil {
		return nil, fmt.Errorf("there is no inbox in %s; name the edge's file with --config or its folder with --data", data)
	}
	return openInbox(ctx, data, false)
}

// CheckEdge reads a configuration file and reports what is in it, and, if event is
// not nil, what would be done about it.
func CheckEdge(file string, event *edge.Sample, to io.Writer) error {
	return edge.Check(file, event, to)
}

// EdgeSample is an event to try a configuration with.
type EdgeSample = edge.Sample

// EdgeProblems are the lines that say what is wrong with a file.
func EdgeProblems(file string, err error) []string { return edge.Located(file, err) }
