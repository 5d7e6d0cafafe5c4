package gemini

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"ringback.dev/internal/backend"
)

// statusError is the cause of a backend.Error that was an answer, for the log and
// for those who need to know more than its kind.
type statusError struct {
	code   int    // The HTTP status.
	status string // google.rpc's name of it, such as RESOURCE_EXHAUSTED.
	reason string // That of its ErrorInfo, such as API_KEY_INVALID.
	detail string // What the caller is not told.
}

func (s *statusError) Error() string {
	return strings.Join(strings.Fields(fmt.Sprint(s.status, " ", s.reason, " ", s.detail)), " ")
}

// rpcError is a google.rpc.Status in JSON (wire contract §9.2). Code is the HTTP
// status, but a google.rpc.Code in operations and rows.
type rpcError struct {
	Code    int               `json:"code"`
	Message string            `json:"message"`
	Status  string            `json:"status"`
	Details []json.RawMessage `json:"details"`
}

// statusError reads an error answer.
func (b *Backend) statusError(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // What was read is enough for a message.
	var said struct {
		Error rpcError `json:"error"`
	}
	if json.Unmarshal(data, &said) != nil {
		// A stream that is not one of events comes as a list.
		var list []struct {
			Error rpcError `json:"error"`
		}
		if json.Unmarshal(data, &list) == nil && len(list) > 0 {
			said.Error = list[0].Error
		}
	}
	e := b.rpcError(resp.StatusCode, &said.Error)
	e.RetryAfter = max(e.RetryAfter, backend.RetryAfter(resp.Header.Get("Retry-After")))
	return e
}

// rpcError makes an error of what the API said with an HTTP status.
func (b *Backend) rpcError(code int, said *rpcError) *backend.Error {
	message := b.clean(said.Message)
	if message == "" {
		if message = http.StatusText(code); message == "" {
			message = "unknown"
		}
	}
	cause := &statusError{code: code, status: said.Status}
	e := &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the back-end answered %d: %s", code, message), Cause: cause}
	for _, raw := range said.Details {
		var d struct {
			Type       string `json:"@type"`
			Reason     string `json:"reason"`
			RetryDelay string `json:"retryDelay"`
		}
		if json.Unmarshal(raw, &d) != nil {
			continue
		}
		if strings.HasSuffix(d.Type, "google.rpc.ErrorInfo") {
			cause.reason = d.Reason
		}
		if strings.HasSuffix(d.Type, "google.rpc.RetryInfo") {
			if wait, err := time.ParseDuration(d.RetryDelay); err == nil && wait > 0 {
				e.RetryAfter = wait
			}
		}
	}
	switch {
	case code == http.StatusForbidden && strings.Contains(said.Message, "access the File"):
		// So Google speaks of a file that is not there (wire contract §7.4).
		e.Kind = backend.InvalidRequest
	case code == http.StatusUnauthorized, code == http.StatusForbidden, strings.HasPrefix(cause.reason, "API_KEY_"):
		// The message may quote the key, and is the operator's affair.
		e.Kind, e.Message, cause.detail = backend.Unauthorized, fmt.Sprintf("the back-end refused the server's credentials (%d)", code), message
	case code == http.StatusPaymentRequired:
		e.Kind = backend.OutOfBudget
	case code == http.StatusNotFound:
		e.Kind = backend.ModelNotFound
	case code == http.StatusTooManyRequests:
		e.Kind = backend.RateLimited
	case code == http.StatusGatewayTimeout && said.Status == "DEADLINE_EXCEEDED":
		e.Kind = backend.Timeout // The request took too long, the API is there.
	case code == http.StatusRequestTimeout, code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout,
		code == statusCancelled:
		e.Kind = backend.Unavailable
	case code >= 400 && code < 500:
		e.Kind = backend.InvalidRequest
	}
	return e
}

// statusCancelled is the HTTP status of CANCELLED.
const statusCancelled = 499

// httpStatus maps google.rpc.Code numbers, which operations and rows have, to HTTP
// statuses.
var httpStatus = map[int]int{1: statusCancelled, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503, 15: 500, 16: 401}

// httpCode is the HTTP status of a number that may be either.
func httpCode(n int) int {
	if n >= 100 {
		return n
	}
	if code, ok := httpStatus[n]; ok {
		return code
	}
	return http.StatusInternalServerError
}

// operationError makes an error of what an operation ended with.
func (b *Backend) operationError(said *rpcError) *backend.Error {
	e := b.rpcError(httpCode(said.Code), said)
	if e.Kind != backend.Unauthorized {
		e.Message = b.reason(said) // It is no answer to a request of ours.
	}
	return e
}

// reason is what an operation or a row says of its failure.
func (b *Backend) reason(said *rpcError) string {
	if message := b.clean(said.Message); message != "" {
		return message
	}
	return "the back-end does not say why"
}

// isStatus reports whether an error was an answer with one of these HTTP statuses.
func isStatus(err error, codes ...int) bool {
	var s *statusError
	if !errors.As(err, &s) {
		return false
	}
	for _, c := range codes {
		if s.code == c {
			return true
		}
	}
	return false
}

// addresses finds what must not be told to callers.
var addresses = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>]+`)

// maxMessage bounds what is passed on of a message.
const maxMessage = 2000

// clean takes credentials and addresses out of a message.
func (b *Backend) clean(message string) string {
	message = strings.ReplaceAll(message, b.key, "[key]")
	message = addresses.ReplaceAllString(message, "[address]")
	if b.host != "" {
		message = strings.ReplaceAll(message, b.host, "[address]")
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + " …"
	}
	return strings.TrimSpace(message)
}
