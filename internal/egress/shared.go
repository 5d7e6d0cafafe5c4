package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// shared is an HTTP/2 connection (RFC 9113), which many requests use at once. It
// comes from net/http; what is ours is how it is dialled, shared, aged and given
// up.
type shared struct {
	cc         *http.ClientConn
	born, used time.Time
}

// share makes a shared connection of one on which HTTP/2 was agreed.
func (t *Transport) share(secure *tls.Conn, address string) (*shared, error) {
	var h2 http.Protocols
	h2.SetHTTP2(true)
	one := &http.Transport{
		Protocols: &h2, DisableCompression: true, MaxResponseHeaderBytes: t.MaxHeader,
		HTTP2:          &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return secure, nil },
	}
	cc, err := one.NewClientConn(context.Background(), "https", address)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &shared{cc: cc, born: now, used: now}, nil
}

// reserved takes a place on a shared connection to the key, nil if there is none.
func (t *Transport) reserved(key string) *shared {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for i := len(t.shared[key]) - 1; i >= 0; i-- {
		s := t.shared[key][i]
		if s.cc.Err() != nil || now.Sub(s.born) > t.maxAge() {
			t.retire(key, s)
			continue
		}
		if s.cc.Reserve() == nil {
			s.used = now
			return s
		}
	}
	return nil
}

// keepShared makes a new connection known. If others have made one meanwhile,
// theirs is used and ours closed.
func (t *Transport) keepShared(key string, s *shared) *shared {
	if known := t.reserved(key); known != nil {
		_ = s.cc.Close() // Nothing was sent on it.
		return known
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.cc.Reserve() != nil {
		return nil
	}
	if t.shared == nil {
		t.shared = make(map[string][]*shared)
	}
	t.shared[key] = append(t.shared[key], s)
	t.watch()
	return s
}

// retire forgets a connection and closes it once nothing is in flight on it.
// Called with mu held.
func (t *Transport) retire(key string, s *shared) {
	var rest []*shared
	for _, x := range t.shared[key] {
		if x != s {
			rest = append(rest, x)
		}
	}
	if rest == nil {
		delete(t.shared, key)
	} else {
		t.shared[key] = rest
	}
	s.cc.SetStateHook(func(cc *http.ClientConn) {
		if cc.InFlight() == 0 {
			go cc.Close() // Not from within what calls the hook.
		}
	})
	if s.cc.InFlight() == 0 {
		go s.cc.Close() // Its lock may be held by who waits for ours.
	}
}

// errorRefusedStream is the code with which a server says that it has not begun
// to process a request (RFC 9113 §8.7).
const errorRefusedStream = 0x7

// streamError is net/http's error of a stream, which it fills in by its shape.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "stream error" }

// exchangeShared sends a request on a shared connection on which a place was
// taken. again says that the server has not processed the request.
func (s *shared) exchange(req *http.Request, body []byte) (resp *http.Response, again bool, err error) {
	own := req.Clone(req.Context())
	switch {
	case isOnce(req): // The clone has it.
	case body == nil:
		own.Body, own.ContentLength = http.NoBody, 0
	default:
		own.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err = s.cc.RoundTrip(own)
	if err != nil {
		var stream streamError
		return nil, errors.As(err, &stream) && stream.Code == errorRefusedStream, err
	}
	resp.Request = req
	return resp, false, nil
}
