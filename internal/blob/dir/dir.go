// Package dir keeps blobs as files in a folder: unfinished ones below partial/,
// final ones below a folder of two characters of their key. A blob becomes final
// by fsync and rename, so that a name always stands for a whole body.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"ringback.dev"
	"ringback.dev/internal/blob"
)

// Store implements blob.Store. Make one with Open.
type Store struct{ root string }

var _ blob.Store = (*Store)(nil)

const partial = "partial"

// Open returns a store in the folder root, which is made if it is not there.
func Open(root string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(root, partial), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for files: %w", translate(err))
	}
	return &Store{root}, nil
}

func (s *Store) unfinished(key string) string { return filepath.Join(s.root, partial, key) }

// final spreads blobs over 1024 folders by the end of their key, which is the
// random part of time-ordered ids.
func (s *Store) final(key string) string {
	return filepath.Join(s.root, key[len(key)-2:], key)
}

// check keeps keys from leaving the folder.
func check(key string) error {
	ok := len(key) >= 4 && len(key) <= 128
	for _, c := range []byte(key) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	if !ok {
		return &ringback.Error{Code: ringback.InvalidArgument, Message: fmt.Sprintf("%q is not a blob's key", key)}
	}
	return nil
}

// Append implements blob.Store.
func (s *Store) Append(_ context.Context, key string, offset int64) (blob.Writer, error) {
	if err := check(key); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.unfinished(key), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("append to blob %s: %w", key, translate(err))
	}
	w := &writer{f}
	if err := w.begin(offset); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("append to blob %s: %w", key, err)
	}
	return w, nil
}

type writer struct{ *os.File }

func (w *writer) begin(offset int64) error {
	info, err := w.Stat()
	if err != nil {
		return translate(err)
	}
	if info.Size() < offset {
		return &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("%d bytes are there, not %d", info.Size(), offset)}
	}
	if err := w.Truncate(offset); err != nil {
		return translate(err)
	}
	_, err = w.Seek(offset, io.SeekStart)
	return translate(err)
}

func (w *writer) Write(b []byte) (int, error) {
	n, err := w.File.Write(b)
	return n, translate(err)
}

func (w *writer) Sync() error { return translate(w.File.Sync()) }

// Commit implements blob.Store.
func (s *Store) Commit(_ context.Context, key string) error {
	if err := check(key); err != nil {
		return err
	}
	if err := s.commit(key); err != nil {
		return fmt.Errorf("commit blob %s: %w", key, translate(err))
	}
	return nil
}

func (s *Store) commit(key string) error {
	f, err := os.OpenFile(s.unfinished(key), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Stat(s.final(key))
		return err
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	to := s.final(key)
	switch err := os.Mkdir(filepath.Dir(to), 0o700); {
	case err == nil:
		if err := syncFolder(s.root); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	if err := os.Rename(s.unfinished(key), to); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(to))
}

// syncFolder makes the names in a folder durable.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, key string) (blob.Reader, error) {
	if err := check(key); err != nil {
		return nil, err
	}
	f, err := os.Open(s.final(key))
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", key, translate(err))
	}
	return f, nil
}

// Delete implements blob.Store.
func (s *Store) Delete(_ context.Context, key string) error {
	if err := check(key); err != nil {
		return err
	}
	for _, name := range []string{s.unfinished(key), s.final(key)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete blob %s: %w", key, translate(err))
		}
	}
	return nil
}

// Sweep implements blob.Store.
func (s *Store) Sweep(ctx context.Context, before time.Time) (int, error) {
	names, err := os.ReadDir(filepath.Join(s.root, partial))
	if err != nil {
		return 0, fmt.Errorf("look for unfinished blobs: %w", translate(err))
	}
	n := 0
	for _, name := range names {
		info, err := name.Info()
		if ctx.Err() != nil || err != nil || !info.ModTime().Before(before) {
			continue // It may just have been committed.
		}
		if err := os.Remove(s.unfinished(name.Name())); err == nil {
			n++
		}
	}
	return n, ctx.Err()
}

// translate gives the errors of the file system their code.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return ringback.NotFound
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return &ringback.Error{Code: ringback.StorageFull, Message: "the disk is full; nothing was lost", Cause: err}
	case errors.Is(err, fs.ErrClosed):
		return err
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return &ringback.Error{Code: ringback.Unavailable, Message: "the files can't be read or written just now", Cause: err}
	}
	return err
}
