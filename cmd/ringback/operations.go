package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Batches and videos are operations on the wire: they are listed and waited for
// alike.

// operations reads a list, at most limit items of it, 0 for all.
func operations[T any](ctx context.Context, c *client, path string, limit int) ([]T, error) {
	all := []T{}
	for token := ""; ; {
		var page struct {
			Operations    []T
			NextPageToken string
		}
		if err := c.call(ctx, http.MethodGet, path+"?pageSize=100&pageToken="+url.QueryEscape(token), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Operations...)
		if limit > 0 && len(all) >= limit {
			return all[:limit], nil
		}
		if token = page.NextPageToken; token == "" {
			return all, nil
		}
	}
}

// standing is how far an operation is.
type standing struct {
	have, total int64
	note        string
	done        bool
}

// awayFor bounds how long a server may be away that was there before: the job goes
// on when it is back.
const awayFor = 10 * time.Minute

// await asks every second how far an operation is, shows it, and returns when it is
// done.
func await(ctx context.Context, s *streams, what string, ask func() (standing, error)) error {
	shown := newProgress(s.err, what, false, time.Now())
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last standing
	var answered time.Time
	defer func() {
		if !answered.IsZero() {
			shown.end(time.Now())
		}
	}()
	for {
		now := time.Now()
		at, err := ask()
		var refused *refusal
		switch {
		case err == nil:
			last, answered = at, now
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &refused) && refused.status < 500, now.Sub(answered) > awayFor: // Also if it never answered.
			return err
		default:
			at = last
			at.note = fmt.Sprintf("no answer for %s", now.Sub(answered).Round(time.Second))
		}
		shown.set(at.have, at.total, at.note, now)
		if at.done {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
