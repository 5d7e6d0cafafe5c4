package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// client are the flags of commands that talk to a server.
type client struct {
	Server string `default:"http://127.0.0.1:8080" env:"RINGBACK_SERVER,GOOGLE_GEMINI_BASE_URL" placeholder:"URL" help:"Base address of the server."`
	APIKey string `name:"api-key" required:"" env:"RINGBACK_API_KEY,GEMINI_API_KEY" placeholder:"KEY" help:"API key of the project."`
	JSON   bool   `name:"json" help:"Print the server's JSON."`
}

// call calls the Gemini API and decodes the answer.
func (c *client) call(ctx context.Context, method, path string, body, out any) error {
	return c.decode(ctx, method, "/v1"+path, body, out)
}

// manage calls ringback's own API and decodes the answer.
func (c *client) manage(ctx context.Context, method, path string, body, out any) error {
	return c.decode(ctx, method, "/ringback/v1/"+path, body, out)
}

func (c *client) decode(ctx context.Context, method, path string, body, out any) error {
	resp, err := c.open(ctx, method, path, body, time.Minute)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(out); err != nil {
		return fmt.Errorf("the answer can't be read: %w", err)
	}
	return nil
}

// open makes a request. An error of the server is its message.
func (c *client) open(ctx context.Context, method, path string, body any, timeout time.Duration) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.Server, "/")+path, reader)
	if err != nil {
		return nil, fmt.Errorf("--server: %q is not the address of a server", c.Server)
	}
	req.Header.Set("X-Goog-Api-Key", c.APIKey)
	resp, err := (&http.Client{Timeout: timeout}).Do(req)
	if err != nil {
		return nil, unanswered(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refused(resp, c.Server)
}

// unanswered says why there is no answer, without the address and its query.
func unanswered(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	return fmt.Errorf("the server does not answer: %w", err)
}

// create creates a job, trying again while the server does not answer: the key makes
// that harmless.
func (c *client) create(ctx context.Context, path string, q, op any) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	key := rand.Text()
	for try := 1; ; try++ {
		resp, err := c.send(ctx, http.MethodPost, strings.TrimRight(c.Server, "/")+path, bytes.NewReader(body), map[string]string{
			"Content-Type": "application/json", "Idempotency-Key": key})
		if err == nil {
			defer resp.Body.Close()
			return json.NewDecoder(resp.Body).Decode(op)
		}
		if _, refused := err.(*refusal); refused || try == 3 {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// raw prints the server's JSON of a request.
func (c *client) raw(ctx context.Context, s *streams, method, path string, body any) error {
	var v json.RawMessage
	if err := c.manage(ctx, method, path, body, &v); err != nil {
		return err
	}
	return printJSON(s, v)
}

// pages reads lists page by page, at most limit items in all, 0 for no limit.
func pages[T any](ctx context.Context, c *client, path string, q url.Values, cursor, member string, limit int) ([]T, error) {
	var all []T
	for {
		size := 1000
		if limit > 0 {
			size = min(size, limit-len(all))
		}
		q.Set("limit", strconv.Itoa(size))
		var page map[string]json.RawMessage
		if err := c.manage(ctx, http.MethodGet, path+"?"+q.Encode(), nil, &page); err != nil {
			return nil, err
		}
		var items []T
		if err := json.Unmarshal(page[member], &items); err != nil {
			return nil, fmt.Errorf("the answer can't be read: %w", err)
		}
		all = append(all, items...)
		var next string
		if page["next"] != nil {
			if err := json.Unmarshal(page["next"], &next); err != nil {
				return nil, fmt.Errorf("the answer can't be read: %w", err)
			}
		}
		if next == "" || len(items) < size || limit > 0 && len(all) >= limit {
			return all, nil
		}
		q.Set(cursor, next)
	}
}

// set puts what is not empty into a query.
func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

// when reads a time that people gave: RFC 3339, a date, or an age such as 24h. The
// result is RFC 3339; empty stays empty.
func when(flag, text string, now time.Time) (string, error) {
	if text == "" {
		return "", nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t.UTC().Format(time.RFC3339), nil
		}
	}
	if d, err := duration(text); err == nil && d >= 0 {
		return now.Add(-d).UTC().Format(time.RFC3339), nil
	}
	return "", fmt.Errorf("--%s: %q is neither a time (2026-10-01T12:00:00Z), a date (2026-10-01) nor an age (24h)", flag, text)
}

// duration reads a duration, also of days: 7d.
func duration(text string) (time.Duration, error) {
	days, ok := strings.CutSuffix(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseInt(days, 10, 16)
	return time.Duration(n) * 24 * time.Hour, err
}

// local shows a server's time in the local zone, to the second.
func local(text string) string {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return text
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}

// follow reads server-sent events (the HTML standard §9.2.6) and calls each with
// their name, id and data, until the stream ends or each returns an error.
func follow(r io.Reader, each func(name, id, data string) error) error {
	var name, id, data string
	lines := newLines(r)
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "":
			if lines.Text() == "" && data != "" {
				if err := each(name, id, strings.TrimSuffix(data, "\n")); err != nil {
					return err
				}
			}
			if lines.Text() == "" {
				name, id, data = "", "", ""
			}
		case "event":
			name = value
		case "id":
			id = value
		case "data":
			data += value + "\n"
		}
	}
	return lines.Err()
}

// subscription is what is done with the server's stream.
type subscription struct {
	// opened, if not nil, is called whenever the stream was opened.
	opened func()
	// last is the event that the stream is to begin behind, if it is known.
	last string
	// event is called with the cursor of each event, its JSON, and what is read of it.
	// Its error ends all.
	event func(cursor, data string, e eventAnswer) error
}

// errForgotten: the server has not got the data that it had.
var errForgotten = errors.New("the server does not know the last event any more: it runs on other data; begin again")

// knows asks whether the server has an event; of none, it has.
func (c *client) knows(ctx context.Context, event string) (bool, error) {
	if event == "" {
		return true, nil
	}
	var e struct{ Code string }
	err := c.manage(ctx, http.MethodGet, "events/"+url.PathEscape(event), nil, &e)
	var status *refusal
	if errors.As(err, &status) && status.status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// subscribe follows the server's stream until ctx ends, which is no error. After a
// broken connection it resumes where it was, unless the server has other data now. q
// holds the parameters; after is kept up to date in it.
func (c *client) subscribe(ctx context.Context, s *streams, q url.Values, on subscription) error {
	var final error // Not of the connection.
	opened := false
	for wait := time.Second; ; {
		var err error
		if opened {
			var known bool
			if known, err = c.knows(ctx, on.last); err == nil && !known {
				err = errForgotten
			}
		}
		var resp *http.Response
		if err == nil {
			resp, err = c.open(ctx, http.MethodGet, "/ringback/v1/stream?"+q.Encode(), nil, 0)
		}
		if err == nil {
			wait, opened = time.Second, true
			if on.opened != nil {
				on.opened()
			}
			err = follow(resp.Body, func(name, id, data string) error {
				if name != "event" {
					return nil
				}
				q.Set("after", id)
				var e eventAnswer
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					final = fmt.Errorf("an event can't be read: %w", err)
					return final
				}
				on.last = e.ID
				final = on.event(id, data, e)
				return final
			})
			_ = resp.Body.Close() // It has been read.
		}
		var refused *refusal
		switch {
		case ctx.Err() != nil:
			return nil // Interrupted: that is how it ends.
		case final != nil:
			return final
		case err == nil:
			err = errors.New("the server closed it")
		case !opened, errors.As(err, &refused) && refused.status < 500, errors.Is(err, errForgotten):
			return err
		}
		fmt.Fprintf(s.err, "the connection ended: %v; again in %s\n", err, wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Minute)
	}
}
