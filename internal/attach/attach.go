// Package attach puts the files that a request points to into the request, for
// back-ends that can't fetch them from this server: they are within a company's
// network, or they have no key.
package attach

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/blob"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

// Files reads files for requests. Make one with New.
type Files struct {
	store  store.Files
	blobs  blob.Store
	limit  int64
	memory *semaphore.Weighted
}

// inMemory bounds the bytes of files that are within requests at once.
const inMemory = 256 << 20

// New returns a Files that attaches at most limit bytes to one request (the
// server's --max-request-bytes).
func New(st store.Files, blobs blob.Store, limit int64) *Files {
	return &Files{store: st, blobs: blobs, limit: limit, memory: semaphore.NewWeighted(max(inMemory, limit))}
}

// ours matches the address of a file of this API, whatever host it was reached by.
var ours = regexp.MustCompile(`^(?:https?://[^/]+(?:/.*)?/v[0-9][a-z0-9]*/)?files/([a-z0-9-]{1,40})(?::download)?(?:\?.*)?$`)

// ID returns the id of the file that an address points to; false if it is no
// address of a file of this API.
func ID(uri string) (ringback.ID, bool) {
	m := ours.FindStringSubmatch(uri)
	if m == nil {
		return "", false
	}
	return ringback.ID(m[1]), true
}

// To returns req with the files of the project that it points to in it, and a
// function to call when the request was answered. What points elsewhere stays as
// it is. An error is a *backend.Error if the request is to blame.
func (f *Files) To(ctx context.Context, project ringback.ID, now time.Time, req *genai.GenerateContentRequest) (_ *genai.GenerateContentRequest, release func(), err error) {
	release = func() {}
	if !points(req) {
		return req, release, nil
	}
	var total int64
	files := make(map[ringback.ID]ringback.File)
	err = each(req, func(at string, p *genai.Part) error {
		id, ok := ID(p.FileData.FileURI)
		if !ok {
			return nil
		}
		file, err := f.store.File(ctx, project, id, now)
		if errors.Is(err, ringback.NotFound) {
			return refuse("%s: there is no file %q; it may have expired", at, id)
		}
		if err != nil {
			return err
		}
		files[id] = file
		if total += file.Size; total > f.limit {
			return refuse("%s: the files of a request have more than %d bytes together (the server's --max-request-bytes)", at, f.limit)
		}
		return nil
	})
	if err != nil {
		return nil, release, err
	}
	if err := f.memory.Acquire(ctx, total); err != nil {
		return nil, release, context.Cause(ctx)
	}
	out := *req
	out.Contents = make([]genai.Content, len(req.Contents))
	for i, c := range req.Contents {
		out.Contents[i] = genai.Content{Role: c.Role, Parts: append([]genai.Part(nil), c.Parts...)}
	}
	err = each(&out, func(_ string, p *genai.Part) error {
		id, ok := ID(p.FileData.FileURI)
		if !ok {
			return nil
		}
		file := files[id]
		data, err := f.read(ctx, &file)
		if err != nil {
			return fmt.Errorf("file %s: %w", id, err)
		}
		kind := p.FileData.MimeType
		if kind == "" {
			kind = file.MimeType
		}
		p.FileData, p.InlineData = nil, &genai.Blob{MimeType: kind, Data: data}
		return nil
	})
	if err != nil {
		f.memory.Release(total)
		return nil, release, err
	}
	return &out, func() { f.memory.Release(total) }, nil
}

func (f *Files) read(ctx context.Context, file *ringback.File) (string, error) {
	r, err := f.blobs.Open(ctx, file.Blob)
	if err != nil {
		return "", err
	}
	defer r.Close()
	var b strings.Builder
	b.Grow(base64.StdEncoding.EncodedLen(int(file.Size)))
	e := base64.NewEncoder(base64.StdEncoding, &b)
	if _, err := io.Copy(e, r); err != nil {
		return "", err
	}
	err = e.Close() // It writes the last bytes.
	return b.String(), err
}

func points(req *genai.GenerateContentRequest) bool {
	found := false
	_ = each(req, func(string, *genai.Part) error { found = true; return nil }) // It never fails.
	return found
}

// each calls f for every part that points to a file.
func each(req *genai.GenerateContentRequest, f func(at string, p *genai.Part) error) error {
	for i := range req.Contents {
		for k := range req.Contents[i].Parts {
			if p := &req.Contents[i].Parts[k]; p.FileData != nil {
				if err := f(fmt.Sprintf("contents[%d].parts[%d].fileData.fileUri", i, k), p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func refuse(format string, args ...any) error {
	return &backend.Error{Kind: backend.InvalidRequest, Message: fmt.Sprintf(format, args...)}
}
