package gemini

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

const (
	// chunk is how much is uploaded at a time, as by the SDKs (wire contract §7.2).
	chunk = 8 << 20
	// maxBreaks is how often in a row an upload or a download may break without
	// getting further.
	maxBreaks = 6
	// maxSilence is how long a download may bring nothing.
	maxSilence = time.Minute
)

// upload stores a file under a name, "files/…", by the resumable protocol. One that
// is there already stays: the name was made up for this file.
func (b *Backend) upload(ctx context.Context, name, mimeType string, from io.Reader) error {
	var metadata genai.UploadRequest
	metadata.File.Name, metadata.File.DisplayName, metadata.File.MimeType = name, name, mimeType
	body, err := encode(metadata)
	if err != nil {
		return err
	}
	address, err := b.startUpload(ctx, body, mimeType)
	if isStatus(err, http.StatusConflict) {
		return b.ready(ctx, name)
	}
	if err != nil {
		return err
	}
	rows := bufio.NewReaderSize(from, 64<<10)
	buffer := make([]byte, chunk)
	for offset := int64(0); ; offset += chunk {
		n, err := io.ReadFull(rows, buffer)
		if err == nil {
			_, err = rows.Peek(1)
		}
		last := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !last {
			return err // The caller's own.
		}
		err = b.sendChunk(ctx, address, buffer[:n], offset, last)
		switch {
		case isStatus(err, http.StatusConflict): // Another upload under that name was faster.
			return b.ready(ctx, name)
		case err != nil:
			return err
		case last:
			return b.ready(ctx, name)
		}
	}
}

// startUpload begins an upload and returns where to send the bytes: as a path, for
// like the SDKs of JavaScript and Go it keeps to the host that it was told of.
func (b *Backend) startUpload(ctx context.Context, metadata []byte, mimeType string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	resp, err := b.do(ctx, &request{method: http.MethodPost, path: "/upload" + version + "files", body: metadata, retries: b.retries, header: http.Header{
		"X-Goog-Upload-Protocol": {"resumable"}, "X-Goog-Upload-Command": {"start"}, "X-Goog-Upload-Header-Content-Type": {mimeType}}})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	u, err := url.Parse(resp.Header.Get("X-Goog-Upload-Url"))
	if err != nil || u.Path == "" || u.RawQuery == "" {
		return "", &backend.Error{Kind: backend.Internal, Message: "the back-end does not say where to upload to"}
	}
	base, err := url.Parse(b.base)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(u.EscapedPath(), strings.TrimRight(base.EscapedPath(), "/")) + "?" + u.RawQuery, nil
}

// sendChunk sends a piece of an upload. When the connection breaks it asks how much
// has arrived, and sends the rest.
func (b *Backend) sendChunk(ctx context.Context, address string, data []byte, offset int64, last bool) error {
	command := "upload"
	if last {
		command = "upload, finalize"
	}
	sent := int64(0) // Of data, what has arrived.
	for breaks := 0; ; breaks++ {
		_, final, err := b.uploadCommand(ctx, address, command, data[sent:], offset+sent)
		if err == nil && (final || !last) {
			return nil
		}
		if err == nil {
			err = &backend.Error{Kind: backend.Unavailable, Message: "the back-end does not say that the upload is done"}
		}
		if !passing(err) || breaks == maxBreaks || ctx.Err() != nil {
			return err
		}
		if e := backend.Sleep(ctx, max(backend.Pause(breaks), backend.AsError(err).RetryAfter)); e != nil {
			return e
		}
		received, final, err := b.uploadCommand(ctx, address, "query", nil, 0)
		switch {
		case err != nil && !passing(err):
			// The upload is lost; begun anew it can succeed.
			return &backend.Error{Kind: backend.Unavailable, Message: "the back-end has lost the upload", Cause: err}
		case err != nil:
			continue
		case final:
			return nil
		case received < offset || received > offset+int64(len(data)):
			return &backend.Error{Kind: backend.Unavailable, Message: fmt.Sprintf("the back-end has %d bytes of an upload, %d were sent", received, offset+int64(len(data)))}
		case received > offset+sent:
			sent, breaks = received-offset, 0
		}
	}
}

// uploadCommand sends a command to an upload, and returns how far it is.
func (b *Backend) uploadCommand(ctx context.Context, address, command string, data []byte, offset int64) (received int64, final bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	header := http.Header{"X-Goog-Upload-Protocol": {"resumable"}, "X-Goog-Upload-Command": {command}}
	if strings.HasPrefix(command, "upload") {
		header["X-Goog-Upload-Offset"] = []string{strconv.FormatInt(offset, 10)}
	}
	resp, err := b.send(ctx, &request{method: http.MethodPost, path: address, body: data, header: header})
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return 0, false, backend.TransportError(ctx, err)
	}
	status := resp.Header.Get("X-Goog-Upload-Status")
	if status != "active" && status != "final" {
		return 0, false, &backend.Error{Kind: backend.Unavailable, Message: "the back-end does not say how far the upload is"}
	}
	if command == "query" && status == "active" {
		if received, err = strconv.ParseInt(resp.Header.Get("X-Goog-Upload-Size-Received"), 10, 64); err != nil {
			return 0, false, &backend.Error{Kind: backend.Internal, Message: "the back-end does not say how much it has of the upload"}
		}
	}
	return received, status == "final", nil
}

// passing reports whether it may go better next time.
func passing(err error) bool {
	e := backend.AsError(err)
	return e.Kind != backend.InvalidRequest && e.Kind != backend.ModelNotFound
}

// ready waits until a file that is there can be used.
func (b *Backend) ready(ctx context.Context, name string) error {
	for try := 0; ; try++ {
		var f genai.File
		if err := b.call(ctx, &request{method: http.MethodGet, path: name, retries: b.retries}, &f); err != nil {
			return err
		}
		switch f.State {
		case "PROCESSING":
		case "FAILED":
			return &backend.Error{Kind: backend.Internal, Message: "the back-end failed to take in the file"}
		default:
			return nil
		}
		if err := backend.Sleep(ctx, backend.Pause(try)); err != nil {
			return err
		}
	}
}

// fileName finds the name of a file in an address or a name, as the SDKs do (wire
// contract §6.4), except that a bare name may have hyphens.
var fileName = regexp.MustCompile(`^files/[A-Za-z0-9_-]+$|files/([a-z0-9]+)(?::download.*)?$`)

// downloadPath is the path of a file's bytes. The SDKs, too, ask their own base for
// them, wherever the address of a file points to.
func downloadPath(file string) (string, error) {
	m := fileName.FindStringSubmatch(file)
	switch {
	case m == nil:
		return "", &backend.Error{Kind: backend.Internal, Message: "the back-end has put a file where it can't be fetched from"}
	case m[1] == "":
		return file + ":download?alt=media", nil
	}
	return "files/" + m[1] + ":download?alt=media", nil
}

// download copies a file to the writer that open returns once its type is known,
// and goes on after a broken connection. It checks that all has come. An error of
// the writer is returned as it is.
func (b *Backend) download(ctx context.Context, file string, open func(mimeType string) (io.Writer, error)) error {
	path, err := downloadPath(file)
	if err != nil {
		return err
	}
	var to io.Writer
	have := int64(0)
	for breaks := 0; ; breaks++ {
		before := have
		have, err = b.piece(ctx, path, have, func(mimeType string) (io.Writer, error) {
			if to == nil {
				if to, err = open(mimeType); err != nil {
					return nil, &writeError{err}
				}
			}
			return to, nil
		})
		var own *writeError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &own):
			return own.error
		case ctx.Err() != nil || !passing(err):
			return err
		}
		if have > before {
			breaks = 0
		}
		if breaks == maxBreaks {
			return err
		}
		if e := backend.Sleep(ctx, max(backend.Pause(breaks), backend.AsError(err).RetryAfter)); e != nil {
			return e
		}
	}
}

// writeError is an error of the one who gets a download.
type writeError struct{ error }

// piece copies what a file has from an offset on, and returns up to where it came.
func (b *Backend) piece(ctx context.Context, path string, offset int64, open func(string) (io.Writer, error)) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := &backend.Error{Kind: backend.Unavailable, Message: "the back-end sends nothing more of a file"}
	watch := time.AfterFunc(b.timeout, func() { cancel(silence) })
	defer watch.Stop()
	header := make(http.Header)
	if offset > 0 {
		header["Range"] = []string{fmt.Sprintf("bytes=%d-", offset)}
	}
	resp, err := b.send(ctx, &request{method: http.MethodGet, path: path, header: header})
	if isStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return offset, nil // All has come; only the end of the connection was missing.
	}
	if err != nil {
		return offset, err
	}
	defer resp.Body.Close()
	size := resp.ContentLength // Of what is left; -1 if that is not known.
	skip := int64(0)
	if offset > 0 {
		if resp.StatusCode != http.StatusPartialContent {
			skip = offset // Ranges are not its affair: it begins anew.
			if size >= 0 {
				size -= skip
			}
		} else if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return offset, &backend.Error{Kind: backend.Internal, Message: "the back-end sends another part of a file than it was asked for"}
		}
	}
	to, err := open(resp.Header.Get("Content-Type"))
	if err != nil {
		return offset, err
	}
	buffer := make([]byte, 256<<10)
	begin := offset
	for {
		watch.Reset(maxSilence)
		n, err := resp.Body.Read(buffer)
		data := buffer[:n]
		if skip > 0 {
			cut := min(skip, int64(n))
			data, skip = data[cut:], skip-cut
		}
		if len(data) > 0 {
			if _, err := to.Write(data); err != nil {
				return offset, &writeError{err}
			}
			offset += int64(len(data))
		}
		switch {
		case err == io.EOF && (size >= 0 && offset-begin != size || skip > 0):
			return offset, &backend.Error{Kind: backend.Unavailable, Message: "the back-end sent less of a file than it said"}
		case err == io.EOF:
			return offset, nil
		case err != nil:
			return offset, backend.TransportError(ctx, err)
		}
	}
}
