package egress

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Transport sends requests over HTTP/1.1 connections that it keeps alive, each
// used by one request at a time, written with one system call (but for bodies of
// more than 1 MiB) and read by the goroutine that asks. net/http's transport hands
// each request to two more goroutines; without that a small POST costs half as much,
// and callbacks are nothing but small POSTs (docs/decisions/0007-own-transport.md).
// Where a server agrees on HTTP/2 in the TLS handshake, requests share net/http's
// connections for that (shared.go).
//
// It implements http.RoundTripper for requests with a body of known length. It
// uses no proxy, does not ask for compression and reports its phases to the
// request's httptrace.
type Transport struct {
	// Dial opens a connection; it is where addresses are checked.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS configures https; nil means the defaults.
	TLS *tls.Config
	// MaxIdle and MaxIdlePerHost bound the connections that are kept.
	MaxIdle, MaxIdlePerHost int
	// IdleTimeout is how long they are kept, HandshakeTimeout how long TLS may take.
	IdleTimeout, HandshakeTimeout time.Duration
	// MaxAge is how long a connection is used for new requests, so that a name's
	// new address is noticed. Zero means 5 minutes.
	MaxAge time.Duration
	// NoHTTP2 keeps to HTTP/1.1.
	NoHTTP2 bool
	// MaxHeader bounds the bytes of an answer's header.
	MaxHeader int64

	mu     sync.Mutex
	idle   map[string][]*conn   // By scheme, host and certificate; used last is last.
	kept   int                  // Connections in idle.
	shared map[string][]*shared // HTTP/2 connections, by the same keys.
	timer  *time.Timer          // Sweeps as long as anything is kept.
}

func (t *Transport) maxAge() time.Duration {
	if t.MaxAge == 0 {
		return 5 * time.Minute
	}
	return t.MaxAge
}

// With returns a transport that shows a client certificate (mutual TLS). It
// shares no connection with requests that show another, or none.
func (t *Transport) With(cert *tls.Certificate) http.RoundTripper {
	sum := sha256.New()
	for _, der := range cert.Certificate {
		sum.Write(der)
	}
	return &certified{t, cert, hex.EncodeToString(sum.Sum(nil))}
}

// certified is a transport with a client certificate.
type certified struct {
	t    *Transport
	cert *tls.Certificate
	id   string
}

// RoundTrip implements http.RoundTripper.
func (c *certified) RoundTrip(req *http.Request) (*http.Response, error) {
	return c.t.roundTrip(req, c)
}

// conn is a connection. It belongs to one request, or to the idle list.
type conn struct {
	net.Conn
	quiet  func() bool // Whether nothing waits on what is beneath TLS.
	key    string
	limit  io.LimitedReader // Bounds what one answer may bring.
	reader *bufio.Reader
	out    []byte // The request as it is written.
	born   time.Time
	since  time.Time // Since when it is idle.
	reused bool
}

var (
	errNoLength  = errors.New("egress: a request needs a body of known length")
	errMalformed = errors.New("egress: an address or header would break the request's form")
)

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.roundTrip(req, nil)
}

func (t *Transport) roundTrip(req *http.Request, as *certified) (*http.Response, error) {
	if err := sendable(req); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // Nothing was read of it.
		}
		return nil, err
	}
	var body []byte
	once := isOnce(req)
	if req.Body != nil && !once {
		body = make([]byte, req.ContentLength)
		_, err := io.ReadFull(req.Body, body)
		_ = req.Body.Close() // It has been read.
		if err != nil {
			return nil, err
		}
	}
	for fresh := false; ; fresh = true {
		c, s, err := t.connect(req, as, fresh)
		if err != nil {
			if once {
				_ = req.Body.Close() // Nothing was read of it.
			}
			return nil, err
		}
		if s != nil {
			resp, again, err := s.exchange(req, body)
			if !again || fresh || once || req.Context().Err() != nil {
				return resp, err
			}
			continue
		}
		resp, err := t.exchange(c, req, body)
		if err == nil {
			return resp, nil
		}
		_ = c.Close() // The error that matters is known.
		if ctxErr := req.Context().Err(); ctxErr != nil {
			return nil, ctxErr
		}
		// The other side may have closed a kept connection just before it was used.
		// If nothing of an answer came, a fresh one is tried, once: a receiver that
		// breaks off whenever it sees this request must not see it once for every
		// kept connection.
		if !c.reused || once || !errors.Is(err, errNothing) {
			return nil, err
		}
	}
}

// maxHeld is up to where a body is held in memory, so that it can be sent again over
// a fresh connection.
const maxHeld = 1 << 20

// isOnce reports whether a body is sent as it is read. What becomes of it is for
// whoever sends it to see to.
func isOnce(req *http.Request) bool { return req.Body != nil && req.ContentLength > maxHeld }

// sendable refuses what can't be written as one well-formed request. In a
// net/http request a length of 0 with a body means an unknown length.
func sendable(req *http.Request) error {
	if req.Body != nil && req.Body != http.NoBody && req.ContentLength <= 0 {
		return errNoLength
	}
	if strings.ContainsAny(req.URL.RawQuery, " \r\n\x00") || strings.ContainsAny(req.URL.Host, " \r\n\x00") {
		return errMalformed
	}
	for name, values := range req.Header {
		if name == "" || strings.ContainsAny(name, " :\r\n\x00") {
			return errMalformed
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n\x00") {
				return errMalformed
			}
		}
	}
	return nil
}

// errNothing wraps an error before the first byte of an answer.
var errNothing = errors.New("the connection was closed without an answer")

// exchange writes the request and reads the answer's header.
func (t *Transport) exchange(c *conn, req *http.Request, body []byte) (*http.Response, error) {
	stop := context.AfterFunc(req.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // Wakes whoever reads or writes.
	c.out = append(appendHead(c.out[:0], req), body...)
	_, err := c.Write(c.out)
	if isOnce(req) {
		if err == nil {
			_, err = io.CopyN(c, req.Body, req.ContentLength)
		}
		_ = req.Body.Close() // It has been read.
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("%w: %w", errNothing, err)
	}
	c.limit.N = t.MaxHeader
	if _, err := c.reader.Peek(1); err != nil {
		stop()
		return nil, fmt.Errorf("%w: %w", errNothing, err)
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	for {
		resp, err := http.ReadResponse(c.reader, req)
		if err != nil {
			stop()
			if c.limit.N <= 0 {
				err = errors.New("the answer's header is too large")
			}
			return nil, err
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue // Interim answers say nothing yet (RFC 9110 §15.2).
		}
		c.limit.N = 1 << 62 // The body is bounded by who reads it.
		b := &answerBody{ReadCloser: resp.Body, t: t, c: c, stop: stop, keep: !resp.Close && resp.StatusCode != http.StatusSwitchingProtocols}
		if resp.Body == http.NoBody || resp.ContentLength == 0 {
			b.finish(true)
		}
		resp.Body = b
		return resp, nil
	}
}

// appendHead writes a request up to its body in the form of RFC 9112 §3.
func appendHead(to []byte, req *http.Request) []byte {
	to = append(to, req.Method...)
	to = append(to, ' ')
	to = append(to, req.URL.RequestURI()...)
	to = append(to, " HTTP/1.1\r\nHost: "...)
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	to = append(to, host...)
	for name, values := range req.Header {
		for _, v := range values {
			to = append(to, "\r\n"...)
			to = append(to, name...)
			to = append(to, ": "...)
			to = append(to, v...)
		}
	}
	if req.Body != nil || req.Method == http.MethodPost || req.Method == http.MethodPut { // RFC 9110 §8.6.
		to = append(to, "\r\nContent-Length: "...)
		to = strconv.AppendInt(to, req.ContentLength, 10)
	}
	return append(to, "\r\n\r\n"...)
}

// answerBody gives its connection back once it has been read to the end.
type answerBody struct {
	io.ReadCloser
	t    *Transport
	c    *conn // Nil once it is given back or closed.
	stop func() bool
	keep bool
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.finish(err == io.EOF)
	}
	return n, err
}

func (b *answerBody) Close() error {
	b.finish(false)
	return nil
}

// finish ends the use of the connection; whole says that nothing of the answer
// is left on it.
func (b *answerBody) finish(whole bool) {
	c := b.c
	if c == nil {
		return
	}
	b.c = nil
	// Without the stop, the end of the context may still touch the deadline.
	if b.stop() && whole && b.keep && c.reader.Buffered() == 0 {
		b.t.put(c)
	} else {
		_ = c.Close() // Nobody uses it any more.
	}
}

// connect takes a kept connection, unless a fresh one is asked for, or makes one:
// of HTTP/1.1 a whole one, of HTTP/2 a place on a shared one.
func (t *Transport) connect(req *http.Request, as *certified, fresh bool) (*conn, *shared, error) {
	key := req.URL.Scheme + "://" + req.URL.Host
	if as != nil {
		key += "#" + as.id
	}
	if req.URL.Scheme == "https" && !fresh {
		if s := t.reserved(key); s != nil {
			return nil, s, nil
		}
	}
	for !fresh {
		c := t.get(key)
		if c == nil {
			break
		}
		if c.quiet() {
			return c, nil, nil
		}
		_ = c.Close() // It was closed by the other side, or says what nobody asked.
	}
	ctx := req.Context()
	port := req.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
	}
	address := net.JoinHostPort(req.URL.Hostname(), port)
	plain, err := t.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	c := &conn{Conn: plain, quiet: quietness(plain), key: key, born: time.Now()}
	if req.URL.Scheme == "https" {
		secure, err := t.handshake(ctx, plain, req.URL.Hostname(), as)
		if err != nil {
			_ = plain.Close() // The error that matters is known.
			return nil, nil, err
		}
		if secure.ConnectionState().NegotiatedProtocol == "h2" {
			s, err := t.share(secure, address)
			if err != nil {
				_ = plain.Close() // As above.
				return nil, nil, err
			}
			if s = t.keepShared(key, s); s == nil {
				_ = plain.Close()
				return nil, nil, fmt.Errorf("%w: HTTP/2", errNothing)
			}
			return nil, s, nil
		}
		c.Conn = secure
	}
	c.limit.R = c.Conn
	c.reader = bufio.NewReaderSize(&c.limit, 2<<10)
	return c, nil, nil
}

func (t *Transport) handshake(ctx context.Context, plain net.Conn, host string, as *certified) (*tls.Conn, error) {
	config := t.TLS.Clone()
	if config == nil {
		config = &tls.Config{}
	}
	config.ServerName, config.NextProtos = host, []string{"h2", "http/1.1"}
	if t.NoHTTP2 {
		config.NextProtos = config.NextProtos[1:]
	}
	if as != nil {
		config.Certificates = []tls.Certificate{*as.cert}
	}
	ctx, cancel := context.WithTimeout(ctx, t.HandshakeTimeout)
	defer cancel()
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	secure := tls.Client(plain, config)
	err := secure.HandshakeContext(ctx)
	if trace != nil && trace.TLSHandshakeDone != nil {
		trace.TLSHandshakeDone(secure.ConnectionState(), err)
	}
	return secure, err
}

// get takes the kept connection that was used last.
func (t *Transport) get(key string) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.idle[key]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	t.idle[key] = list[:len(list)-1]
	t.kept--
	if now := time.Now(); now.Sub(c.since) > t.IdleTimeout || now.Sub(c.born) > t.maxAge() {
		_ = c.Close() // The others of its kind are swept.
		return nil
	}
	c.reused = true
	return c
}

// put keeps a connection for the next request.
func (t *Transport) put(c *conn) {
	now := time.Now()
	c.since = now
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle == nil {
		t.idle = make(map[string][]*conn)
	}
	list := t.idle[c.key]
	if len(list) >= t.MaxIdlePerHost || t.kept >= t.MaxIdle || now.Sub(c.born) > t.maxAge() {
		_ = c.Close() // There are enough.
		return
	}
	t.idle[c.key] = append(list, c)
	t.kept++
	t.watch()
}

// watch sees to it that idle connections are swept, as long as there are any.
// Called with mu held.
func (t *Transport) watch() {
	if t.timer == nil {
		t.timer = time.AfterFunc(t.IdleTimeout/2, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.timer = nil
			t.sweep(time.Now())
			if t.kept > 0 || len(t.shared) > 0 {
				t.watch()
			}
		})
	}
}

// sweep closes what has been idle for too long. Called with mu held.
func (t *Transport) sweep(now time.Time) {
	for key, all := range t.shared {
		for _, s := range all {
			if s.cc.Err() != nil || now.Sub(s.born) > t.maxAge() || s.cc.InFlight() == 0 && now.Sub(s.used) > t.IdleTimeout {
				t.retire(key, s)
			}
		}
	}
	for key, list := range t.idle {
		old := 0
		for old < len(list) && now.Sub(list[old].since) > t.IdleTimeout {
			_ = list[old].Close() // Nobody uses it.
			old++
		}
		t.kept -= old
		if old == len(list) {
			delete(t.idle, key)
		} else {
			t.idle[key] = append([]*conn(nil), list[old:]...)
		}
	}
}

// CloseIdleConnections closes all kept connections, and lets no shared one be used
// again.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	for key, all := range t.shared {
		for _, s := range all {
			t.retire(key, s)
		}
	}
	t.sweep(time.Now().Add(2*t.IdleTimeout + 2*t.maxAge()))
}
