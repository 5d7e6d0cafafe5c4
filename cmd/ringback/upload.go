package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	uploadChunk   = 8 << 20
	uploadRetries = 5
)

// upload uploads a file by the resumable protocol (wire contract §7.2) and returns
// its name. After a broken connection it asks the server where to go on. progress
// is told how many bytes have arrived.
func (c *client) upload(ctx context.Context, f *os.File, displayName, mimeType string, progress func(int64)) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", f.Name())
	}
	metadata, err := json.Marshal(map[string]any{"file": map[string]any{"displayName": displayName, "mimeType": mimeType}})
	if err != nil {
		return "", err
	}
	size := info.Size()
	resp, err := c.send(ctx, http.MethodPost, strings.TrimRight(c.Server, "/")+"/upload/v1beta/files", strings.NewReader(string(metadata)), map[string]string{
		"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start", "X-Goog-Upload-Header-Content-Length": strconv.FormatInt(size, 10)})
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	address, err := c.here(resp.Header.Get("X-Goog-Upload-Url"))
	if err != nil {
		return "", err
	}
	at := int64(0)
	for failed := 0; ; {
		n := min(size-at, uploadChunk)
		command := "upload"
		if at+n == size {
			command = "upload, finalize"
		}
		resp, err := c.send(ctx, http.MethodPost, address, io.NewSectionReader(f, at, n), map[string]string{
			"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": strconv.FormatInt(at, 10)})
		var said *refusal
		switch {
		case err == nil && at+n == size:
			defer resp.Body.Close()
			progress(size)
			var out struct{ File struct{ Name string } }
			return out.File.Name, json.NewDecoder(resp.Body).Decode(&out)
		case err == nil:
			resp.Body.Close()
			at, failed = at+n, 0
			progress(at)
			continue
		case errors.As(err, &said) && said.status/100 == 4, ctx.Err() != nil:
			return "", err
		}
		if failed++; failed > uploadRetries {
			return "", err
		}
		select {
		case <-time.After(time.Second << (failed - 1)):
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if resp, err = c.send(ctx, http.MethodPost, address, http.NoBody, map[string]string{"X-Goog-Upload-Command": "query"}); err == nil {
			resp.Body.Close()
			if at, err = strconv.ParseInt(resp.Header.Get("X-Goog-Upload-Size-Received"), 10, 64); err != nil || at > size {
				return "", errors.New("the server does not say how much of the file it has")
			}
		}
	}
}

// here is an address of the server as this command reaches it: the SDKs, too, keep
// only path and query.
func (c *client) here(address string) (string, error) {
	u, err := url.Parse(address)
	base, e := url.Parse(c.Server)
	if err != nil || e != nil || u.Path == "" {
		return "", fmt.Errorf("the server's answer has no address to upload to; is %s a ringback server?", c.Server)
	}
	u.Scheme, u.Host = base.Scheme, base.Host
	return u.String(), nil
}

// refusal is an error that the server answered.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

// send makes a request of any size and returns the answer if it is 200.
func (c *client) send(ctx context.Context, method, address string, body io.Reader, header map[string]string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("--server: %q is not the address of a server", c.Server)
	}
	if section, ok := body.(*io.SectionReader); ok {
		req.ContentLength = section.Size()
	}
	req.Header.Set("X-Goog-Api-Key", c.APIKey)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, unanswered(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refused(resp, c.Server)
}

// refused reads an answer that is not 200.
func refused(resp *http.Response, server string) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var said struct{ Error struct{ Message string } }
	if err == nil && json.Unmarshal(data, &said) == nil && said.Error.Message != "" {
		return &refusal{resp.StatusCode, said.Error.Message}
	}
	return &refusal{resp.StatusCode, fmt.Sprintf("the server answered %s; is %s a ringback server?", resp.Status, server)}
}
