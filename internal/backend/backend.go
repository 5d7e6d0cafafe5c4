// Package backend is the port to the places where models run. A request and its
// answer have the classic generateContent shape, whatever surface they came in
// on, so that an adapter translates one shape only.
package backend

import (
	"context"
	"errors"
	"iter"
	"time"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

// Request is one generation.
type Request struct {
	// Model is the name as the back-end knows it.
	Model string
	Body  *genai.GenerateContentRequest
	// Project is whose files the request may point to.
	Project ringback.ID
	// Turn says whose request it is.
	Turn Turn
	// Pieces asks a stream to bring function calls piece by piece, as they are
	// written (genai.Part.CallPiece), instead of whole at its end. A back-end that
	// has them only whole brings them whole.
	Pieces bool
}

// Backend runs models. Generate returns a whole answer with at least one
// candidate or a prompt feedback, or an error: *Error for what the back-end or
// the way to it said, ctx's error when that ended. Any number of goroutines may
// call at once. An adapter repeats what is worth repeating itself, except for rows
// of batches (Turn): their runner does that, so that no row holds a place while it
// waits.
type Backend interface {
	Generate(ctx context.Context, req *Request) (*genai.GenerateContentResponse, error)
}

// Streamer is a back-end that gives its answer piece by piece. The last chunk
// has a finish reason and the usage; an error ends the sequence.
type Streamer interface {
	Stream(ctx context.Context, req *Request) iter.Seq2[*genai.GenerateContentResponse, error]
}

// TokenCounter counts the tokens of a request's contents.
type TokenCounter interface {
	CountTokens(ctx context.Context, req *Request) (int, error)
}

// ModelLister lists the models that a back-end offers by name.
type ModelLister interface {
	Models(ctx context.Context) ([]genai.Model, error)
}

// Resolver tells before a request is made whether a model is known; the error is
// an *Error of kind ModelNotFound.
type Resolver interface {
	Resolve(model string) error
}

// Kind classifies an error.
type Kind string

// The kinds of error. Each says who can do something about it.
const (
	InvalidRequest Kind = "invalid_request" // The caller: the request can't be served as it is.
	ModelNotFound  Kind = "model_not_found" // The caller: another name.
	RateLimited    Kind = "rate_limited"    // The caller: later.
	OutOfBudget    Kind = "out_of_budget"   // Who pays: the back-end's account has no money left.
	Unauthorized   Kind = "unauthorized"    // The operator: the back-end refuses our credentials.
	Unavailable    Kind = "unavailable"     // The operator: the back-end can't be reached or is overloaded.
	Timeout        Kind = "timeout"         // The back-end did not answer in time.
	Internal       Kind = "internal"        // The back-end failed.
)

// Error is what a back-end answers instead of a result. Message is fit for the
// caller: it holds no credentials and no addresses. Cause is for the log.
type Error struct {
	Kind    Kind
	Message string
	// RetryAfter is how long the back-end asked to wait, 0 if it did not.
	RetryAfter time.Duration
	// OthersAnswered: the back-end answered other requests while this one was under
	// way, so that the failure may be the request's own. Router sets it.
	OthersAnswered bool
	Cause          error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// AsError returns err as an *Error; what is none becomes one of kind Internal.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Message: "the back-end failed", Cause: err}
}

// Stream streams from any back-end: one that can't stream gives its whole answer
// as the only chunk.
func Stream(ctx context.Context, b Backend, req *Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	if s, ok := b.(Streamer); ok {
		return s.Stream(ctx, req)
	}
	return func(yield func(*genai.GenerateContentResponse, error) bool) { yield(b.Generate(ctx, req)) }
}

// EstimateTokens guesses the tokens of a request, for back-ends that can't
// count: one for each four bytes of text, as the Gemini documentation has it.
func EstimateTokens(body *genai.GenerateContentRequest) int {
	n := 0
	count := func(c *genai.Content) {
		for i := range c.Parts {
			p := &c.Parts[i]
			switch {
			case p.Text != nil:
				n += Tokens(*p.Text)
			case p.FunctionCall != nil:
				n += Tokens(p.FunctionCall.Name + string(p.FunctionCall.Args))
			case p.FunctionResponse != nil:
				n += Tokens(p.FunctionResponse.Name + string(p.FunctionResponse.Response))
			case p.InlineData != nil:
				n += 258 // What Gemini charges for a small image.
			}
		}
	}
	if body.SystemInstruction != nil {
		count(body.SystemInstruction)
	}
	for i := range body.Contents {
		count(&body.Contents[i])
	}
	return n
}

// Tokens estimates the tokens of a text.
func Tokens(text string) int { return (len(text) + 3) / 4 }
