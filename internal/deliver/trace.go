package deliver

import (
	"crypto/tls"
	"net/http/httptrace"
	"sync"
	"time"
)

// trace notes when the phases of a request began and ended. The transport may
// still call it from a dialling goroutine after the request was given another
// connection, so it is guarded.
type trace struct {
	mu                        sync.Mutex
	dnsStart, dnsDone         time.Time
	connectStart, connectDone time.Time
	tlsStart, tlsDone         time.Time
	firstByte                 time.Time
}

func (t *trace) mark(at *time.Time) {
	t.mu.Lock()
	*at = time.Now()
	t.mu.Unlock()
}

func (t *trace) hooks() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart:             func(httptrace.DNSStartInfo) { t.mark(&t.dnsStart) },
		DNSDone:              func(httptrace.DNSDoneInfo) { t.mark(&t.dnsDone) },
		ConnectStart:         func(_, _ string) { t.mark(&t.connectStart) },
		ConnectDone:          func(_, _ string, _ error) { t.mark(&t.connectDone) },
		TLSHandshakeStart:    func() { t.mark(&t.tlsStart) },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { t.mark(&t.tlsDone) },
		GotFirstResponseByte: func() { t.mark(&t.firstByte) },
	}
}

// fill copies the timings into r; begin is when the request was started.
func (t *trace) fill(r *result, begin time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.dns = between(t.dnsStart, t.dnsDone)
	r.connect = between(t.connectStart, t.connectDone)
	r.tls = between(t.tlsStart, t.tlsDone)
	r.firstByte = between(begin, t.firstByte)
}

func between(from, to time.Time) time.Duration {
	if from.IsZero() || to.IsZero() {
		return 0
	}
	return max(to.Sub(from), 0)
}
