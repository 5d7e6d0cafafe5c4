package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"ringback.dev/internal/backend"
)

// statusError reads an error answer: OpenAI's {"error":{"message"}} or any text.
func statusError(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // What was read is enough for a message.
	message, status := readError(data)
	if status != http.StatusPaymentRequired {
		status = resp.StatusCode
	}
	if message == "" {
		message = http.StatusText(resp.StatusCode)
	}
	e := &backend.Error{Kind: kindOf(status), Message: fmt.Sprintf("the back-end answered %d: %s", resp.StatusCode, message),
		RetryAfter: backend.RetryAfter(resp.Header.Get("Retry-After"))}
	if e.Kind == backend.Unauthorized {
		e.Message = refusedCredentials(resp.StatusCode)
	}
	return e
}

// refusedCredentials stands for what such a server says itself, which may quote the
// key.
func refusedCredentials(status int) string {
	return fmt.Sprintf("the back-end refused the server's credentials (%d)", status)
}

func kindOf(status int) backend.Kind {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return backend.Unauthorized
	case status == http.StatusPaymentRequired:
		return backend.OutOfBudget
	case status == http.StatusNotFound:
		return backend.ModelNotFound
	case status == http.StatusTooManyRequests:
		return backend.RateLimited
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout, status == http.StatusBadGateway,
		status == http.StatusServiceUnavailable:
		return backend.Unavailable
	case status >= 400 && status < 500:
		return backend.InvalidRequest
	}
	return backend.Internal
}

// saidError is an error within an answer or a stream that began with status 200.
func saidError(raw json.RawMessage) error {
	message, status := readError(raw)
	e := &backend.Error{Kind: kindOf(status), Message: "the back-end broke off its answer with an error"}
	switch {
	case e.Kind == backend.Unauthorized:
		e.Message = refusedCredentials(status)
	case message != "":
		e.Message += ": " + message
	}
	return e
}

// errorStatus are the HTTP statuses that words in place of a code stand for.
var errorStatus = map[string]int{
	"rate_limit_exceeded": 429, "rate_limit_error": 429, "RateLimitError": 429,
	"insufficient_quota": 402, "budget_exceeded": 402, "insufficient_credits": 402, "billing_hard_limit_reached": 402,
	"overloaded_error": 503, "engine_overloaded": 503, "service_unavailable": 503, "ServiceUnavailableError": 503,
	"invalid_request_error": 400, "context_length_exceeded": 400, "BadRequestError": 400,
	"authentication_error": 401, "invalid_api_key": 401, "permission_error": 403, "not_found_error": 404, "model_not_found": 404, "NotFoundError": 404,
}

// readError reads what servers say of an error: a text, an object with a message
// and perhaps a code, or such within an object as its error. The status is 0 if none
// is told.
func readError(raw json.RawMessage) (message string, status int) {
	for range 3 {
		if json.Unmarshal(raw, &message) == nil {
			return message, 0
		}
		var object struct {
			Error   json.RawMessage `json:"error"`
			Message json.RawMessage `json:"message"`
			Code    any             `json:"code"`
			Type    any             `json:"type"`
		}
		if json.Unmarshal(raw, &object) != nil {
			return "", 0
		}
		if given(object.Error) {
			raw = object.Error
			continue
		}
		for _, told := range []any{object.Code, object.Type} {
			switch told := told.(type) {
			case float64:
				status = int(told)
			case string:
				if status = errorStatus[told]; status == 0 {
					status, _ = strconv.Atoi(told) // Any other word tells nothing.
				}
			}
			if status >= 400 && status < 600 {
				break
			}
			status = 0
		}
		if word, ok := object.Type.(string); ok && errorStatus[word] == http.StatusPaymentRequired {
			status = http.StatusPaymentRequired // LiteLLM's code beside it says 400.
		}
		_ = json.Unmarshal(object.Message, &message) // What is no text is no message.
		return message, status
	}
	return "", 0
}

// What a server says goes to the caller, who must see no address and no key.
var (
	urls      = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>()\[\]]+`)
	addresses = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-fA-F:]*:[0-9a-fA-F:]*\](?::\d+)?`)
	keys      = regexp.MustCompile(`\b(?:sk|pk|gsk|hf|xai|nvapi|rbk|rbo)[-_][A-Za-z0-9*_.-]{4,}|\bAIza[0-9A-Za-z_-]{8,}|(?i:\bbearer )\S+`)
)

// maxMessage bounds a message, which may quote the whole request.
const maxMessage = 1000

// clean takes addresses and keys out of the message of an error.
func (b *Backend) clean(err error) error {
	var e *backend.Error
	if !errors.As(err, &e) {
		return err
	}
	m := e.Message
	if b.key != "" {
		m = strings.ReplaceAll(m, b.key, "(key)")
	}
	m = urls.ReplaceAllString(m, "(address)")
	m = addresses.ReplaceAllString(m, "(address)")
	for _, host := range b.hosts {
		m = strings.ReplaceAll(m, host, "(address)")
	}
	m = keys.ReplaceAllString(m, "(key)")
	if m = strings.ToValidUTF8(m, "\ufffd"); len(m) > maxMessage {
		m = strings.ToValidUTF8(m[:maxMessage], "") + "…"
	}
	if m != e.Message {
		own := *e
		own.Message = m
		return &own
	}
	return err
}
