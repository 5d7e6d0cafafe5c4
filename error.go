package ringback

import "errors"

// Code classifies an error for callers of any surface. A Code is itself an
// error, so that it can be wrapped and found with errors.Is.
type Code string

// The codes. Each surface has one table that maps them to its own answers.
const (
	InvalidArgument    Code = "invalid argument"
	NotFound           Code = "not found"
	AlreadyExists      Code = "already exists"
	FailedPrecondition Code = "failed precondition"
	Unauthenticated    Code = "unauthenticated"
	PermissionDenied   Code = "permission denied"
	TooLarge           Code = "too large"
	// MethodNotAllowed: the path is known, the method is not.
	MethodNotAllowed Code = "method not allowed"
	// Stale: a write under a lease that another claim has superseded.
	Stale Code = "stale lease"
	// Unavailable: try again later; nothing was lost.
	Unavailable Code = "unavailable"
	// QuotaExceeded: a project has used up what it may use.
	QuotaExceeded Code = "quota exceeded"
	// StorageFull: the disk is full; nothing was lost.
	StorageFull Code = "storage full"
	// Locked: another process uses the data.
	Locked Code = "locked"
)

func (c Code) Error() string { return string(c) }

// Error is the one error whose Message is meant for the caller. Everything else
// is answered as an internal error and logged.
type Error struct {
	Code    Code
	Message string
	// Cause is for the log; it is never shown to the caller.
	Cause error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Is makes errors.Is(err, ringback.NotFound) true for an Error of that code.
func (e *Error) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c == e.Code
}

func (e *Error) Unwrap() error { return e.Cause }

// CodeOf returns the code of the first Error or Code in err's chain, or "" if
// there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var c Code
	if errors.As(err, &c) {
		return c
	}
	return ""
}
