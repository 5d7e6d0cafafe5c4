package backend

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// This file is what adapters that speak HTTP have in common.

// MaxRetryWait bounds how long a back-end's wish to wait is honoured in place; a
// longer one is passed on to the caller.
const MaxRetryWait = 30 * time.Second

// NewTransport returns a transport for many requests to one host.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:        http.ProxyFromEnvironment,
		DialContext:  (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns: 512, MaxIdleConnsPerHost: 512, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
	}
}

// Retry sends a request until it is answered, can't be helped, or was tried again
// retries times. again judges whether an error may pass; nil means Passing.
func Retry(ctx context.Context, retries int, again func(error) bool, send func() (*http.Response, error)) (*http.Response, error) {
	if again == nil {
		again = Passing
	}
	for try := 0; ; try++ {
		resp, err := send()
		if err == nil {
			return resp, nil
		}
		wait := AsError(err).RetryAfter
		if wait == 0 {
			wait = Pause(try)
		}
		if !again(err) || try >= retries || wait > MaxRetryWait {
			return nil, err
		}
		if err := Sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// Passing reports whether what a back-end said may be otherwise the next time.
func Passing(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Kind == RateLimited || e.Kind == Unavailable || e.Kind == Internal)
}

// Pause is how long to wait after a failure: 0.5 s, 1 s, 2 s …, spread over ± 50 %,
// so that many jobs don't return at once.
func Pause(try int) time.Duration {
	return time.Duration(float64(500*time.Millisecond<<min(try, 5)) * (0.5 + rand.Float64()))
}

// Sleep waits, unless ctx ends; then the error is that of TransportError.
func Sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return TransportError(ctx, ctx.Err())
	}
}

// TransportError classifies a request that got no answer. The address is left out:
// it may hold credentials.
func TransportError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Kind: Timeout, Message: "the back-end did not answer in time"}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &Error{Kind: Unavailable, Message: "the back-end can't be reached", Cause: err}
}

// RetryAfter reads a Retry-After header: seconds or a date (RFC 9110 §10.2.3).
func RetryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseUint(strings.TrimSpace(header), 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(header); err == nil {
		return max(time.Until(date), 0)
	}
	return 0
}
