package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ringback.dev"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/keyring"
)

const (
	// maxUploadMetadata bounds the JSON that comes before a file's bytes.
	maxUploadMetadata = 64 << 10
	maxDisplayName    = 512
	// uploadGranularity is what chunks are asked to be a multiple of; others are
	// taken too.
	uploadGranularity = 256 << 10
	// stalledAfter is how long a client may send nothing before the connection is
	// given up. What arrived stays.
	stalledAfter = time.Minute
)

// uploads keeps two requests from writing to one upload: the later one wins, since
// a client comes back only when it has given up its earlier connection.
type uploads struct {
	mu    sync.Mutex
	under map[string]*writing
}

type writing struct {
	cut  func() // Makes the reading of the body fail.
	done chan struct{}
}

// enter waits until the upload is the caller's.
func (u *uploads) enter(ctx context.Context, key string, cut func()) (leave func(), err error) {
	mine := &writing{cut: cut, done: make(chan struct{})}
	for {
		u.mu.Lock()
		earlier := u.under[key]
		if earlier == nil {
			if u.under == nil {
				u.under = make(map[string]*writing)
			}
			u.under[key] = mine
			u.mu.Unlock()
			return func() {
				u.mu.Lock()
				delete(u.under, key)
				u.mu.Unlock()
				close(mine.done)
			}, nil
		}
		earlier.cut() // While it is listed, and so not over: its connection goes on to other requests.
		u.mu.Unlock()
		select {
		case <-earlier.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// startUpload begins a resumable upload, or takes a file in one request (wire
// contract §7.2, §7.3).
func (a *api) startUpload(c *call) (any, error) {
	protocol := strings.ToLower(c.Header.Get("X-Goog-Upload-Protocol"))
	if protocol == "" {
		protocol = strings.ToLower(c.query("upload_type"))
	}
	switch protocol {
	case "resumable":
		if command := commands(c.Request); !command["start"] {
			return nil, invalid("X-Goog-Upload-Command: an upload begins with start; to go on with one use the address in x-goog-upload-url")
		}
		return a.startResumable(c)
	case "raw", "media":
		return a.takeRaw(c)
	case "multipart":
		return a.takeMultipart(c)
	case "":
		return nil, invalid("X-Goog-Upload-Protocol: it is required: resumable, multipart or raw")
	}
	return nil, invalid("X-Goog-Upload-Protocol: %q is none of resumable, multipart, raw", protocol)
}

// commands reads X-Goog-Upload-Command, such as "upload, finalize".
func commands(r *http.Request) map[string]bool {
	set := make(map[string]bool)
	for word := range strings.SplitSeq(r.Header.Get("X-Goog-Upload-Command"), ",") {
		if word = strings.ToLower(strings.TrimSpace(word)); word != "" {
			set[word] = true
		}
	}
	return set
}

func (a *api) startResumable(c *call) (any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, maxUploadMetadata))
	if err != nil {
		return nil, invalid("the metadata of an upload has at most %d bytes", maxUploadMetadata)
	}
	declared := int64(-1)
	if s := c.Header.Get("X-Goog-Upload-Header-Content-Length"); s != "" {
		if declared, err = strconv.ParseInt(s, 10, 64); err != nil || declared < 0 {
			return nil, invalid("X-Goog-Upload-Header-Content-Length: %q is not a number of bytes", s)
		}
	}
	u, secret, err := a.newUpload(c, body, c.Header.Get("X-Goog-Upload-Header-Content-Type"), declared)
	if err != nil {
		return nil, err
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(c.URL.Path, "/upload"), "/"), "/")
	h := c.w.Header()
	h.Set("X-Goog-Upload-Status", "active")
	h.Set("X-Goog-Upload-Url", fmt.Sprintf("%s/upload/%s/files?upload_id=%s&upload_protocol=resumable", a.base(c.Request), version, secret))
	h.Set("X-Goog-Upload-Chunk-Granularity", strconv.Itoa(uploadGranularity))
	h.Set("X-Goog-Upload-Size-Received", strconv.FormatInt(u.Received, 10))
	return struct{}{}, nil
}

// proposedName is what a client may call a file.
var proposedName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// newUpload validates the metadata and stores the beginning of an upload. The
// secret lets whoever holds it send the bytes, without an API key (§0.3, rule 9).
func (a *api) newUpload(c *call, metadata []byte, mimeType string, declared int64) (*ringback.Upload, string, error) {
	var q genai.UploadRequest
	if len(strings.TrimSpace(string(metadata))) > 0 {
		if err := genai.Decode(metadata, &q); err != nil {
			return nil, "", invalid("%v", err)
		}
	}
	u := &ringback.Upload{File: ringback.File{ID: ringback.NewFileID(c.now), Project: c.project, DisplayName: q.File.DisplayName,
		MimeType: q.File.MimeType, Size: declared, Blob: string(ringback.NewID("blob", c.now)), Created: c.now, Updated: c.now}}
	if q.File.Name != "" {
		name := strings.TrimPrefix(q.File.Name, "files/")
		if !proposedName.MatchString(name) {
			return nil, "", invalid("file.name: %q must be files/ and 1 to 40 characters of a-z, 0-9 and inner hyphens", q.File.Name)
		}
		u.ID = ringback.ID(name)
	}
	given := c.Header.Get("X-Goog-Upload-File-Name")
	if u.DisplayName == "" {
		u.DisplayName = strings.ToValidUTF8(given, "")
	}
	if len([]rune(u.DisplayName)) > maxDisplayName {
		return nil, "", invalid("file.displayName: it has more than %d characters", maxDisplayName)
	}
	if u.MimeType == "" {
		u.MimeType = mimeType
	}
	if u.MimeType == "" {
		u.MimeType = mime.TypeByExtension(path.Ext(given))
	}
	if u.MimeType == "" {
		u.MimeType = "application/octet-stream"
	}
	if len(u.MimeType) > 255 || strings.ContainsAny(u.MimeType, "\r\n") {
		return nil, "", invalid("file.mimeType: it is not a media type")
	}
	if n := int64(q.File.SizeBytes); n > 0 && declared < 0 {
		u.Size = n
	}
	if u.Size > a.MaxFileBytes {
		return nil, "", a.fileTooLarge()
	}
	if u.Size > 0 {
		if room, err := a.room(c); err != nil {
			return nil, "", err
		} else if u.Size > room {
			return nil, "", a.quotaExceeded()
		}
	}
	secret := rand.Text()
	u.Hash = keyring.HashKey(secret)
	var err error
	if u.Digest, err = digestState(sha256.New()); err != nil {
		return nil, "", err
	}
	return u, secret, a.Store.CreateUpload(c.Context(), u)
}

func (a *api) fileTooLarge() error {
	return &ringback.Error{Code: ringback.TooLarge, Message: fmt.Sprintf("the file is larger than %d bytes (the server's --max-file-bytes)", a.MaxFileBytes)}
}

func (a *api) quotaExceeded() error {
	return &ringback.Error{Code: ringback.QuotaExceeded, Message: fmt.Sprintf(
		"the project's files would exceed %d bytes (the server's --file-quota-bytes); delete some, or wait until they expire", a.FileQuota)}
}

// room is how many more bytes the project may upload.
func (a *api) room(c *call) (int64, error) {
	stored, err := a.Store.BytesStored(c.Context(), c.project)
	return a.FileQuota - stored, err
}

// continueUpload goes on with an upload: a chunk, its end, a question how far it
// is, or its cancellation (§7.2). The secret in the address is the authorisation.
func (a *api) continueUpload(c *call) (any, error) {
	secret := c.URL.Query().Get("upload_id")
	body := &watched{c: c, from: c.Body}
	cut := body.cut
	if !commands(c.Request)["upload"] {
		cut = func() {} // It reads nothing and is over soon.
	}
	leave, err := a.uploads.enter(c.Context(), secret, cut)
	if err != nil {
		return nil, err
	}
	defer func() {
		leave()
		if body.dropped.Load() {
			c.w.Header().Set("Connection", "close") // Its deadline has passed.
		}
	}()
	u, err := a.Store.Upload(c.Context(), keyring.HashKey(secret))
	if errors.Is(err, ringback.NotFound) {
		c.w.Header().Set("X-Goog-Upload-Status", "cancelled")
		return nil, &ringback.Error{Code: ringback.NotFound, Message: "there is no such upload: it was cancelled, or nothing was sent for too long; start again"}
	}
	if err != nil {
		return nil, err
	}
	c.project = u.Project
	noteProject(c.w, c.project)
	received := func(status string) {
		c.w.Header().Set("X-Goog-Upload-Status", status)
		c.w.Header().Set("X-Goog-Upload-Size-Received", strconv.FormatInt(u.Received, 10))
	}
	command := commands(c.Request)
	if u.Done {
		received("final")
		if command["query"] {
			return struct{}{}, nil
		}
		// The answer was lost on its way, or the client would not ask again.
		f, err := a.file(c, u.ID)
		return genai.UploadResponse{File: renderFile(&f, a.base(c.Request))}, err
	}
	received("active")
	switch {
	case command["query"]:
		return struct{}{}, nil
	case command["cancel"]:
		if err := a.Store.DeleteUpload(c.Context(), u.Hash); err != nil {
			return nil, err
		}
		received("cancelled")
		return struct{}{}, nil
	case !command["upload"] && !command["finalize"]:
		return nil, invalid("X-Goog-Upload-Command: %q is none of upload, finalize, query, cancel", c.Header.Get("X-Goog-Upload-Command"))
	}
	if command["upload"] {
		offset, err := strconv.ParseInt(c.Header.Get("X-Goog-Upload-Offset"), 10, 64)
		if err != nil || offset != u.Received {
			return nil, invalid("X-Goog-Upload-Offset: %q is not where the upload is to go on: at byte %d", c.Header.Get("X-Goog-Upload-Offset"), u.Received)
		}
		err = a.receive(c, &u, body, c.ContentLength)
		received("active")
		if err != nil {
			return nil, err
		}
	}
	if !command["finalize"] {
		return struct{}{}, nil
	}
	out, err := a.finish(c, &u)
	if err == nil {
		received("final")
	}
	return out, err
}

// takeRaw takes a file whose bytes are the body.
func (a *api) takeRaw(c *call) (any, error) {
	u, _, err := a.newUpload(c, nil, c.Header.Get("Content-Type"), c.ContentLength)
	if err != nil {
		return nil, err
	}
	return a.takeWhole(c, u, &watched{c: c, from: c.Body})
}

// takeMultipart takes a multipart/related body: JSON, then the bytes (RFC 2387).
func (a *api) takeMultipart(c *call) (any, error) {
	kind, params, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") || params["boundary"] == "" {
		return nil, invalid("Content-Type: %q is not multipart/related with a boundary", c.Header.Get("Content-Type"))
	}
	parts := multipart.NewReader(&watched{c: c, from: c.Body}, params["boundary"])
	first, err := parts.NextRawPart()
	if err != nil {
		return nil, invalid("the first part, the metadata, can't be read: %v", err)
	}
	metadata, err := io.ReadAll(io.LimitReader(first, maxUploadMetadata+1))
	if err != nil || len(metadata) > maxUploadMetadata {
		return nil, invalid("the metadata of an upload has at most %d bytes", maxUploadMetadata)
	}
	second, err := parts.NextRawPart()
	if err != nil {
		return nil, invalid("the second part, the file, can't be read: %v", err)
	}
	u, _, err := a.newUpload(c, metadata, textproto.MIMEHeader(second.Header).Get("Content-Type"), -1)
	if err != nil {
		return nil, err
	}
	return a.takeWhole(c, u, second)
}

func (a *api) takeWhole(c *call, u *ringback.Upload, body io.Reader) (any, error) {
	err := a.receive(c, u, body, u.Size)
	var out any
	if err == nil {
		out, err = a.finish(c, u)
	}
	if err != nil {
		// Nobody can go on with it.
		if e := a.Store.DeleteUpload(context.WithoutCancel(c.Context()), u.Hash); e != nil {
			a.Log.Error("remove a broken upload", "error", e)
		}
		return nil, err
	}
	return out, nil
}

// receive appends the body to an upload's blob. However it ends, u.Received tells
// what is durable: a client whose connection broke goes on from there.
func (a *api) receive(c *call, u *ringback.Upload, body io.Reader, length int64) error {
	room, err := a.room(c)
	if err != nil {
		return err
	}
	// limit is how many bytes may still come, and over what is said about more.
	limit, over := a.MaxFileBytes-u.Received, a.fileTooLarge()
	if room < limit {
		limit, over = room, a.quotaExceeded()
	}
	if left := u.Size - u.Received; u.Size >= 0 && left < limit {
		limit, over = left, invalid("more bytes came than the %d that X-Goog-Upload-Header-Content-Length declared", u.Size)
	}
	if length > limit {
		return over
	}
	ctx := context.WithoutCancel(c.Context()) // What arrived is kept although the client has gone.
	sum, err := loadDigest(u.Digest)
	if err != nil {
		return err
	}
	w, err := a.Blobs.Append(ctx, u.Blob, u.Received)
	if errors.Is(err, ringback.FailedPrecondition) {
		// The disk has less than the store says: it was restored from a backup.
		if err := a.Store.DeleteUpload(ctx, u.Hash); err != nil {
			return err
		}
		return &ringback.Error{Code: ringback.NotFound, Message: "what was received of this upload is gone; start again", Cause: err}
	}
	if err != nil {
		return err
	}
	defer w.Close()
	n, copied := copyHashed(w, sum, io.LimitReader(body, limit+1), limit)
	if copied == nil && n > limit {
		n, copied = limit, over
	}
	if err := w.Sync(); err != nil {
		return err
	}
	if n == 0 && copied != nil {
		return copied
	}
	digest, err := digestState(sum)
	if err != nil {
		return err
	}
	if err := a.Store.AdvanceUpload(ctx, u.Hash, u.Received+n, digest, a.Now()); err != nil {
		return err
	}
	u.Received, u.Digest = u.Received+n, digest
	return copied
}

// copyBuffer is how much is read before it is written and hashed.
const copyBuffer = 512 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copyHashed copies at most limit bytes and hashes them on the way, at the same
// time as they are written. It reads on to tell whether there is more: then it
// returns limit+1. The first n bytes were written even if it fails.
func copyHashed(w io.Writer, sum hash.Hash, r io.Reader, limit int64) (n int64, err error) {
	buffer := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buffer)
	for {
		k, readErr := io.ReadFull(r, buffer[:])
		chunk := buffer[:k]
		more := n+int64(k) > limit
		if more {
			chunk = chunk[:limit-n]
		}
		hashed := make(chan struct{})
		go func() {
			sum.Write(chunk)
			close(hashed)
		}()
		_, err := w.Write(chunk)
		<-hashed
		if err != nil {
			return n, err // The state of sum is lost with it; nothing of this call counts.
		}
		if more {
			return limit + 1, nil
		}
		n += int64(k)
		switch {
		case readErr == io.EOF, readErr == io.ErrUnexpectedEOF:
			return n, nil
		case readErr != nil:
			return n, readErr
		}
	}
}

// watched is a body that gives up a client that sends nothing for too long, and
// that tells a body that broke off from one that ended.
type watched struct {
	c       *call
	from    io.Reader
	set     time.Time   // When the deadline was last set.
	dropped atomic.Bool // By cut.
}

func (w *watched) Read(b []byte) (int, error) {
	if now := time.Now(); now.Sub(w.set) > time.Second {
		w.set = now
		w.deadline(now.Add(stalledAfter))
		if w.dropped.Load() {
			w.deadline(now) // It was cut right before.
		}
	}
	n, err := w.from.Read(b)
	if err != nil && err != io.EOF {
		err = &ringback.Error{Code: ringback.InvalidArgument, Message: "the body broke off; what arrived is kept: ask with the command query where to go on", Cause: err}
	}
	return n, err
}

// cut ends the reading, from any goroutine.
func (w *watched) cut() {
	w.dropped.Store(true)
	w.deadline(time.Now())
}

func (w *watched) deadline(at time.Time) {
	_ = http.NewResponseController(w.c.w).SetReadDeadline(at) // Not every writer has deadlines; the body ends by itself then.
}

// finish makes a file of an upload that has wholly arrived.
func (a *api) finish(c *call, u *ringback.Upload) (any, error) {
	if u.Size >= 0 && u.Size != u.Received {
		return nil, invalid("%d bytes have arrived, X-Goog-Upload-Header-Content-Length declared %d; send the rest", u.Received, u.Size)
	}
	ctx := context.WithoutCancel(c.Context())
	if u.Received == 0 {
		// Nothing may have been written yet.
		w, err := a.Blobs.Append(ctx, u.Blob, 0)
		if err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
	}
	sum, err := loadDigest(u.Digest)
	if err != nil {
		return nil, err
	}
	if err := a.Blobs.Commit(ctx, u.Blob); err != nil {
		return nil, err
	}
	f := u.File
	now := a.Now()
	f.Size, f.SHA256, f.Updated, f.Expires = u.Received, sum.Sum(nil), now, now.Add(a.FileTTL)
	if err := a.Store.FinishUpload(ctx, u.Hash, &f); err != nil {
		return nil, err
	}
	return genai.UploadResponse{File: renderFile(&f, a.base(c.Request))}, nil
}

// digestState saves the state of a SHA-256, so that an upload can go on after a
// restart without its bytes being read again.
func digestState(sum hash.Hash) ([]byte, error) {
	m, ok := sum.(encoding.BinaryMarshaler)
	if !ok {
		return nil, fmt.Errorf("the state of a %T can't be saved", sum)
	}
	return m.MarshalBinary()
}

func loadDigest(state []byte) (hash.Hash, error) {
	sum := sha256.New()
	m, ok := sum.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, fmt.Errorf("the state of a %T can't be loaded", sum)
	}
	if err := m.UnmarshalBinary(state); err != nil {
		return nil, fmt.Errorf("the state of an upload's hash: %w", err)
	}
	return sum, nil
}
