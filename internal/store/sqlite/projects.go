package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"ringback.dev"
)

// CreateProject implements store.Projects.
func (s *Store) CreateProject(ctx context.Context, p ringback.Project, k ringback.APIKey) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.exec(`INSERT INTO projects (id, name, created) VALUES (?, ?, ?)`,
			string(p.ID), p.Name, micros(p.Created)); err != nil {
			return err
		}
		return t.exec(`INSERT INTO api_keys (id, project, name, prefix, hash, created) VALUES (?, ?, ?, ?, ?, ?)`,
			string(k.ID), string(p.ID), k.Name, k.Prefix, k.Hash, micros(k.Created))
	}, func() {
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		k.Project = p.ID
		s.memory.keys[string(k.Hash)] = k
	})
	if err != nil {
		return fmt.Errorf("create project %s: %w", p.ID, err)
	}
	return nil
}

// Projects implements store.Projects.
func (s *Store) Projects(ctx context.Context) ([]ringback.Project, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, name, created FROM projects ORDER BY created, id`)
	if err != nil {
		return nil, fmt.Errorf("list projects: %w", translate(err))
	}
	return collect(rows, "list projects", func(r scanner) (p ringback.Project, err error) {
		var created sql.NullInt64
		err = r.Scan(&p.ID, &p.Name, &created)
		p.Created = instant(created)
		return p, err
	})
}

// KeyByHash implements store.Projects.
func (s *Store) KeyByHash(_ context.Context, hash []byte) (ringback.APIKey, error) {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	k, ok := s.memory.keys[string(hash)]
	if !ok {
		return ringback.APIKey{}, fmt.Errorf("api key: %w", ringback.NotFound)
	}
	return k, nil
}

// collect reads all rows with scan and closes them.
func collect[T any](rows *sql.Rows, what string, scan func(scanner) (T, error)) ([]T, error) {
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, translate(err))
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, translate(err))
	}
	return all, nil
}
