package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"ringback.dev"
)

// CreateUpload implements store.Files.
func (s *Store) CreateUpload(ctx context.Context, u *ringback.Upload) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		var taken int
		if err := t.row(`SELECT EXISTS (SELECT 1 FROM files WHERE project = ? AND id = ?)`, string(u.Project), string(u.ID)).Scan(&taken); err != nil {
			return err
		}
		if taken == 1 {
			return fileExists(u.ID)
		}
		return t.exec(`INSERT INTO uploads (hash, project, file, display_name, mime_type, size, blob, received, digest, done, created, updated)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)`, u.Hash, string(u.Project), string(u.ID), u.DisplayName, u.MimeType, u.Size, u.Blob,
			u.Received, u.Digest, micros(u.Created), micros(u.Created))
	}, nil)
	if err != nil {
		return fmt.Errorf("create upload of file %s: %w", u.ID, err)
	}
	return nil
}

func fileExists(id ringback.ID) error {
	return &ringback.Error{Code: ringback.AlreadyExists, Message: fmt.Sprintf("files/%s exists already; delete it first or choose another name", id)}
}

const uploadColumns = `hash, project, file, display_name, mime_type, size, blob, received, digest, done, created, updated`

func scanUpload(r scanner) (u ringback.Upload, err error) {
	var created, updated sql.NullInt64
	err = r.Scan(&u.Hash, &u.Project, &u.ID, &u.DisplayName, &u.MimeType, &u.Size, &u.Blob, &u.Received, &u.Digest, &u.Done, &created, &updated)
	u.Created, u.Updated = instant(created), instant(updated)
	return u, err
}

// Upload implements store.Files.
func (s *Store) Upload(ctx context.Context, hash []byte) (ringback.Upload, error) {
	u, err := scanUpload(s.read.QueryRowContext(ctx, `SELECT `+uploadColumns+` FROM uploads WHERE hash = ?`, hash))
	if err != nil {
		return u, fmt.Errorf("upload: %w", translate(err))
	}
	return u, nil
}

// AdvanceUpload implements store.Files.
func (s *Store) AdvanceUpload(ctx context.Context, hash []byte, received int64, digest []byte, at time.Time) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		return t.changeOne(`UPDATE uploads SET received = ?, digest = ?, updated = ? WHERE hash = ? AND done = 0`, received, digest, micros(at), hash)
	}, nil)
	if err != nil {
		return fmt.Errorf("advance upload: %w", err)
	}
	return nil
}

// changeOne is exec for a change without which the row is not there.
func (t *tx) changeOne(query string, args ...any) error {
	n, err := t.change(query, args...)
	if err == nil && n == 0 {
		return ringback.NotFound
	}
	return err
}

// FinishUpload implements store.Files.
func (s *Store) FinishUpload(ctx context.Context, hash []byte, f *ringback.File) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		var taken int
		if err := t.row(`SELECT EXISTS (SELECT 1 FROM files WHERE project = ? AND id = ?)`, string(f.Project), string(f.ID)).Scan(&taken); err != nil {
			return err
		}
		if taken == 1 {
			return fileExists(f.ID)
		}
		if err := t.changeOne(`UPDATE uploads SET done = 1, updated = ? WHERE hash = ? AND done = 0`, micros(f.Updated), hash); err != nil {
			return err
		}
		return t.insertFile(f)
	}, nil)
	if err != nil {
		return fmt.Errorf("finish upload of file %s: %w", f.ID, err)
	}
	return nil
}

func (t *tx) insertFile(f *ringback.File) error {
	generated := 0
	if f.Generated {
		generated = 1
	}
	return t.exec(`INSERT INTO files (project, id, display_name, mime_type, size, sha256, blob, generated, created, updated, expires, duration)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, string(f.Project), string(f.ID), f.DisplayName, f.MimeType, f.Size, f.SHA256, f.Blob, generated,
		micros(f.Created), micros(f.Updated), micros(f.Expires), f.Duration.Microseconds())
}

// DeleteUpload implements store.Files.
func (s *Store) DeleteUpload(ctx context.Context, hash []byte) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.exec(`INSERT OR IGNORE INTO blob_garbage (blob) SELECT blob FROM uploads WHERE hash = ? AND done = 0`, hash); err != nil {
			return err
		}
		return t.exec(`DELETE FROM uploads WHERE hash = ? AND done = 0`, hash)
	}, nil)
	if err != nil {
		return fmt.Errorf("delete upload: %w", err)
	}
	return nil
}

const fileColumns = `project, id, display_name, mime_type, size, sha256, blob, generated, created, updated, expires, duration`

func scanFile(r scanner) (f ringback.File, err error) {
	var created, updated, expires, duration sql.NullInt64
	err = r.Scan(&f.Project, &f.ID, &f.DisplayName, &f.MimeType, &f.Size, &f.SHA256, &f.Blob, &f.Generated, &created, &updated, &expires, &duration)
	f.Created, f.Updated, f.Expires = instant(created), instant(updated), instant(expires)
	f.Duration = time.Duration(duration.Int64) * time.Microsecond
	return f, err
}

// File implements store.Files.
func (s *Store) File(ctx context.Context, project, id ringback.ID, now time.Time) (ringback.File, error) {
	f, err := scanFile(s.read.QueryRowContext(ctx, `SELECT `+fileColumns+` FROM files WHERE project = ? AND id = ? AND expires > ?`,
		string(project), string(id), micros(now)))
	if err != nil {
		return f, fmt.Errorf("file %s: %w", id, translate(err))
	}
	return f, nil
}

// ListFiles implements store.Files.
func (s *Store) ListFiles(ctx context.Context, project ringback.ID, now time.Time, before int64, limit int) (files []ringback.File, next int64, err error) {
	q := where{text: `project = ? AND expires > ?`, args: []any{string(project), micros(now)}}
	if before > 0 {
		q.and(`rowid < ?`, before)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+fileColumns+`, rowid FROM files WHERE `+q.text+` ORDER BY rowid DESC LIMIT ?`, append(q.args, limit+1)...)
	if err != nil {
		return nil, 0, fmt.Errorf("list files: %w", translate(err))
	}
	return page(rows, "list files", limit, scanFile)
}

// DeleteFile implements store.Files.
func (s *Store) DeleteFile(ctx context.Context, project, id ringback.ID) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.exec(`INSERT OR IGNORE INTO blob_garbage (blob) SELECT blob FROM files WHERE project = ? AND id = ?`, string(project), string(id)); err != nil {
			return err
		}
		return t.changeOne(`DELETE FROM files WHERE project = ? AND id = ?`, string(project), string(id))
	}, nil)
	if err != nil {
		return fmt.Errorf("delete file %s: %w", id, err)
	}
	return nil
}

// BytesStored implements store.Files.
func (s *Store) BytesStored(ctx context.Context, project ringback.ID) (int64, error) {
	var n int64
	err := s.read.QueryRowContext(ctx, `SELECT (SELECT coalesce(sum(size), 0) FROM files WHERE project = ?1 AND generated = 0)
		+ (SELECT coalesce(sum(received), 0) FROM uploads WHERE project = ?1 AND done = 0)`, string(project)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("bytes stored: %w", translate(err))
	}
	return n, nil
}

// ExpireFiles implements store.Files.
func (s *Store) ExpireFiles(ctx context.Context, now, stale time.Time, limit int) (int, error) {
	var due int
	err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM files WHERE expires <= ?) OR EXISTS (SELECT 1 FROM uploads WHERE updated < ?)`,
		micros(now), micros(stale)).Scan(&due)
	if err != nil {
		return 0, fmt.Errorf("look for expired files: %w", translate(err))
	}
	if due == 0 {
		return 0, nil
	}
	var removed int64
	err = s.writer.submit(ctx, func(t *tx) error {
		for _, q := range []struct {
			text string
			at   any
		}{
			{`INSERT OR IGNORE INTO blob_garbage (blob) SELECT blob FROM files WHERE expires <= ? ORDER BY expires LIMIT ?`, micros(now)},
			{`INSERT OR IGNORE INTO blob_garbage (blob) SELECT blob FROM
				(SELECT blob, done FROM uploads WHERE updated < ? ORDER BY updated LIMIT ?) WHERE done = 0`, micros(stale)},
		} {
			if err := t.exec(q.text, q.at, limit); err != nil {
				return err
			}
		}
		n, err := t.change(`DELETE FROM files WHERE rowid IN (SELECT rowid FROM files WHERE expires <= ? ORDER BY expires LIMIT ?)`, micros(now), limit)
		if err != nil {
			return err
		}
		m, err := t.change(`DELETE FROM uploads WHERE hash IN (SELECT hash FROM uploads WHERE updated < ? ORDER BY updated LIMIT ?)`, micros(stale), limit)
		removed = n + m
		return err
	}, nil)
	if err != nil {
		return 0, fmt.Errorf("remove expired files: %w", err)
	}
	return int(removed), nil
}

// NoteBlob implements store.Files.
func (s *Store) NoteBlob(ctx context.Context, job ringback.ID, lease ringback.Lease, blob string) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`INSERT INTO blob_garbage (blob, job) SELECT ?1, ?2
			WHERE EXISTS (SELECT 1 FROM job_queue WHERE id = ?2 AND lease = ?3 AND node IS NOT NULL)`, blob, string(job), lease.Token)
		if err == nil && n == 0 {
			err = ringback.Stale
		}
		return err
	}, nil)
	if err != nil {
		return fmt.Errorf("note a blob of job %s: %w", job, err)
	}
	return nil
}

// Garbage implements store.Files.
func (s *Store) Garbage(ctx context.Context, limit int) ([]string, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT g.blob FROM blob_garbage g WHERE NOT EXISTS
		(SELECT 1 FROM job_queue q JOIN batches b ON b.id = q.id WHERE q.kind = 'batch' AND b.input_blob = g.blob)
		AND NOT EXISTS (SELECT 1 FROM job_queue q WHERE q.id = g.job) LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("blobs to remove: %w", translate(err))
	}
	return collect(rows, "blobs to remove", func(r scanner) (blob string, err error) { return blob, r.Scan(&blob) })
}

// ForgetGarbage implements store.Files.
func (s *Store) ForgetGarbage(ctx context.Context, blobs []string) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		for _, b := range blobs {
			if err := t.exec(`DELETE FROM blob_garbage WHERE blob = ?`, b); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return fmt.Errorf("forget removed blobs: %w", err)
	}
	return nil
}
