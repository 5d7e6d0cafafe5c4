package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// CreateProject implements store.Projects.
func (s *Store) CreateProject(ctx context.Context, p ringback.Project, k *ringback.APIKey, by store.By) error {
	if p.DynamicSignature == "" {
		p.DynamicSignature = ringback.JWT
	}
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.exec(`INSERT INTO projects (id, name, dynamic_signature, audience, created) VALUES (?, ?, ?, ?, ?)`,
			string(p.ID), p.Name, string(p.DynamicSignature), p.Audience, micros(p.Created)); err != nil {
			return err
		}
		if err := t.audit(by, p.ID, "project.create", p.ID, p.Name); err != nil {
			return err
		}
		if k == nil {
			return nil
		}
		own := *k
		own.Project = p.ID
		return insertKey(t, own, by)
	}, func() {
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		s.memory.known[p.ID] = p
		if k != nil {
			own := *k
			own.Project = p.ID
			s.memory.keys[string(k.Hash)] = own
		}
	})
	if err != nil {
		return fmt.Errorf("create project %s: %w", p.ID, err)
	}
	return nil
}

func insertKey(t *tx, k ringback.APIKey, by store.By) error {
	if err := t.exec(`INSERT INTO api_keys (id, project, name, prefix, hash, created) VALUES (?, ?, ?, ?, ?, ?)`,
		string(k.ID), string(k.Project), k.Name, k.Prefix, k.Hash, micros(k.Created)); err != nil {
		return err
	}
	return t.audit(by, k.Project, "key.create", k.ID, k.Name+" "+k.Prefix)
}

// UpdateProject implements store.Projects.
func (s *Store) UpdateProject(ctx context.Context, p ringback.Project, by store.By) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`UPDATE projects SET name = ?, dynamic_signature = ?, audience = ? WHERE id = ?`,
			p.Name, string(p.DynamicSignature), p.Audience, string(p.ID))
		if err != nil {
			return err
		}
		if n == 0 {
			return ringback.NotFound
		}
		return t.audit(by, p.ID, "project.update", p.ID, fmt.Sprintf("name %q, dynamic_signature %s, audience %q", p.Name, p.DynamicSignature, p.Audience))
	}, func() {
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		p.Created = s.memory.known[p.ID].Created
		s.memory.known[p.ID] = p
	})
	if err != nil {
		return fmt.Errorf("update project %s: %w", p.ID, err)
	}
	return nil
}

// Project implements store.Projects.
func (s *Store) Project(_ context.Context, id ringback.ID) (ringback.Project, error) {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	p, ok := s.memory.known[id]
	if !ok {
		return p, fmt.Errorf("project %s: %w", id, ringback.NotFound)
	}
	return p, nil
}

// Projects implements store.Projects.
func (s *Store) Projects(context.Context) ([]ringback.Project, error) {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	all := make([]ringback.Project, 0, len(s.memory.known))
	for _, p := range s.memory.known {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b ringback.Project) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// CreateKey implements store.Projects.
func (s *Store) CreateKey(ctx context.Context, k ringback.APIKey, by store.By) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		if k.Project != "" {
			var one int
			if err := t.row(`SELECT 1 FROM projects WHERE id = ?`, string(k.Project)).Scan(&one); err != nil {
				return translate(err)
			}
		}
		return insertKey(t, k, by)
	}, func() {
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		s.memory.keys[string(k.Hash)] = k
	})
	if err != nil {
		return fmt.Errorf("create key %s: %w", k.ID, err)
	}
	return nil
}

// APIKeys implements store.Projects.
func (s *Store) APIKeys(_ context.Context, project ringback.ID) ([]ringback.APIKey, error) {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	var all []ringback.APIKey
	for _, k := range s.memory.keys {
		if k.Project == project {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b ringback.APIKey) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// RevokeKey implements store.Projects.
func (s *Store) RevokeKey(ctx context.Context, project, id ringback.ID, by store.By) error {
	var hash []byte
	err := s.writer.submit(ctx, func(t *tx) error {
		var name string
		if err := t.row(`DELETE FROM api_keys WHERE id = ? AND project = ? RETURNING hash, name || ' ' || prefix`, string(id), string(project)).Scan(&hash, &name); err != nil {
			return translate(err)
		}
		return t.audit(by, project, "key.revoke", id, name)
	}, func() {
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		delete(s.memory.keys, string(hash))
	})
	if err != nil {
		return fmt.Errorf("revoke key %s: %w", id, err)
	}
	return nil
}

// TouchKeys implements store.Projects.
func (s *Store) TouchKeys(ctx context.Context, used map[ringback.ID]time.Time) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		for id, at := range used {
			if err := t.exec(`UPDATE api_keys SET last_used = ? WHERE id = ?`, micros(at), string(id)); err != nil {
				return err
			}
		}
		return nil
	}, func() {
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		for hash, k := range s.memory.keys {
			if at, ok := used[k.ID]; ok {
				k.LastUsed = at
				s.memory.keys[hash] = k
			}
		}
	})
	if err != nil {
		return fmt.Errorf("note the use of keys: %w", err)
	}
	return nil
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
