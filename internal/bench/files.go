package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// fileBytes is the size of the file that is sent back and forth.
const fileBytes = 1 << 30

// files compares an upload and a download with io.Copy from one process over
// loopback to another's disk, with fsync.
func (b *bench) files(ctx context.Context) error {
	s, err := spawn(ctx, "server", "-dir", b.dir+"/files")
	if err != nil {
		return err
	}
	defer s.stop()
	a, err := newAPI(s.ready, 1)
	if err != nil {
		return err
	}
	var plain, up, down series
	var ups, downs []float64
	for range b.Rounds {
		disk, err := spawn(ctx, "disk", "-dir", b.dir)
		if err != nil {
			return err
		}
		bare, err := timed(func() error { return sendPlain(disk.ready) })
		disk.stop()
		if err != nil {
			return err
		}
		var name string
		upload, err := timed(func() (err error) {
			name, err = a.upload(ctx, io.LimitReader(pattern{}, fileBytes), fileBytes)
			return err
		})
		if err != nil {
			return err
		}
		download, err := timed(func() error { return a.download(ctx, name, filepath.Join(b.dir, "downloaded")) })
		if err != nil {
			return err
		}
		if err := a.send(ctx, http.MethodDelete, "/v1beta/"+name, nil, 0, nil); err != nil {
			return err
		}
		plain.add(bare)
		up.add(upload)
		down.add(download)
		ups = append(ups, upload.PerSecond/bare.PerSecond)
		downs = append(downs, download.PerSecond/bare.PerSecond)
	}
	peak := fmt.Sprintf("%.0f", peakMB(s.cmd.Process.Pid))
	row("io.Copy of 1 GiB over loopback to disk, with fsync", megabytes(median(plain.rates)), "1.00", "", "")
	row("upload of 1 GiB", megabytes(median(up.rates)), ratio(median(ups)), "≥ 0.50", peak)
	row("download of 1 GiB to disk, with fsync", megabytes(median(down.rates)), ratio(median(downs)), "≥ 0.50", peak)
	return nil
}

func megabytes(v float64) string { return fmt.Sprintf("%.0f MB/s", v/1e6) }

// timed returns the rate at which do moves a file.
func timed(do func() error) (outcome, error) {
	begin := time.Now()
	err := do()
	return outcome{PerSecond: fileBytes / time.Since(begin).Seconds()}, err
}

// pattern is an endless body.
type pattern struct{}

func (pattern) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// upload sends a body in one request and returns the file's name. A size of -1 is
// not known.
func (a *api) upload(ctx context.Context, body io.Reader, size int64) (string, error) {
	var out struct{ File struct{ Name string } }
	err := a.send(ctx, http.MethodPost, "/upload/v1beta/files", body, size, func(r io.Reader) error { return json.NewDecoder(r).Decode(&out) })
	return out.File.Name, err
}

func (a *api) download(ctx context.Context, name, to string) error {
	return a.send(ctx, http.MethodGet, "/v1beta/"+name+":download?alt=media", nil, 0, func(r io.Reader) error { return toDisk(r, to) })
}

func (a *api) send(ctx context.Context, method, path string, body io.Reader, size int64, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, body)
	if err != nil {
		return err
	}
	req.ContentLength = size
	req.Header.Set("X-Goog-Api-Key", a.key)
	req.Header.Set("X-Goog-Upload-Protocol", "raw") // For uploads.
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		return errors.Join(fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text), err)
	}
	if read == nil {
		return nil
	}
	return read(resp.Body)
}

// disk is the plain receiver: it copies one connection to disk, with fsync, and
// closes it.
func disk(_ context.Context, o options) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	return toDisk(c, filepath.Join(o.Dir, "plain"))
}

// sendPlain sends the file to disk and waits until it is stored.
func sendPlain(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.Copy(c, io.LimitReader(pattern{}, fileBytes)); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	if err == io.EOF {
		return nil
	}
	return err
}

// toDisk writes what it reads to a new file, with fsync.
func toDisk(r io.Reader, name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
