package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

const endpointColumns = `id, project, name, uri, events, state, secrets, created, updated`

func scanEndpoint(r scanner) (*ringback.Endpoint, error) {
	var (
		e                ringback.Endpoint
		events, secrets  []byte
		created, updated sql.NullInt64
	)
	if err := r.Scan(&e.ID, &e.Project, &e.Name, &e.URI, &events, &e.State, &secrets, &created, &updated); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(events, &e.Events); err != nil {
		return nil, fmt.Errorf("events of endpoint %s: %w", e.ID, err)
	}
	if err := json.Unmarshal(secrets, &e.Secrets); err != nil {
		return nil, fmt.Errorf("secrets of endpoint %s: %w", e.ID, err)
	}
	e.Created, e.Updated = instant(created), instant(updated)
	return &e, nil
}

// putEndpoint writes a whole endpoint with the given statement, whose
// parameters are those of endpointColumns.
func putEndpoint(t *tx, statement string, e *ringback.Endpoint) error {
	events, err := json.Marshal(e.Events)
	if err != nil {
		return err
	}
	secrets, err := json.Marshal(e.Secrets)
	if err != nil {
		return err
	}
	return t.exec(statement, string(e.ID), string(e.Project), e.Name, e.URI, string(events), string(e.State),
		string(secrets), micros(e.Created), micros(e.Updated))
}

const (
	insertEndpoint = `INSERT INTO endpoints (` + endpointColumns + `) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)`
	updateEndpoint = `UPDATE endpoints SET name = ?3, uri = ?4, events = ?5, state = ?6, secrets = ?7, created = ?8, updated = ?9
		WHERE id = ?1 AND project = ?2`
)

// CreateEndpoint implements store.Endpoints.
func (s *Store) CreateEndpoint(ctx context.Context, e *ringback.Endpoint) error {
	kept := *e
	err := s.writer.submit(ctx, func(t *tx) error { return putEndpoint(t, insertEndpoint, &kept) },
		func() { s.memory.setEndpoint(&kept) })
	if err != nil {
		return fmt.Errorf("create endpoint %s: %w", e.ID, err)
	}
	return nil
}

// Endpoint implements store.Endpoints.
func (s *Store) Endpoint(_ context.Context, project, id ringback.ID) (*ringback.Endpoint, error) {
	e := s.memory.endpoint(id)
	if e == nil || e.Project != project {
		return nil, fmt.Errorf("endpoint %s: %w", id, ringback.NotFound)
	}
	return e, nil
}

// ProjectEndpoints implements store.Endpoints.
func (s *Store) ProjectEndpoints(_ context.Context, project ringback.ID) ([]*ringback.Endpoint, error) {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	return s.memory.projects[project], nil
}

// changeEndpoint reads an endpoint inside the writer, where it can't change
// under it, and stores what change makes of it.
func (s *Store) changeEndpoint(ctx context.Context, project, id ringback.ID, change func(t *tx, e *ringback.Endpoint) (*ringback.Endpoint, error)) (*ringback.Endpoint, error) {
	var changed *ringback.Endpoint
	err := s.writer.submit(ctx, func(t *tx) error {
		e, err := scanEndpoint(t.row(`SELECT `+endpointColumns+` FROM endpoints WHERE id = ? AND project = ?`, string(id), string(project)))
		if err != nil {
			return translate(err)
		}
		changed, err = change(t, e)
		return err
	}, func() { s.memory.setEndpoint(changed) })
	if err != nil {
		return nil, fmt.Errorf("change endpoint %s: %w", id, err)
	}
	return changed, nil
}

// UpdateEndpoint implements store.Endpoints.
func (s *Store) UpdateEndpoint(ctx context.Context, project, id ringback.ID, p store.EndpointPatch, now time.Time) (*ringback.Endpoint, error) {
	return s.changeEndpoint(ctx, project, id, func(t *tx, e *ringback.Endpoint) (*ringback.Endpoint, error) {
		return patchEndpoint(t, e, p, now)
	})
}

// patchEndpoint stores a changed copy of e and returns it.
func patchEndpoint(t *tx, e *ringback.Endpoint, p store.EndpointPatch, now time.Time) (*ringback.Endpoint, error) {
	changed := *e
	if p.Name != nil {
		changed.Name = *p.Name
	}
	if p.URI != nil {
		changed.URI = *p.URI
	}
	if p.Events != nil {
		changed.Events = p.Events
	}
	if p.State != nil {
		changed.State = *p.State
	}
	changed.Updated = now
	return &changed, putEndpoint(t, updateEndpoint, &changed)
}

// RotateSecret implements store.Endpoints.
func (s *Store) RotateSecret(ctx context.Context, project, id ringback.ID, secret ringback.Secret, expire, now time.Time) error {
	_, err := s.changeEndpoint(ctx, project, id, func(t *tx, e *ringback.Endpoint) (*ringback.Endpoint, error) {
		changed := *e
		changed.Secrets = []ringback.Secret{secret}
		for _, old := range e.Secrets {
			if old.Expires.IsZero() || expire.Before(old.Expires) {
				old.Expires = expire
			}
			if now.Before(old.Expires) {
				changed.Secrets = append(changed.Secrets, old)
			}
		}
		changed.Updated = now
		return &changed, putEndpoint(t, updateEndpoint, &changed)
	})
	return err
}

// DeleteEndpoint implements store.Endpoints.
func (s *Store) DeleteEndpoint(ctx context.Context, project, id ringback.ID) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`DELETE FROM endpoints WHERE id = ? AND project = ?`, string(id), string(project))
		if err == nil && n == 0 {
			return ringback.NotFound
		}
		return err
	}, func() { s.memory.removeEndpoint(project, id) })
	if err != nil {
		return fmt.Errorf("delete endpoint %s: %w", id, err)
	}
	return nil
}
