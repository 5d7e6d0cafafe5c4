package api

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

// base is the address under which clients reach this server: the public URL, or
// what the request itself was sent to.
func (a *api) base(r *http.Request) string {
	if a.PublicURL != "" {
		return a.PublicURL
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// renderFile shows a file as the resource of §7.1. The hash is the base64 of the
// hexadecimal digest's text, as in answers of the real service.
func renderFile(f *ringback.File, base string) genai.File {
	uri := base + "/v1beta/files/" + string(f.ID)
	r := genai.File{Name: "files/" + string(f.ID), DisplayName: f.DisplayName, MimeType: f.MimeType, SizeBytes: strconv.FormatInt(f.Size, 10),
		CreateTime: wireTime(f.Created), UpdateTime: wireTime(f.Updated), ExpirationTime: wireTime(f.Expires),
		SHA256Hash: base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(f.SHA256))),
		URI:        uri, State: "ACTIVE", Source: "UPLOADED"}
	if f.Generated {
		r.Source, r.DownloadURI = "GENERATED", uri+":download?alt=media"
	}
	if f.Duration > 0 {
		r.VideoMetadata = &genai.VideoFileMetadata{VideoDuration: strconv.FormatFloat(f.Duration.Seconds(), 'f', -1, 64) + "s"}
	}
	return r
}

// file reads a stored file.
func (a *api) file(c *call, id ringback.ID) (ringback.File, error) {
	f, err := a.Store.File(c.Context(), c.project, id, c.now)
	return f, notFound(err, "file", id)
}

func (a *api) getFile(c *call) (any, error) {
	f, err := a.file(c, c.id())
	if err != nil {
		return nil, err
	}
	return renderFile(&f, a.base(c.Request)), nil
}

func (a *api) deleteFile(c *call) (any, error) {
	return struct{}{}, notFound(a.Store.DeleteFile(c.Context(), c.project, c.id()), "file", c.id())
}

// filePage is the default number of files in a list, and maxFilePage the
// greatest (§7.5).
const filePage, maxFilePage = 10, 100

func (a *api) listFiles(c *call) (any, error) {
	size, before, err := c.place(filePage, maxFilePage)
	if err != nil {
		return nil, err
	}
	files, next, err := a.Store.ListFiles(c.Context(), c.project, c.now, before, size)
	if err != nil {
		return nil, err
	}
	var out struct {
		Files         []genai.File `json:"files"`
		NextPageToken string       `json:"nextPageToken,omitempty"`
	}
	out.Files = make([]genai.File, len(files))
	for i := range files {
		out.Files[i] = renderFile(&files[i], a.base(c.Request))
	}
	out.NextPageToken = placeToken(next)
	return out, nil
}

// place reads the page of a list that goes by numbered places, newest first.
func (c *call) place(standard, most int) (size int, before int64, err error) {
	size, token, err := c.page()
	if err != nil {
		return 0, 0, err
	}
	if s := c.query("page_size"); s == "" || s == "0" {
		size = standard
	}
	if token != "" {
		if before, err = strconv.ParseInt(token, 36, 64); err != nil || before < 1 {
			return 0, 0, errBadToken
		}
	}
	return min(size, most), before, nil
}

// placeToken is the page token for a place, empty for none.
func placeToken(next int64) string {
	if next == 0 {
		return ""
	}
	return pageToken(strconv.FormatInt(next, 36))
}

// downloadFile sends a file's bytes, or the ranges of them that were asked for
// (RFC 9110 §14). What a client uploaded is shown to a browser in a sandbox:
// it may be a page.
func (a *api) downloadFile(c *call) (any, error) {
	f, err := a.file(c, c.id())
	if err != nil {
		return nil, err
	}
	r, err := a.Blobs.Open(c.Context(), f.Blob)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	h := c.w.Header()
	h.Set("ETag", `"`+hex.EncodeToString(f.SHA256)+`"`)
	h.Set("Cache-Control", "private, no-transform")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'")
	h.Set("Content-Type", mediaType(f.MimeType))
	http.ServeContent(c.w, c.Request, "", f.Updated, r)
	return nil, nil
}

// mediaType makes something of what clients take for a MIME type, such as
// "jsonl".
func mediaType(s string) string {
	if strings.Contains(s, "/") && !strings.ContainsAny(s, "\r\n") {
		return s
	}
	return "application/octet-stream"
}

// malformedDownload matches what JS and Python ask for when they are given an
// http:// address of a file: its id is the last one in the path (§6.4).
var malformedDownload = regexp.MustCompile(`files/.*files/([a-z0-9]+)`)

func (a *api) fileRoute(r *http.Request) (string, verbs) {
	if m := malformedDownload.FindStringSubmatch(strings.TrimPrefix(r.URL.Path, "/")); m != nil && r.Method == http.MethodGet {
		r.SetPathValue("id", m[1])
		return "files/{id}:download", verbs{"GET": a.downloadFile}
	}
	id, verb := cut(r, "files")
	r.SetPathValue("id", id)
	switch verb {
	case "":
		return "files/{id}", verbs{"GET": a.getFile, "DELETE": a.deleteFile}
	case "download":
		return "files/{id}:download", verbs{"GET": a.downloadFile, "HEAD": a.downloadFile}
	}
	return "", nil
}
