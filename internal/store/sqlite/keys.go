package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

const signingKeyColumns = `id, algorithm, sealed, public, created, signs_from, signs_until, published_until`

func scanSigningKey(r scanner) (k ringback.SigningKey, err error) {
	var created, from, until, published sql.NullInt64
	var public []byte
	err = r.Scan(&k.ID, &k.Algorithm, &k.Sealed, &public, &created, &from, &until, &published)
	k.Public = public
	k.Created, k.SignsFrom, k.SignsUntil, k.PublishedUntil = instant(created), instant(from), instant(until), instant(published)
	return k, err
}

// SigningKeys implements store.Keys.
func (s *Store) SigningKeys(context.Context) ([]ringback.SigningKey, error) {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	return slices.Clone(s.memory.signing), nil
}

// PutSigningKeys implements store.Keys.
func (s *Store) PutSigningKeys(ctx context.Context, changed []ringback.SigningKey, action string, by store.By) error {
	var all []ringback.SigningKey
	err := s.writer.submit(ctx, func(t *tx) error {
		for _, k := range changed {
			sealed := any(nil)
			if k.Sealed != nil {
				sealed = k.Sealed
			}
			if err := t.exec(`INSERT OR REPLACE INTO signing_keys (`+signingKeyColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
				k.ID, k.Algorithm, sealed, string(k.Public), micros(k.Created), micros(k.SignsFrom), micros(k.SignsUntil), micros(k.PublishedUntil)); err != nil {
				return err
			}
			if err := t.audit(by, "", action, ringback.ID(k.ID), k.Algorithm); err != nil {
				return err
			}
		}
		if err := t.exec(`DELETE FROM signing_keys WHERE published_until <= ?`, micros(by.At)); err != nil {
			return err
		}
		rows, err := t.query(`SELECT ` + signingKeyColumns + ` FROM signing_keys ORDER BY created, id`)
		if err != nil {
			return err
		}
		all, err = collect(rows, "signing keys", scanSigningKey)
		return err
	}, func() {
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		s.memory.signing = all
	})
	if err != nil {
		return fmt.Errorf("store signing keys: %w", err)
	}
	return nil
}

// Reseal implements store.Keys. It is one transaction: there are few sealed
// values beside the events.
func (s *Store) Reseal(ctx context.Context, reseal func(sealed []byte, context string) ([]byte, error), by store.By) (int, error) {
	var changed int
	var endpoints []*ringback.Endpoint
	var keys []ringback.SigningKey
	err := s.writer.submit(ctx, func(t *tx) error {
		changed = 0
		again := func(sealed *[]byte, context string) error {
			if *sealed == nil {
				return nil
			}
			fresh, err := reseal(*sealed, context)
			if err == nil && fresh != nil {
				*sealed = fresh
				changed++
			}
			return err
		}
		rows, err := t.query(`SELECT ` + endpointColumns + ` FROM endpoints`)
		if err != nil {
			return err
		}
		if endpoints, err = collect(rows, "endpoints", scanEndpoint); err != nil {
			return err
		}
		for _, e := range endpoints {
			context := store.SealEndpoint + string(e.ID)
			for i := range e.Secrets {
				if err := again(&e.Secrets[i].Sealed, context); err != nil {
					return fmt.Errorf("secret of webhook %s: %w", e.ID, err)
				}
			}
			for i := range e.Settings.Headers {
				if err := again(&e.Settings.Headers[i].Sealed, context); err != nil {
					return fmt.Errorf("header of webhook %s: %w", e.ID, err)
				}
			}
			if err := again(&e.Settings.Certificate, context); err != nil {
				return fmt.Errorf("certificate of webhook %s: %w", e.ID, err)
			}
			if err := putEndpoint(t, updateEndpoint, e); err != nil {
				return err
			}
		}
		if rows, err = t.query(`SELECT ` + signingKeyColumns + ` FROM signing_keys ORDER BY created, id`); err != nil {
			return err
		}
		if keys, err = collect(rows, "signing keys", scanSigningKey); err != nil {
			return err
		}
		for i := range keys {
			if err := again(&keys[i].Sealed, store.SealSigning+keys[i].ID); err != nil {
				return fmt.Errorf("signing key %s: %w", keys[i].ID, err)
			}
			if keys[i].Sealed == nil {
				continue
			}
			if err := t.exec(`UPDATE signing_keys SET sealed = ? WHERE id = ?`, keys[i].Sealed, keys[i].ID); err != nil {
				return err
			}
		}
		return t.audit(by, "", "master_key.rotate", "", fmt.Sprintf("%d values sealed anew", changed))
	}, func() {
		for _, e := range endpoints {
			s.memory.setEndpoint(e)
		}
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		s.memory.signing = keys
	})
	if err != nil {
		return 0, fmt.Errorf("reseal: %w", err)
	}
	return changed, nil
}

// DropExpired implements store.Endpoints.
func (s *Store) DropExpired(ctx context.Context, now time.Time) error {
	s.memory.mu.RLock()
	var with []*ringback.Endpoint
	for _, e := range s.memory.endpoints {
		if len(e.LiveSecrets(now)) < len(e.Secrets) {
			with = append(with, e)
		}
	}
	s.memory.mu.RUnlock()
	for _, e := range with {
		_, err := s.changeEndpoint(ctx, e.Project, e.ID, func(t *tx, e *ringback.Endpoint) (*ringback.Endpoint, error) {
			changed := *e
			changed.Secrets = e.LiveSecrets(now)
			return &changed, putEndpoint(t, updateEndpoint, &changed)
		})
		if err != nil && ringback.CodeOf(err) != ringback.NotFound {
			return fmt.Errorf("drop expired secrets: %w", err)
		}
	}
	return nil
}
