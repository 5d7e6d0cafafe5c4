package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"ringback.dev/internal/api"
	"ringback.dev/internal/genai"
)

// upload sends a request of the upload protocol; pairs are header names and values.
func (s *server) upload(method, path string, body io.Reader, pairs ...string) answer {
	s.t.Helper()
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return s.send(method, path, h, body)
}

// begin starts a resumable upload and returns the path and query to go on at.
func (s *server) begin(metadata string, pairs ...string) string {
	s.t.Helper()
	a := s.upload("POST", "/upload/v1beta/files", strings.NewReader(metadata), append([]string{"X-Goog-Api-Key", s.key,
		"X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start"}, pairs...)...).ok()
	u, err := url.Parse(a.header.Get("X-Goog-Upload-Url"))
	if err != nil || !u.IsAbs() || "http://"+u.Host != s.url || a.header.Get("X-Goog-Upload-Status") != "active" {
		s.t.Fatalf("%v: the upload's address is %q, status %q", err, a.header.Get("X-Goog-Upload-Url"), a.header.Get("X-Goog-Upload-Status"))
	}
	return u.RequestURI()
}

func (s *server) chunk(path, command string, offset int, text string) answer {
	s.t.Helper()
	return s.upload("POST", path, strings.NewReader(text), "X-Goog-Upload-Command", command, "X-Goog-Upload-Offset", strconv.Itoa(offset))
}

// file reads the file in an answer.
func (a answer) file() genai.File {
	a.t.Helper()
	a.ok()
	var out genai.UploadResponse
	if err := json.Unmarshal([]byte(a.body), &out); err != nil || out.File.Name == "" {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
	return out.File
}

// put uploads a file in one request and returns its name.
func (s *server) put(text, mime string) string {
	s.t.Helper()
	return s.upload("POST", "/upload/v1beta/files", strings.NewReader(text), "X-Goog-Api-Key", s.key,
		"X-Goog-Upload-Protocol", "raw", "Content-Type", mime).file().Name
}

func hexDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestResumableUpload(t *testing.T) {
	s := newServer(t)
	path := s.begin(`{"file":{"displayName":"a poem","mimeType":"text/plain"}}`, "X-Goog-Upload-Header-Content-Length", "11")
	if got := s.chunk(path, "upload", 0, "hello ").header.Get("X-Goog-Upload-Status"); got != "active" {
		t.Errorf("after a chunk the status is %q", got)
	}
	if got := s.chunk(path, "query", 0, "").ok().header; got.Get("X-Goog-Upload-Size-Received") != "6" || got.Get("X-Goog-Upload-Status") != "active" {
		t.Errorf("query: %v", got)
	}
	wrong := s.chunk(path, "upload", 3, "lo wo")
	wrong.refusedClassic(400, "INVALID_ARGUMENT", "at byte 6")
	if wrong.header.Get("X-Goog-Upload-Size-Received") != "6" {
		t.Errorf("wrong offset: %v", wrong.header)
	}
	s.chunk(path, "finalize", 6, "").refusedClassic(400, "INVALID_ARGUMENT", "send the rest")
	s.chunk(path, "upload", 6, "world and too much").refusedClassic(400, "INVALID_ARGUMENT", "more bytes came")
	last := s.upload("PUT", path, strings.NewReader("world"), "X-Goog-Upload-Command", "upload, finalize", "X-Goog-Upload-Offset", "6")
	f := last.file()
	if last.header.Get("X-Goog-Upload-Status") != "final" {
		t.Errorf("at the end the status is %q", last.header.Get("X-Goog-Upload-Status"))
	}
	want := genai.File{Name: f.Name, DisplayName: "a poem", MimeType: "text/plain", SizeBytes: "11", State: "ACTIVE", Source: "UPLOADED",
		CreateTime: "2026-01-22T12:00:00.123456Z", UpdateTime: "2026-01-22T12:00:00.123456Z", ExpirationTime: "2026-01-24T12:00:00.123456Z",
		URI: s.url + "/v1beta/" + f.Name, SHA256Hash: base64.StdEncoding.EncodeToString([]byte(hexDigest("hello world")))}
	if f != want {
		t.Errorf("got %+v\nwant %+v", f, want)
	}
	// A client whose answer was lost asks again.
	if again := s.chunk(path, "finalize", 11, "").file(); again != f {
		t.Errorf("asked again: %+v", again)
	}
	if got := s.chunk(path, "query", 0, "").header.Get("X-Goog-Upload-Status"); got != "final" {
		t.Errorf("query at the end: %q", got)
	}
	if got := s.do("GET", "/v1/"+f.Name, "").ok(); !strings.HasPrefix(got.body, `{"name":"`+f.Name) {
		t.Errorf("get: %s", got.body)
	}
}

// TestUploadAfterBrokenConnection breaks a connection in the middle of a chunk:
// what arrived counts, and the client goes on from there.
func TestUploadAfterBrokenConnection(t *testing.T) {
	s := newServer(t)
	path := s.begin("")
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nX-Goog-Upload-Command: upload\r\nX-Goog-Upload-Offset: 0\r\nContent-Length: 100\r\n\r\nhello ", path)
	if err := errors.Join(err, conn.Close()); err != nil {
		t.Fatal(err)
	}
	until(t, "the server has kept what arrived", func() bool {
		return s.chunk(path, "query", 0, "").header.Get("X-Goog-Upload-Size-Received") == "6"
	})
	f := s.chunk(path, "upload, finalize", 6, "world").file()
	if got := s.do("GET", "/v1/"+f.Name+":download?alt=media", ""); got.body != "hello world" {
		t.Errorf("the file holds %q", got.body)
	}
}

// until waits for a fact that nothing tells of.
func until(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !fact(); {
		if time.Now().After(deadline) {
			t.Fatalf("it took more than 20 s until %s", what)
		}
	}
}

// TestUploadTakeOver goes on with an upload while an earlier connection still
// hangs: the later one wins.
func TestUploadTakeOver(t *testing.T) {
	s := newServer(t)
	path := s.begin("")
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", s.url+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Goog-Upload-Command", "upload")
	r.Header.Set("X-Goog-Upload-Offset", "0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
		}
	}()
	if _, err := io.WriteString(writer, "hello "); err != nil {
		t.Fatal(err)
	}
	// Whether the bytes have arrived, or do so between the question and the chunk, is
	// chance: a client asks again then.
	var last answer
	until(t, "the later connection has won", func() bool {
		n, err := strconv.Atoi(s.chunk(path, "query", 0, "").header.Get("X-Goog-Upload-Size-Received"))
		if err != nil {
			t.Fatal(err)
		}
		last = s.chunk(path, "upload, finalize", n, "hello world"[n:])
		return last.status == http.StatusOK
	})
	f := last.file()
	if got := s.do("GET", "/v1/"+f.Name+":download", ""); got.body != "hello world" {
		t.Errorf("the file holds %q", got.body)
	}
	cancel()
	_ = writer.Close()
	<-done
}

func TestUploadNeedsNoKeyButItsSecret(t *testing.T) {
	s := newServer(t)
	path := s.begin("")
	f := s.chunk(path, "upload, finalize", 0, "x").file()
	s.upload("POST", "/upload/v1beta/files?upload_id=guessed", strings.NewReader("x"), "X-Goog-Upload-Command", "query").
		refusedClassic(404, "NOT_FOUND", "start again")
	s.upload("POST", "/upload/v1beta/files", strings.NewReader(""), "X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start").
		refusedClassic(403, "PERMISSION_DENIED", "API key")
	s.as(s.foreign, "GET", "/v1/"+f.Name, "").refusedClassic(404, "NOT_FOUND", "file")
	s.as(s.foreign, "GET", "/v1/"+f.Name+":download", "").refusedClassic(404, "NOT_FOUND", "file")
	s.as(s.foreign, "DELETE", "/v1/"+f.Name, "").refusedClassic(404, "NOT_FOUND", "file")
	if got := s.as(s.foreign, "GET", "/v1/files", "").ok().body; got != `{"files":[]}` {
		t.Errorf("another project lists %s", got)
	}
	if strings.Contains(s.log.String(), strings.TrimPrefix(path[strings.Index(path, "upload_id="):], "upload_id=")[:20]) {
		t.Error("the log holds the upload's secret")
	}
}

func TestUploadCancel(t *testing.T) {
	s := newServer(t)
	path := s.begin("")
	s.chunk(path, "upload", 0, "x").ok()
	if got := s.chunk(path, "cancel", 0, "").ok().header.Get("X-Goog-Upload-Status"); got != "cancelled" {
		t.Errorf("cancel: %q", got)
	}
	s.chunk(path, "upload", 1, "x").refusedClassic(404, "NOT_FOUND", "start again")
	garbage, err := s.store.Garbage(t.Context(), 10)
	if err != nil || len(garbage) != 1 {
		t.Errorf("to be removed: %v, %v", garbage, err)
	}
}

func TestOtherUploadForms(t *testing.T) {
	s := newServer(t)
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	for _, part := range []struct{ kind, text string }{
		{"application/json", `{"file":{"display_name":"d","name":"files/my-file"}}`}, {"text/csv", "a,b\n"}} {
		w, err := m.CreatePart(textproto.MIMEHeader{"Content-Type": {part.kind}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, part.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	f := s.upload("POST", "/upload/v1/files", &body, "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", "multipart",
		"Content-Type", "multipart/related; boundary="+m.Boundary()).file()
	if f.Name != "files/my-file" || f.DisplayName != "d" || f.MimeType != "text/csv" || f.SizeBytes != "4" {
		t.Errorf("multipart: %+v", f)
	}
	raw := s.upload("POST", "/v1beta/files", strings.NewReader("raw"), "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", "raw",
		"X-Goog-Upload-File-Name", "notes.txt", "Content-Type", "text/plain").file()
	if raw.SizeBytes != "3" || raw.DisplayName != "notes.txt" || raw.MimeType != "text/plain" {
		t.Errorf("raw: %+v", raw)
	}
	empty := s.upload("POST", "/upload/v1/files", nil, "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", "raw").file()
	if empty.SizeBytes != "0" || s.do("GET", "/v1/"+empty.Name+":download", "").body != "" {
		t.Errorf("empty: %+v", empty)
	}
}

func TestUploadRefusals(t *testing.T) {
	s := newServer(t, func(c *api.Config) { c.MaxFileBytes, c.FileQuota = 100, 150 })
	start := func(metadata string, pairs ...string) answer {
		return s.upload("POST", "/upload/v1beta/files", strings.NewReader(metadata), append([]string{"X-Goog-Api-Key", s.key,
			"X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start"}, pairs...)...)
	}
	start(`{"file":{"name":"files/No_Good"}}`).refusedClassic(400, "INVALID_ARGUMENT", "file.name")
	start(`{"file":`).refusedClassic(400, "INVALID_ARGUMENT", "JSON")
	start(`{"file":{"displayName":"`+strings.Repeat("x", 513)+`"}}`).refusedClassic(400, "INVALID_ARGUMENT", "512")
	start(strings.Repeat(" ", 70_000)).refusedClassic(400, "INVALID_ARGUMENT", "65536")
	start("", "X-Goog-Upload-Header-Content-Length", "many").refusedClassic(400, "INVALID_ARGUMENT", "number of bytes")
	start("", "X-Goog-Upload-Header-Content-Length", "101").refusedClassic(413, "INVALID_ARGUMENT", "--max-file-bytes")
	start(`{"file":{"sizeBytes":"101"}}`).refusedClassic(413, "INVALID_ARGUMENT", "--max-file-bytes")
	s.do("POST", "/upload/v1beta/files", "").refusedClassic(400, "INVALID_ARGUMENT", "X-Goog-Upload-Protocol")
	s.upload("POST", "/upload/v1beta/files", nil, "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", "carrier pigeon").refusedClassic(400, "INVALID_ARGUMENT", "carrier")
	s.upload("POST", "/upload/v1beta/files", nil, "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", "resumable").refusedClassic(400, "INVALID_ARGUMENT", "start")
	s.upload("POST", "/upload/v1beta/files", strings.NewReader("x"), "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", "multipart").
		refusedClassic(400, "INVALID_ARGUMENT", "boundary")

	// A size that is not declared is checked while it arrives.
	path := s.begin("")
	s.upload("POST", path, io.MultiReader(strings.NewReader(strings.Repeat("x", 101))), "X-Goog-Upload-Command", "upload", "X-Goog-Upload-Offset", "0").
		refusedClassic(413, "INVALID_ARGUMENT", "--max-file-bytes")
	s.chunk(path, "dance", 0, "").refusedClassic(400, "INVALID_ARGUMENT", "dance")
	s.chunk(path, "cancel", 0, "").ok()
	s.put(strings.Repeat("x", 100), "text/plain")
	start("", "X-Goog-Upload-Header-Content-Length", "51").refusedClassic(429, "RESOURCE_EXHAUSTED", "--file-quota-bytes")
	s.upload("POST", "/upload/v1beta/files", io.MultiReader(strings.NewReader(strings.Repeat("x", 60))), "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", "raw").
		refusedClassic(429, "RESOURCE_EXHAUSTED", "--file-quota-bytes")
	name := s.put(strings.Repeat("x", 50), "text/plain")
	s.do("DELETE", "/v1/"+name, "{}").ok()
	s.put(strings.Repeat("x", 50), "text/plain")
}

func TestNameTaken(t *testing.T) {
	s := newServer(t)
	first, second := s.begin(`{"file":{"name":"files/mine"}}`), s.begin(`{"file":{"name":"files/mine"}}`)
	s.chunk(first, "upload, finalize", 0, "one").file()
	s.chunk(second, "upload, finalize", 0, "two").refusedClassic(409, "ALREADY_EXISTS", "mine")
	if got := s.do("GET", "/v1/files/mine:download", "").body; got != "one" {
		t.Errorf("the file holds %q", got)
	}
	s.upload("POST", "/upload/v1beta/files", strings.NewReader(`{"file":{"name":"files/mine"}}`), "X-Goog-Api-Key", s.key,
		"X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start").refusedClassic(409, "ALREADY_EXISTS", "mine")
}

func TestFileListAndExpiry(t *testing.T) {
	s := newServer(t)
	var names []string
	for i := range 12 {
		names = append([]string{s.put(fmt.Sprint(i), "text/plain")}, names...)
	}
	var listed []string
	for token := ""; ; {
		a := s.do("GET", "/v1beta/files?pageSize=5&pageToken="+token, "").ok()
		var page struct {
			Files         []genai.File
			NextPageToken string
		}
		if err := json.Unmarshal([]byte(a.body), &page); err != nil {
			t.Fatal(err)
		}
		for _, f := range page.Files {
			listed = append(listed, f.Name)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if strings.Join(listed, " ") != strings.Join(names, " ") {
		t.Errorf("listed %v, want %v", listed, names)
	}
	if got := strings.Count(s.do("GET", "/v1beta/files", "").body, `"sizeBytes"`); got != 10 {
		t.Errorf("a page has %d files by default", got)
	}
	s.do("GET", "/v1beta/files?pageToken=!", "").refusedClassic(400, "INVALID_ARGUMENT", "page_token")
	s.clock.Add(48*time.Hour + time.Second)
	s.do("GET", "/v1/"+names[0], "").refusedClassic(404, "NOT_FOUND", "file")
	if got := s.do("GET", "/v1beta/files", "").ok().body; got != `{"files":[]}` {
		t.Errorf("after 48 h: %s", got)
	}
}

func TestDownload(t *testing.T) {
	s := newServer(t)
	name := s.put("hello world", "text/html")
	get := func(method, path string, pairs ...string) answer {
		return s.upload(method, path, nil, append([]string{"X-Goog-Api-Key", s.key}, pairs...)...)
	}
	path := "/v1beta/" + name + ":download?alt=media"
	whole := get("GET", path)
	tag := `"` + hexDigest("hello world") + `"`
	if whole.status != 200 || whole.body != "hello world" || whole.header.Get("ETag") != tag || whole.header.Get("Content-Type") != "text/html" ||
		whole.header.Get("Accept-Ranges") != "bytes" || !strings.HasPrefix(whole.header.Get("Content-Security-Policy"), "sandbox;") {
		t.Errorf("got %d %q %v", whole.status, whole.body, whole.header)
	}
	for _, p := range []string{"/download/v1beta/" + name + ":download?alt=media", "/v1/" + name + ":download",
		"/v1/files/http:/127.0.0.1:1/v1beta/" + name + ":download?alt=media%3Adownload&alt=media"} {
		if got := get("GET", p); got.status != 200 || got.body != "hello world" {
			t.Errorf("%s: %d %q", p, got.status, got.body)
		}
	}
	for _, test := range []struct {
		ranges, tag  string
		status       int
		body, ranged string
	}{
		{"bytes=0-4", "", 206, "hello", "bytes 0-4/11"},
		{"bytes=6-", "", 206, "world", "bytes 6-10/11"},
		{"bytes=-3", "", 206, "rld", "bytes 8-10/11"},
		{"bytes=0-4", tag, 206, "hello", "bytes 0-4/11"},
		{"bytes=0-4", `"other"`, 200, "hello world", ""},
		{"bytes=11-", "", 416, "", "bytes */11"},
	} {
		got := get("GET", path, "Range", test.ranges, "If-Range", test.tag)
		if got.status != test.status || test.status != 416 && got.body != test.body || got.header.Get("Content-Range") != test.ranged {
			t.Errorf("%s: %d %q %v", test.ranges, got.status, got.body, got.header)
		}
	}
	if got := get("GET", path, "If-None-Match", tag); got.status != 304 {
		t.Errorf("If-None-Match: %d", got.status)
	}
	if got := get("HEAD", path); got.status != 200 || got.header.Get("Content-Length") != "11" {
		t.Errorf("HEAD: %d %v", got.status, got.header)
	}
	if got := s.upload("GET", path+"&key="+s.key, nil); got.status != 200 {
		t.Errorf("with the key in the query: %d", got.status)
	}
	if odd := s.put("{}", "jsonl"); get("GET", "/v1/"+odd+":download").header.Get("Content-Type") != "application/octet-stream" {
		t.Error("a MIME type without a slash was sent as it is")
	}
}

// FuzzUploadHeaders sends any header to both steps of an upload: the answer is
// never an internal error, and what was declared holds.
func FuzzUploadHeaders(f *testing.F) {
	s := newServer(f, func(c *api.Config) { c.MaxFileBytes = 1000 })
	f.Add("resumable", "start", "5", "0", "upload, finalize", "hello", `{"file":{"name":"files/x"}}`, "bytes=0-1")
	f.Add("multipart", "", "", "", "", "", "", "bytes=-")
	f.Add("resumable", "start", "", "00", "finalize,,upload", "", "", "bytes=9223372036854775807-9223372036854775808")
	f.Fuzz(func(t *testing.T, protocol, command, length, offset, next, body, metadata, ranges string) {
		for _, h := range []string{protocol, command, length, offset, next, ranges} {
			if strings.ContainsFunc(h, func(r rune) bool { return r < ' ' || r > '~' }) {
				return // No header.
			}
		}
		own := *s
		own.t = t
		first := own.upload("POST", "/upload/v1/files", strings.NewReader(metadata), "X-Goog-Api-Key", s.key, "X-Goog-Upload-Protocol", protocol,
			"X-Goog-Upload-Command", command, "X-Goog-Upload-Header-Content-Length", length, "Content-Type", next)
		if first.status >= 500 {
			t.Fatalf("start: %d %s", first.status, first.body)
		}
		at, err := url.Parse(first.header.Get("X-Goog-Upload-Url"))
		if err != nil || at.RawQuery == "" {
			return
		}
		last := own.upload("POST", at.RequestURI(), strings.NewReader(body), "X-Goog-Upload-Command", next, "X-Goog-Upload-Offset", offset)
		if last.status >= 500 {
			t.Fatalf("go on: %d %s", last.status, last.body)
		}
		if last.header.Get("X-Goog-Upload-Status") != "final" || !strings.Contains(last.body, `"file"`) {
			return
		}
		file := last.file()
		if file.SizeBytes != strconv.Itoa(len(body)) && strings.Contains(next, "upload") {
			t.Errorf("%d bytes became %s", len(body), file.SizeBytes)
		}
		got := own.upload("GET", "/v1/"+file.Name+":download", nil, "X-Goog-Api-Key", s.key, "Range", ranges)
		if got.status >= 500 || got.status == 200 && strings.Contains(next, "upload") && got.body != body {
			t.Errorf("download: %d %q", got.status, got.body)
		}
		own.do("DELETE", "/v1/"+file.Name, "").ok()
	})
}
