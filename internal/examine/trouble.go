package examine

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"ringback.dev/internal/post"
	"ringback.dev/webhook"
)

// trouble are the cases of messages that come slowly, or never end.
func trouble() []kase {
	return []kase{
		{Case{"huge", groupTrouble, "a body of 32 MiB that nobody signed",
			"413 or another 4xx, or the connection closed, before all of it was read", "Whoever knows the address could fill your memory. Events are below 20 kB.",
			"Bound the body before it is read: http.MaxBytesReader, express.raw({limit}), client_max_body_size."},
			"", false, nil, huge},
		{Case{"slow-body", groupTrouble, "a good message whose body comes in pieces, with pauses",
			"2xx, and the effect", "One read is not the whole body: networks deliver in pieces.",
			"Read until content-length bytes, or the end, are there."},
			"", false, nil, slowBody},
		{Case{"stalled-body", groupTrouble, "a message whose body does not go on, and a good one beside it",
			"2xx to the good one at once", "A receiver with one thread, or a lock around its handler, is stopped by one slow sender.",
			"Serve each connection by itself, and give reading a time-out."},
			"", false, nil, stalledBody},
	}
}

// endless is a body of a given size of which nothing is kept.
type endless struct {
	head string
	left int64
	read atomic.Int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), e.left))
	for i := range n {
		p[i] = 'x'
	}
	if done := e.read.Load(); done < int64(len(e.head)) {
		copy(p[:n], e.head[done:])
	}
	e.left -= int64(n)
	e.read.Add(int64(n))
	return n, nil
}

func huge(ctx context.Context, x *exam) error {
	m, err := x.event()
	if err != nil {
		return err
	}
	m.edit = func(h http.Header) { h.Set(webhook.HeaderSignature, "v1,"+randomBase64(32)) }
	h, err := x.sign(&m)
	if err != nil {
		return err
	}
	body := &endless{head: `{"type":"ping","version":"v1","data":{"id":"`, left: x.Huge}
	within, cancel := context.WithTimeout(ctx, 4*x.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(within, http.MethodPost, x.URL, body)
	if err != nil {
		return err
	}
	req.Header, req.ContentLength = h, x.Huge
	r := post.Result{At: time.Now()}
	resp, err := x.Transport.RoundTrip(req)
	read := body.read.Load()
	if err == nil {
		r.Status = resp.StatusCode
		_ = resp.Body.Close() // Its text does not matter.
	}
	r.Took, r.Err = time.Since(r.At), err
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	x.note(fmt.Sprintf("after %.1f MiB", float64(read)/(1<<20)), h, []byte(body.head+"…"), x.Huge, &r)
	switch {
	case read >= x.Huge && r.Status != 0:
		x.fail("it read all of it before it answered %d", r.Status)
	case within.Err() != nil:
		x.fail("it was still reading when the time was over, after %d MiB", read>>20)
	case r.Status != 0:
		x.refused(&r)
	}
	return x.acted(ctx, 0)
}

func slowBody(ctx context.Context, x *exam) error {
	m, err := x.event()
	if err != nil {
		return err
	}
	c, err := x.dial(ctx, &m, int64(len(m.body)))
	if err != nil {
		return err
	}
	const pieces = 4
	rest := m.body
	for i := range pieces {
		if err := wait(ctx, x.Pause); err != nil {
			c.Close()
			return err
		}
		n := len(rest) / (pieces - i)
		if _, err := c.Write(rest[:n]); err != nil {
			break // Its answer may be there nevertheless.
		}
		rest = rest[n:]
	}
	r := c.answer("in pieces", x, m.body)
	if !x.accepted(&r) {
		return nil
	}
	return x.acted(ctx, 1)
}

func stalledBody(ctx context.Context, x *exam) error {
	stalled, err := x.event()
	if err != nil {
		return err
	}
	c, err := x.dial(ctx, &stalled, int64(len(stalled.body)))
	if err != nil {
		return err
	}
	if _, err := c.Write(stalled.body[:10]); err != nil {
		c.Close()
		return err
	}
	// So that the receiver is at it when the other one comes.
	if err := wait(ctx, x.Pause); err != nil {
		c.Close()
		return err
	}
	m, err := x.event()
	if err != nil {
		c.Close()
		return err
	}
	m.note = "beside it"
	r, err := x.send(ctx, m)
	c.hangUp("stalled", x, stalled.body[:10])
	if err != nil {
		return err
	}
	if r.Status == 0 {
		x.fail("%s to a good message while the other one stalled", r.Why())
	} else {
		x.accepted(&r)
	}
	return x.acted(ctx, 1)
}

// wire is a connection on which a request is written by hand: package net/http
// gathers a body's pieces before it sends them.
type wire struct {
	net.Conn
	header http.Header
	begun  time.Time
	stop   func() bool
}

// dial opens a connection and writes the head of a request.
func (x *exam) dial(ctx context.Context, m *message, size int64) (*wire, error) {
	h, err := x.sign(m)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(x.URL)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	address := net.JoinHostPort(u.Hostname(), port)
	w := &wire{header: h, begun: time.Now()}
	if u.Scheme == "https" {
		w.Conn, err = (&tls.Dialer{}).DialContext(ctx, "tcp", address)
	} else {
		w.Conn, err = (&net.Dialer{Timeout: x.Timeout}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		r := post.Result{At: w.begun, Took: time.Since(w.begun), Err: err}
		x.note("", h, nil, 0, &r)
		return nil, errors.New(r.Why())
	}
	w.stop = context.AfterFunc(ctx, func() { _ = w.SetDeadline(time.Unix(1, 0)) }) // Wakes whoever reads or writes.
	if err = w.SetDeadline(time.Now().Add(x.Timeout + 8*x.Pause)); err == nil {
		_, err = fmt.Fprintf(w, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: close\r\n", u.RequestURI(), u.Host, size)
	}
	if err == nil {
		err = h.Write(w)
	}
	if err == nil {
		_, err = io.WriteString(w, "\r\n")
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Close closes the connection.
func (w *wire) Close() error {
	w.stop()
	return w.Conn.Close()
}

// hangUp closes the connection without waiting for an answer.
func (w *wire) hangUp(note string, x *exam, body []byte) {
	_ = w.Close() // The other side may have closed it first.
	r := post.Result{At: w.begun, Took: time.Since(w.begun), Err: errHungUp}
	x.note(note, w.header, body, int64(len(body)), &r)
}

var errHungUp = errors.New("not waited for")

// answer reads the answer and closes the connection.
func (w *wire) answer(note string, x *exam, body []byte) post.Result {
	defer w.Close()
	r := post.Result{At: w.begun}
	resp, err := http.ReadResponse(bufio.NewReader(w), nil)
	if err == nil {
		r.Status = resp.StatusCode
		r.Answer, _ = io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // What broke off is an answer, too.
		_ = resp.Body.Close()
	}
	r.Took, r.Err = time.Since(w.begun), err
	x.note(note, w.header, body, int64(len(body)), &r)
	return r
}
