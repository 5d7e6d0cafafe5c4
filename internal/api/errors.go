package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// surface is a manner of answering errors.
type surface struct {
	body func(row errorRow, message string) any
	// code picks the row's HTTP status; the two differ for a bad key (§9.3).
	classic bool
}

var (
	newSurface = &surface{body: func(row errorRow, message string) any {
		return map[string]genai.InteractionError{"error": {Code: row.code, Message: message}}
	}}
	classicSurface = &surface{classic: true, body: func(row errorRow, message string) any {
		s := genai.Status{Error: genai.StatusError{Code: row.classicHTTP, Message: message, Status: row.status}}
		if row.reason != "" {
			s.Error.Details = []any{map[string]any{
				"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": row.reason, "domain": "googleapis.com",
				"metadata": map[string]string{"service": "generativelanguage.googleapis.com"}}}
		}
		return s
	}}
)

// Errors about the key. They differ between the surfaces like no other.
var (
	errNoKey  = &ringback.Error{Code: ringback.Unauthenticated, Message: "an API key is missing; send it in the header x-goog-api-key"}
	errBadKey = &ringback.Error{Code: "bad key", Message: "API key not valid. Please pass a valid API key."}
)

// errorRow says how a code is answered: on the new surface HTTP status and
// string code (§5.10), on the classic one HTTP status and google.rpc status
// (§9.2). No lasting condition is a 409 on the new surface: its SDKs would
// repeat the call (§0.3, rule 11).
type errorRow struct {
	http        int
	code        string
	classicHTTP int
	status      string
	reason      string
}

var internalRow = errorRow{500, "api_error", 500, "INTERNAL", ""}

// errorRows is the one table of errors.
var errorRows = map[ringback.Code]errorRow{
	ringback.InvalidArgument:    {400, "invalid_request", 400, "INVALID_ARGUMENT", ""},
	ringback.FailedPrecondition: {400, "failed_precondition", 400, "FAILED_PRECONDITION", ""},
	ringback.AlreadyExists:      {400, "failed_precondition", 409, "ALREADY_EXISTS", ""},
	ringback.Unauthenticated:    {401, "authentication", 403, "PERMISSION_DENIED", "CREDENTIALS_MISSING"},
	errBadKey.Code:              {401, "authentication", 400, "INVALID_ARGUMENT", "API_KEY_INVALID"},
	ringback.PermissionDenied:   {403, "permission_denied", 403, "PERMISSION_DENIED", ""},
	ringback.NotFound:           {404, "not_found", 404, "NOT_FOUND", ""},
	ringback.MethodNotAllowed:   {405, "invalid_request", 405, "INVALID_ARGUMENT", ""},
	ringback.TooLarge:           {413, "invalid_request", 413, "INVALID_ARGUMENT", ""},
	ringback.QuotaExceeded:      {429, "rate_limit_exceeded", 429, "RESOURCE_EXHAUSTED", ""},
	ringback.Unavailable:        {503, "service_unavailable", 503, "UNAVAILABLE", ""},
	ringback.StorageFull:        {503, "service_unavailable", 503, "UNAVAILABLE", ""},
}

// backendRows is the same for what a back-end says.
var backendRows = map[backend.Kind]errorRow{
	backend.InvalidRequest: {400, "invalid_request", 400, "INVALID_ARGUMENT", ""},
	backend.ModelNotFound:  {404, "model_not_found", 404, "NOT_FOUND", ""},
	backend.RateLimited:    {429, "rate_limit_exceeded", 429, "RESOURCE_EXHAUSTED", ""},
	backend.OutOfBudget:    {402, "payment_required", 429, "RESOURCE_EXHAUSTED", ""},
	backend.Unavailable:    {503, "service_unavailable", 503, "UNAVAILABLE", ""},
	backend.Timeout:        {504, "gateway_timeout", 504, "DEADLINE_EXCEEDED", ""},
}

// fail answers an error in the surface's own form. Only errors made for the
// caller show their text; any other is "internal", and its text is logged.
func (a *api) fail(w http.ResponseWriter, r *http.Request, s *surface, err error) {
	row, message := explain(err)
	if o, ok := w.(*observed); ok {
		o.err = err
		if row == internalRow {
			message = "internal error; the server's log has more under request " + o.id
		}
	}
	var be *backend.Error
	if errors.As(err, &be) && be.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(be.RetryAfter.Seconds()))))
	} else if row.http == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	status := row.http
	if s.classic {
		status = row.classicHTTP
	}
	sendJSON(w, status, s.body(row, message))
}

func explain(err error) (errorRow, string) {
	var be *backend.Error
	if errors.As(err, &be) {
		if row, ok := backendRows[be.Kind]; ok {
			return row, be.Message
		}
		return errorRow{500, "api_error", 500, "INTERNAL", "BACKEND"}, be.Message
	}
	if errors.Is(err, context.Canceled) {
		return errorRow{499, "cancelled", 499, "CANCELLED", ""}, "the client went away"
	}
	row, ok := errorRows[ringback.CodeOf(err)]
	if !ok {
		return internalRow, "internal error"
	}
	var e *ringback.Error
	if errors.As(err, &e) {
		return row, e.Message
	}
	return row, string(ringback.CodeOf(err))
}
