// Package api is the HTTP surface that the official Gemini SDKs talk to (wire
// contract §0.4). It validates, asks the store and the runner, and renders; it
// runs no job and sends no event itself.
//
// There are two surfaces with different manners (§0.2): the classic one (models)
// and the new one (webhooks, interactions). They differ in casing and in the
// form of errors, which surface.go and errors.go hold.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"ringback.dev"
	"ringback.dev/internal/api/manage"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
)

// Runner runs jobs; package work implements it.
type Runner interface {
	// Submit stores a background job and starts it.
	Submit(ctx context.Context, j *ringback.Job) error
	// Do stores a foreground job, runs it and returns it as it ended.
	Do(ctx context.Context, j *ringback.Job) (*ringback.Job, error)
	// Begin stores a foreground job and starts it.
	Begin(ctx context.Context, j *ringback.Job) error
	// DoUnstored runs an interaction that leaves nothing behind. If it is a stream, the
	// events of its steps go to tell.
	DoUnstored(ctx context.Context, j *ringback.Job, tell func(*genai.InteractionEvent) error) (*ringback.Job, error)
	// SubmitBatch does the same for a batch.
	SubmitBatch(ctx context.Context, j *ringback.Job, b *ringback.Batch) error
	// CancelBatch asks a batch to end; it does so by itself soon.
	CancelBatch(ctx context.Context, project, id ringback.ID) error
	// Delete removes a job, which stops if it runs.
	Delete(ctx context.Context, project, id ringback.ID) error
	// Cancel ends a job as cancelled and returns it.
	Cancel(ctx context.Context, project, id ringback.ID) (*ringback.Job, error)
	// Nudge has the provider asked that a batch was handed over to, if the secret is
	// right.
	Nudge(id ringback.ID, secret string)
}

// Pinger sends a ping to an endpoint; package emit implements it.
type Pinger interface {
	Ping(ctx context.Context, to *ringback.Endpoint, now time.Time) error
}

// Config is what the surface needs. All but MaxBody and Now must be set.
type Config struct {
	Store   store.Store
	Runner  Runner
	Pinger  Pinger
	Backend backend.Backend
	Secrets *keyring.Keyring
	// CheckURI judges a callback address at registration.
	CheckURI func(string) error
	// AnyKey, if not empty, is the project for which any API key may act
	// (ringback dev); otherwise keys are looked up.
	AnyKey ringback.ID
	// OperatorKey, if not nil, is the hash of an operator's key that is not in the
	// store.
	OperatorKey []byte
	// Used, if not nil, is told which keys are used.
	Used func(key ringback.ID, at time.Time)
	// JWKS returns the server's public signing keys (RFC 7517).
	JWKS func() []byte
	// Manage is what ringback's own API needs beside the Store, Secrets and Now of
	// this one; Authenticate, Fail and Route are filled in.
	Manage manage.Config
	// Blobs keeps the bytes of files.
	Blobs blob.Store
	// PublicURL is the address by which clients reach the server, without a slash at
	// its end; empty means the one that the request was sent to.
	PublicURL string
	// MaxBody bounds a request's body in bytes; zero means 20 MiB.
	MaxBody int64
	// MaxFileBytes bounds a file, zero means 2 GiB; FileQuota what a project has
	// uploaded, zero means 20 GiB. Files expire after FileTTL, zero means 48 h.
	MaxFileBytes, FileQuota int64
	FileTTL                 time.Duration
	// BatchTTL is after how long a batch that is not done expires; zero means 48 h.
	BatchTTL time.Duration
	// AnswerWithin, if not zero, is how long a foreground interaction is waited for
	// before the client is told to ask again.
	AnswerWithin time.Duration
	Log          *slog.Logger
	Now          func() time.Time
}

type api struct {
	Config
	uploads uploads
}

// New returns the surface's handler.
func New(c Config) http.Handler {
	if c.MaxBody == 0 {
		c.MaxBody = 20 << 20
	}
	if c.MaxFileBytes == 0 {
		c.MaxFileBytes = 2 << 30
	}
	if c.FileQuota == 0 {
		c.FileQuota = 20 << 30
	}
	if c.FileTTL == 0 {
		c.FileTTL = 48 * time.Hour
	}
	if c.BatchTTL == 0 {
		c.BatchTTL = 48 * time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Manage.Bus == nil {
		c.Manage.Bus = &bus.Bus{}
	}
	if c.JWKS == nil {
		c.JWKS = func() []byte { return []byte(`{"keys":[]}`) }
	}
	a := &api{Config: c}
	return a.observe(a.routes())
}
