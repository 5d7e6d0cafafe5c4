package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ringback.dev/internal/egress"
)

// doer does what an action is for, once. It returns when ctx is done, and what it
// says holds nothing secret: neither an address nor what a template read from one.
type doer interface {
	do(ctx context.Context, t *task) result
	// preview says what do would do, in lines.
	preview(t *task) ([]string, error)
	// String says in a few words what it does.
	String() string
}

// task is an event and the action that is to be done about it.
type task struct {
	*Event
	action string // Its name, ROUTE/ACTION.
	number int    // Of the attempt, from 1.
	again  bool   // An attempt before this one may have got through.
}

// reason classifies in one word what came of an attempt. The list is closed: it
// labels metrics.
type reason string

const (
	done     reason = "done"
	doneAgo  reason = "done_before" // An earlier attempt had done it, and nobody noted that.
	failed   reason = "failed"      // It may succeed another time.
	timedOut reason = "timed_out"
	refused  reason = "refused"  // It would fail again in the same way.
	misfit   reason = "misfit"   // The event is not as the templates or expressions expect.
	blocked  reason = "blocked"  // The address is not one that the rules of egress allow.
	panicked reason = "panicked" // There is a fault in the program.
)

// good reports whether nothing is left to do.
func (r reason) good() bool { return r == done || r == doneAgo }

// final reports whether another attempt would be the same.
func (r reason) final() bool { return r == refused || r == misfit }

// result is what came of an attempt.
type result struct {
	reason reason
	note   string        // What it made, such as a job's id.
	err    string        // Why it failed.
	wait   time.Duration // What the other side asked for, 0 if nothing.
}

func success(format string, args ...any) result {
	return result{reason: done, note: fmt.Sprintf(format, args...)}
}

func failure(r reason, format string, args ...any) result {
	return result{reason: r, err: fmt.Sprintf(format, args...)}
}

// unfit is what templates and expressions meet in an event that is otherwise than
// they expect. Another attempt meets the same.
func unfit(err error) result { return result{reason: misfit, err: err.Error()} }

// status judges an answer over HTTP. final are those that another attempt would
// get again.
func status(resp *http.Response, answer []byte, now time.Time, final ...int) result {
	code := resp.StatusCode
	text := fmt.Sprintf("it answered %d", code)
	if shown := excerpt(answer); shown != "" {
		text += ": " + shown
	}
	r := result{reason: failed, err: text, wait: retryAfter(resp.Header.Get("Retry-After"), now)}
	for _, f := range final {
		if code == f {
			r.reason = refused
		}
	}
	if code >= 300 && code < 400 {
		r.err = fmt.Sprintf("it answered %d; redirects are not followed", code)
	}
	return r
}

// excerpt is the beginning of an answer, fit for one line of a log.
func excerpt(b []byte) string {
	text := strings.ToValidUTF8(strings.Join(strings.Fields(string(b[:min(len(b), 1<<10)])), " "), "")
	text = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return -1
		}
		return r
	}, text)
	if r := []rune(text); len(r) > 200 {
		text = string(r[:200]) + "…"
	}
	return text
}

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3): seconds or a date, at
// most a day.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	var wait time.Duration
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(header); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), 24*time.Hour)
}

// unreached says why there was no answer. The text never holds the address.
func unreached(err error, rules string) result {
	var (
		dns      *net.DNSError
		cert     *tls.CertificateVerificationError
		asURL    *url.Error
		netError net.Error
	)
	text := err.Error()
	if errors.As(err, &asURL) {
		text = asURL.Err.Error()
	}
	switch {
	case errors.Is(err, egress.ErrBlocked):
		return failure(blocked, "the address is private or otherwise not allowed (see %s)", rules)
	case errors.As(err, &netError) && netError.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return failure(timedOut, "no complete answer in time")
	case errors.As(err, &dns):
		return failure(failed, "the host name can't be resolved")
	case errors.As(err, &cert):
		return failure(failed, "the certificate is not good: %v", cert.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure(failed, "the connection was refused")
	}
	return failure(failed, "%s", text)
}
