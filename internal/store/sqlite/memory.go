package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"sync"
	"time"

	"ringback.dev"
)

// memory is what the process knows of the database without asking it. It is
// loaded at the start and changed only by the writer, after the commit.
type memory struct {
	mu        sync.RWMutex
	known     map[ringback.ID]ringback.Project
	keys      map[string]ringback.APIKey // By hash.
	signing   []ringback.SigningKey      // Oldest first; replaced, never changed.
	endpoints map[ringback.ID]*ringback.Endpoint
	// projects holds each project's endpoints, oldest first. A slice is replaced,
	// never changed.
	projects map[ringback.ID][]*ringback.Endpoint
	// due holds, for each target with pending deliveries, a time not later than
	// the earliest due one.
	due map[string]time.Time
	// health holds the endpoints that fail.
	health map[ringback.ID]ringback.Health
}

func (m *memory) load(ctx context.Context, db *sql.DB) error {
	m.keys = make(map[string]ringback.APIKey)
	m.endpoints = make(map[ringback.ID]*ringback.Endpoint)
	m.projects = make(map[ringback.ID][]*ringback.Endpoint)
	m.due = make(map[string]time.Time)
	m.health = make(map[ringback.ID]ringback.Health)
	m.known = make(map[ringback.ID]ringback.Project)
	if err := m.loadProjects(ctx, db); err != nil {
		return err
	}
	if err := m.loadKeys(ctx, db); err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, `SELECT `+signingKeyColumns+` FROM signing_keys ORDER BY created, id`)
	if err != nil {
		return err
	}
	if m.signing, err = collect(rows, "signing keys", scanSigningKey); err != nil {
		return err
	}
	if err := m.loadEndpoints(ctx, db); err != nil {
		return err
	}
	return m.loadDue(ctx, db)
}

func (m *memory) loadProjects(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, `SELECT id, name, dynamic_signature, audience, created FROM projects`)
	if err != nil {
		return err
	}
	all, err := collect(rows, "projects", func(r scanner) (p ringback.Project, err error) {
		var created sql.NullInt64
		err = r.Scan(&p.ID, &p.Name, &p.DynamicSignature, &p.Audience, &created)
		p.Created = instant(created)
		return p, err
	})
	for _, p := range all {
		m.known[p.ID] = p
	}
	return err
}

func (m *memory) loadKeys(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, `SELECT id, project, name, prefix, hash, created, last_used FROM api_keys`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k ringback.APIKey
		var created, used sql.NullInt64
		if err := rows.Scan(&k.ID, &k.Project, &k.Name, &k.Prefix, &k.Hash, &created, &used); err != nil {
			return err
		}
		k.Created, k.LastUsed = instant(created), instant(used)
		m.keys[string(k.Hash)] = k
	}
	return rows.Err()
}

func (m *memory) loadEndpoints(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, `SELECT `+endpointColumns+` FROM endpoints ORDER BY created, id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanEndpoint(rows)
		if err != nil {
			return err
		}
		m.endpoints[e.ID] = e
		m.projects[e.Project] = append(m.projects[e.Project], e)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	failing, err := db.QueryContext(ctx, `SELECT id, failing_since, failures FROM endpoints WHERE failing_since IS NOT NULL`)
	if err != nil {
		return err
	}
	defer failing.Close()
	for failing.Next() {
		var id ringback.ID
		var since sql.NullInt64
		var h ringback.Health
		if err := failing.Scan(&id, &since, &h.Failures); err != nil {
			return err
		}
		h.FailingSince = instant(since)
		m.health[id] = h
	}
	return failing.Err()
}

// loadDue walks the index from target to target; it never reads the million
// rows that may wait for one.
func (m *memory) loadDue(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, `
		WITH RECURSIVE t (target) AS (
		  SELECT min(target) FROM deliveries WHERE state = 'pending'
		  UNION ALL
		  SELECT (SELECT min(target) FROM deliveries WHERE state = 'pending' AND target > t.target)
		  FROM t WHERE t.target IS NOT NULL
		)
		SELECT target, (SELECT min(due) FROM deliveries d WHERE d.state = 'pending' AND d.target = t.target)
		FROM t WHERE target IS NOT NULL`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var target string
		var due sql.NullInt64
		if err := rows.Scan(&target, &due); err != nil {
			return err
		}
		m.due[target] = instant(due)
	}
	return rows.Err()
}

// setEndpoint adds or replaces an endpoint.
func (m *memory) setEndpoint(e *ringback.Endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endpoints[e.ID] = e
	list := slices.Clone(m.projects[e.Project])
	if i := slices.IndexFunc(list, func(x *ringback.Endpoint) bool { return x.ID == e.ID }); i >= 0 {
		list[i] = e
	} else {
		// Not always last: whoever made it earlier may have stored it later.
		list = append(list, e)
		slices.SortStableFunc(list, func(a, b *ringback.Endpoint) int {
			return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
		})
	}
	m.projects[e.Project] = list
}

func (m *memory) removeEndpoint(project, id ringback.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.endpoints, id)
	delete(m.health, id)
	m.projects[project] = slices.DeleteFunc(slices.Clone(m.projects[project]),
		func(x *ringback.Endpoint) bool { return x.ID == id })
}

func (m *memory) endpoint(id ringback.ID) *ringback.Endpoint {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.endpoints[id]
}

// failed counts a failed attempt of an endpoint.
func (m *memory) failed(id ringback.ID, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.endpoints[id] == nil {
		return
	}
	h := m.health[id]
	if h.FailingSince.IsZero() {
		h.FailingSince = at
	}
	h.Failures++
	m.health[id] = h
}

// healthy forgets an endpoint's failures.
func (m *memory) healthy(id ringback.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.health, id)
}

func (m *memory) healthOf(id ringback.ID) ringback.Health {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.health[id]
}

// sooner notes that a target has a delivery due at due.
func (m *memory) sooner(target string, due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.due[target]; !ok || due.Before(known) {
		m.due[target] = due
	}
}

// targets lists all that have pending deliveries.
func (m *memory) targets() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	targets := make([]string, 0, len(m.due))
	for target := range m.due {
		targets = append(targets, target)
	}
	return targets
}

// setDue replaces what is known of a target; the zero time means that nothing
// waits for it.
func (m *memory) setDue(target string, due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if due.IsZero() {
		delete(m.due, target)
	} else {
		m.due[target] = due
	}
}

// dueTargets lists the targets that may have a delivery due at now and are not
// paused, those due longest first.
func (m *memory) dueTargets(now time.Time) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var targets []string
	for target, due := range m.due {
		if !due.After(now) && !m.paused(target) {
			targets = append(targets, target)
		}
	}
	slices.SortFunc(targets, func(a, b string) int { return m.due[a].Compare(m.due[b]) })
	return targets
}

// nextDue is the earliest time at which a target that is not paused is due and
// not held back.
func (m *memory) nextDue(hold func(target string) time.Time) time.Time {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var next time.Time
	for target, due := range m.due {
		if m.paused(target) {
			continue
		}
		if hold != nil {
			if until := hold(target); until.After(due) {
				due = until
			}
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// paused reports whether a target's endpoint exists and is not enabled. The
// target of an endpoint is its id. Called with mu held.
func (m *memory) paused(target string) bool {
	e := m.endpoints[ringback.ID(target)]
	return e != nil && e.State != ringback.Enabled
}
