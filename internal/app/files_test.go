package app

import (
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kept counts the regular files below the data folder's blobs.
func (s *server) kept() (n int) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.config.Data, "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// TestUploadAcrossRestart stops the server between two chunks of an upload. What
// expires leaves no bytes behind.
func TestUploadAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, config(t, dir))
	send := func(address, command, offset, body string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Goog-Upload-Protocol", "resumable")
		r.Header.Set("X-Goog-Upload-Command", command)
		r.Header.Set("X-Goog-Upload-Offset", offset)
		r.Header.Set("X-Goog-Api-Key", s.FirstKey)
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, %s", command, err, resp.Status)
		}
		return resp
	}
	address := send(s.URL()+"/upload/v1beta/files", "start", "", `{"file":{"name":"files/kept"}}`).Header.Get("X-Goog-Upload-Url")
	send(address, "upload", "0", "hello ")
	key, secret := s.FirstKey, address[strings.Index(address, "/upload/"):]
	s.stop()
	s = start(t, config(t, dir))
	s.FirstKey = key
	send(s.URL()+secret, "upload, finalize", "6", "world")
	if status, body := s.call("GET", "/v1/files/kept:download", key, ""); status != http.StatusOK || string(body) != "hello world" {
		t.Errorf("download: %d %s", status, body)
	}
	address = send(s.URL()+"/upload/v1beta/files", "start", "", "").Header.Get("X-Goog-Upload-Url")
	send(address, "upload", "0", "half")
	if n := s.kept(); n != 2 {
		t.Errorf("%d blobs are kept, want 2", n)
	}
	if err := s.sweepFiles(t.Context(), time.Now()); err != nil || s.kept() != 2 {
		t.Errorf("swept too early: %v, %d are left", err, s.kept())
	}
	if err := s.sweepFiles(t.Context(), time.Now().Add(49*time.Hour)); err != nil || s.kept() != 0 {
		t.Errorf("after they expired: %v, %d blobs are left", err, s.kept())
	}
}
