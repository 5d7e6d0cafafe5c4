package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

const endpointColumns = `id, project, name, uri, events, state, secrets, created, updated, settings, resumed`

func scanEndpoint(r scanner) (*ringback.Endpoint, error) {
	var (
		e                         ringback.Endpoint
		events, secrets, settings []byte
		created, updated, resumed sql.NullInt64
	)
	if err := r.Scan(&e.ID, &e.Project, &e.Name, &e.URI, &events, &e.State, &secrets, &created, &updated, &settings, &resumed); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(events, &e.Events); err != nil {
		return nil, fmt.Errorf("events of endpoint %s: %w", e.ID, err)
	}
	if err := json.Unmarshal(secrets, &e.Secrets); err != nil {
		return nil, fmt.Errorf("secrets of endpoint %s: %w", e.ID, err)
	}
	if err := json.Unmarshal(settings, &e.Settings); err != nil {
		return nil, fmt.Errorf("settings of endpoint %s: %w", e.ID, err)
	}
	e.Created, e.Updated, e.Resumed = instant(created), instant(updated), instant(resumed)
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
	settings, err := json.Marshal(e.Settings)
	if err != nil {
		return err
	}
	return t.exec(statement, string(e.ID), string(e.Project), e.Name, e.URI, string(events), string(e.State),
		string(secrets), micros(e.Created), micros(e.Updated), string(settings), micros(e.Resumed))
}

const (
	insertEndpoint = `INSERT INTO endpoints (` + endpointColumns + `) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)`
	updateEndpoint = `UPDATE endpoints SET name = ?3, uri = ?4, events = ?5, state = ?6, secrets = ?7, created = ?8, updated = ?9, settings = ?10, resumed = ?11
		WHERE id = ?1 AND project = ?2`
)

// CreateEndpoint implements store.Endpoints.
func (s *Store) CreateEndpoint(ctx context.Context, e *ringback.Endpoint, by store.By) error {
	kept := *e
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := putEndpoint(t, insertEndpoint, &kept); err != nil {
			return err
		}
		return t.audit(by, e.Project, "webhook.create", e.ID, e.Name)
	},
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
func (s *Store) UpdateEndpoint(ctx context.Context, project, id ringback.ID, p store.EndpointPatch, by store.By) (*ringback.Endpoint, error) {
	resumed := false
	e, err := s.changeEndpoint(ctx, project, id, func(t *tx, e *ringback.Endpoint) (*ringback.Endpoint, error) {
		changed, what, err := patchEndpoint(t, e, p, by.At)
		if err != nil {
			return nil, err
		}
		resumed = !changed.Resumed.Equal(e.Resumed)
		return changed, t.audit(by, project, "webhook.update", id, what)
	})
	if err == nil && resumed {
		s.memory.healthy(id)
	}
	return e, err
}

// patchEndpoint stores a changed copy of e, and returns it with what was changed.
func patchEndpoint(t *tx, e *ringback.Endpoint, p store.EndpointPatch, now time.Time) (*ringback.Endpoint, string, error) {
	changed := *e
	var what []string
	if p.Name != nil {
		changed.Name = *p.Name
		what = append(what, "name")
	}
	if p.URI != nil {
		changed.URI = *p.URI
		what = append(what, "uri")
	}
	if p.Events != nil {
		changed.Events = p.Events
		what = append(what, "subscribed_events")
	}
	if p.Settings != nil {
		changed.Settings = *p.Settings
		what = append(what, "settings")
	}
	if p.AddSecrets != nil {
		changed.Secrets = append(slices.Clone(p.AddSecrets), e.Secrets...)
		what = append(what, "secrets")
	}
	if p.State != nil {
		changed.State = *p.State
		what = append(what, "state "+string(*p.State))
		if e.State != ringback.Enabled && changed.State == ringback.Enabled {
			changed.Resumed = now
			if err := t.exec(`UPDATE endpoints SET failing_since = NULL, failures = 0 WHERE id = ?`, string(e.ID)); err != nil {
				return nil, "", err
			}
		}
	}
	changed.Updated = now
	return &changed, strings.Join(what, ", "), putEndpoint(t, updateEndpoint, &changed)
}

// RotateSecrets implements store.Endpoints.
func (s *Store) RotateSecrets(ctx context.Context, project, id ringback.ID, secrets []ringback.Secret, expire time.Time, by store.By) error {
	_, err := s.changeEndpoint(ctx, project, id, func(t *tx, e *ringback.Endpoint) (*ringback.Endpoint, error) {
		changed := *e
		changed.Secrets = slices.Clone(secrets)
		for _, old := range e.Secrets {
			if old.Expires.IsZero() || expire.Before(old.Expires) {
				old.Expires = expire
			}
			if by.At.Before(old.Expires) {
				changed.Secrets = append(changed.Secrets, old)
			}
		}
		changed.Updated = by.At
		if err := putEndpoint(t, updateEndpoint, &changed); err != nil {
			return nil, err
		}
		return &changed, t.audit(by, project, "webhook.rotate", id, "the earlier secrets end at "+expire.UTC().Format(time.RFC3339))
	})
	return err
}

// DeleteEndpoint implements store.Endpoints.
func (s *Store) DeleteEndpoint(ctx context.Context, project, id ringback.ID, by store.By) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`DELETE FROM endpoints WHERE id = ? AND project = ?`, string(id), string(project))
		if err != nil {
			return err
		}
		if n == 0 {
			return ringback.NotFound
		}
		return t.audit(by, project, "webhook.delete", id, "")
	}, func() { s.memory.removeEndpoint(project, id) })
	if err != nil {
		return fmt.Errorf("delete endpoint %s: %w", id, err)
	}
	return nil
}

// Health implements store.Deliveries.
func (s *Store) Health(_ context.Context, endpoint ringback.ID) (ringback.Health, error) {
	return s.memory.healthOf(endpoint), nil
}
