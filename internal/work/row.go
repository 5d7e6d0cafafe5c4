package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	next "github.com/go-json-experiment/json/v1"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// row is one request of a batch, and what the input said of it beside.
type row struct {
	key, metadata json.RawMessage
	generate      *genai.GenerateContentRequest
	embed         *genai.EmbedContentRequest
}

// parseRow reads a line of a batch's input. An error is the row's, not the
// batch's; what could be read of the row is returned with it, so that its key is
// echoed.
func parseRow(line *inputLine, model string, b *ringback.Batch) (*row, error) {
	r := &row{}
	err := r.parse(line, model, b.Embed)
	switch {
	case err == nil:
		return r, nil
	case b.Inline():
		return r, fmt.Errorf("requests[%d]: %w", line.number-1, err)
	default:
		return r, fmt.Errorf("line %d: %w", line.number, err)
	}
}

func (r *row) parse(line *inputLine, model string, embed bool) (err error) {
	if line.tooLong {
		return fmt.Errorf("it is longer than %d bytes (the server's --max-request-bytes)", len(line.text))
	}
	if !utf8.Valid(line.text) {
		return errors.New("it is not valid UTF-8")
	}
	own := ""
	if embed {
		var in genai.RowInput[genai.EmbedContentRequest]
		err = genai.Decode(line.text, &in)
		if r.key, r.metadata, r.embed = in.Key, in.Metadata, in.Request; in.Request != nil {
			own = in.Request.Model
		}
		if err == nil && in.Request != nil {
			err = in.Request.Check()
		}
	} else {
		var in genai.RowInput[genai.GenerateContentRequest]
		err = genai.Decode(line.text, &in)
		if r.key, r.metadata, r.generate = in.Key, in.Metadata, in.Request; in.Request != nil {
			own = in.Request.Model
		}
		if err == nil && in.Request != nil {
			err = in.Request.Check()
		}
	}
	own = strings.TrimPrefix(own, "models/")
	switch {
	case err != nil:
		return err
	case r.embed == nil && r.generate == nil:
		return errors.New("request: it is required")
	case own != "" && own != model:
		return fmt.Errorf("request.model: it is %q, the batch runs on %q", own, model)
	}
	return nil
}

// google.rpc.Code numbers.
const (
	grpcCancelled        = 1
	grpcInvalidArgument  = 3
	grpcDeadlineExceeded = 4
	grpcNotFound         = 5
	grpcPermissionDenied = 7
	grpcExhausted        = 8
	grpcUnavailable      = 14
)

func rowCode(k backend.Kind) int {
	switch k {
	case backend.InvalidRequest:
		return grpcInvalidArgument
	case backend.ModelNotFound:
		return grpcNotFound
	case backend.RateLimited, backend.OutOfBudget:
		return grpcExhausted
	case backend.Unauthorized:
		return grpcPermissionDenied
	case backend.Unavailable:
		return grpcUnavailable
	case backend.Timeout:
		return grpcDeadlineExceeded
	}
	return grpcInternal
}

// result prints a row's line of the output: its response or its error, then what
// the input said of the row (wire contract §4.5, §4.9).
func (r *row) result(response any, failed *genai.RowError) ([]byte, error) {
	name, value := "response", response
	if failed != nil {
		name, value = "error", failed
	}
	var b bytes.Buffer
	b.WriteString(`{"` + name + `":`)
	e := next.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	b.Truncate(b.Len() - 1) // Encode's newline.
	for _, echo := range []struct {
		name string
		raw  json.RawMessage
	}{{"key", r.key}, {"metadata", r.metadata}} {
		if echo.raw == nil {
			continue
		}
		b.WriteString(`,"` + echo.name + `":`)
		if err := json.Compact(&b, echo.raw); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// maxTries is how often a row is tried when the failures may be its own.
const maxTries = 5

// run asks the back-end until it answers the row, refuses it, or has failed at it
// too often. While the back-end can't be used the row waits, however long: that
// is not the row's fault. After a failure it rests for wait, then twice as long, and
// so on. The error is not nil only when ctx ended.
func (r *row) run(ctx context.Context, be backend.Backend, project ringback.ID, model string, turn func() backend.Turn, wait time.Duration) (response any, failed *genai.RowError, err error) {
	for tries := 0; ; {
		if r.embed != nil {
			response, err = embedRow(ctx, be, &backend.EmbedRequest{Model: model, Body: r.embed, Turn: turn()})
		} else {
			response, err = be.Generate(ctx, &backend.Request{Model: model, Body: r.generate, Project: project, Turn: turn()})
		}
		if err == nil {
			return response, nil, nil
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		e := backend.AsError(err)
		switch {
		case e.Kind == backend.InvalidRequest, e.Kind == backend.ModelNotFound:
			return nil, &genai.RowError{Code: rowCode(e.Kind), Message: e.Message}, nil
		case e.Kind == backend.RateLimited, e.Kind == backend.OutOfBudget, e.Kind == backend.Unauthorized, e.Kind == backend.Unavailable && !e.OthersAnswered:
			continue // The gate holds it until the back-end can be tried again.
		}
		if tries++; tries == maxTries {
			return nil, &genai.RowError{Code: rowCode(e.Kind), Message: fmt.Sprintf("%s (tried %d times)", e.Message, tries)}, nil
		}
		timer := time.NewTimer(wait << (tries - 1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil, context.Cause(ctx)
		}
	}
}

func embedRow(ctx context.Context, be backend.Backend, req *backend.EmbedRequest) (any, error) {
	embedder, ok := be.(backend.Embedder)
	if !ok {
		return nil, &backend.Error{Kind: backend.InvalidRequest, Message: "the back-end makes no embeddings"}
	}
	e, err := embedder.Embed(ctx, req)
	if err != nil {
		return nil, err
	}
	return genai.EmbedContentResponse{TokenCount: genai.Int64(e.Tokens), Embedding: genai.ContentEmbedding{Values: e.Values}}, nil
}

var errNoRows = errors.New("the input has no rows")
