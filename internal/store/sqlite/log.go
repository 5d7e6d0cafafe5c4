package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// where gathers the conditions of a query and their arguments.
type where struct {
	text string
	args []any
}

func (q *where) and(condition string, args ...any) {
	q.text += " AND " + condition
	q.args = append(q.args, args...)
}

// types adds a condition on a column of event types.
func (q *where) types(column string, types []ringback.EventType) {
	if len(types) == 0 {
		return
	}
	args := make([]any, len(types))
	for i, t := range types {
		args[i] = string(t)
	}
	q.and(column+` IN (?`+strings.Repeat(`, ?`, len(types)-1)+`)`, args...)
}

// filter adds the conditions of a filter on deliveries d and their events e.
func (q *where) filter(f store.DeliveryFilter) {
	if f.State != "" {
		q.and(`d.state = ?`, string(f.State))
	}
	if f.Event != "" {
		q.and(`e.id = ?`, string(f.Event))
	}
	if f.Endpoint != "" {
		q.and(`d.endpoint = ?`, string(f.Endpoint))
	}
	q.types("e.type", f.Types)
	if !f.From.IsZero() {
		q.and(`e.created >= ?`, micros(f.From))
	}
	if !f.To.IsZero() {
		q.and(`e.created < ?`, micros(f.To))
	}
}

const deliveryColumns = `d.id, (SELECT id FROM events WHERE seq = d.event), d.project, d.target, d.endpoint, d.uri, d.scheme, d.state,
	d.attempts, d.due, coalesce(d.begun, d.created), d.created, d.updated, coalesce(d.reason, '')`

func scanDelivery(r scanner) (d ringback.Delivery, err error) {
	var due, begun, created, updated sql.NullInt64
	var event, uri, scheme sql.NullString
	err = r.Scan(&d.ID, &event, &d.Project, &d.Target, &d.Endpoint, &uri, &scheme, &d.State, &d.Attempts, &due, &begun, &created, &updated, &d.Reason)
	d.Event, d.URI, d.Scheme = ringback.ID(event.String), uri.String, ringback.Scheme(scheme.String)
	d.Due, d.Begun, d.Created, d.Updated = instant(due), instant(begun), instant(created), instant(updated)
	return d, err
}

// Delivery implements store.Log.
func (s *Store) Delivery(ctx context.Context, project, id ringback.ID) (ringback.Delivery, error) {
	d, err := scanDelivery(s.read.QueryRowContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries d WHERE d.id = ? AND d.project = ?`, string(id), string(project)))
	if err != nil {
		return d, fmt.Errorf("delivery %s: %w", id, translate(err))
	}
	return d, nil
}

// ListDeliveries implements store.Log. It walks the project's events backwards,
// so that other projects' rows cost nothing; what failed has an index of its own.
func (s *Store) ListDeliveries(ctx context.Context, project ringback.ID, f store.DeliveryFilter, before ringback.ID, limit int) ([]ringback.Delivery, error) {
	q := where{text: `e.project = ?`, args: []any{string(project)}}
	order := `e.seq DESC, d.id DESC`
	if f.State == ringback.DeliveryFailed {
		q = where{text: `d.project = ? AND d.state = 'failed'`, args: []any{string(project)}}
		order = `d.id DESC`
		if before != "" {
			q.and(`d.id < ?`, string(before))
		}
	} else if before != "" {
		q.and(`e.seq <= (SELECT event FROM deliveries WHERE id = ?) AND NOT (e.seq = (SELECT event FROM deliveries WHERE id = ?) AND d.id >= ?)`,
			string(before), string(before), string(before))
	}
	q.filter(f)
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries d JOIN events e ON e.seq = d.event
		WHERE `+q.text+` ORDER BY `+order+` LIMIT ?`, append(q.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", translate(err))
	}
	return collect(rows, "list deliveries", scanDelivery)
}

// EventDeliveries implements store.Log.
func (s *Store) EventDeliveries(ctx context.Context, project, event ringback.ID) ([]ringback.Delivery, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries d
		WHERE d.event = (SELECT seq FROM events WHERE id = ?) AND d.project = ? ORDER BY d.id`, string(event), string(project))
	if err != nil {
		return nil, fmt.Errorf("deliveries of event %s: %w", event, translate(err))
	}
	return collect(rows, "deliveries of an event", scanDelivery)
}

// Attempts implements store.Log.
func (s *Store) Attempts(ctx context.Context, project, delivery ringback.ID) ([]ringback.Attempt, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT a.delivery, a.number, a.started, a.status, a.answer, a.dns, a.connect, a.tls,
			a.first_byte, a.total, a.reason, coalesce(a.error, '')
		FROM attempts a JOIN deliveries d ON d.id = a.delivery
		WHERE a.delivery = ? AND d.project = ? ORDER BY a.number`, string(delivery), string(project))
	if err != nil {
		return nil, fmt.Errorf("attempts of delivery %s: %w", delivery, translate(err))
	}
	return collect(rows, "attempts of a delivery", func(r scanner) (a ringback.Attempt, err error) {
		var started sql.NullInt64
		err = r.Scan(&a.Delivery, &a.Number, &started, &a.Status, &a.Answer, &a.DNS, &a.Connect, &a.TLS,
			&a.FirstByte, &a.Total, &a.Reason, &a.Error)
		a.Started = instant(started)
		for _, d := range []*time.Duration{&a.DNS, &a.Connect, &a.TLS, &a.FirstByte, &a.Total} {
			*d *= time.Microsecond
		}
		return a, err
	})
}

// ListJobs implements store.Log.
func (s *Store) ListJobs(ctx context.Context, project ringback.ID, f store.JobFilter, before int64, limit int) (jobs []*ringback.Job, next int64, err error) {
	q := where{text: `j.project = ?`, args: []any{string(project)}}
	if before > 0 {
		q.and(`j.rowid < ?`, before)
	}
	if f.Kind != "" {
		q.and(`j.kind = ?`, string(f.Kind))
	}
	switch f.State {
	case "":
	case ringback.Pending:
		q.and(`j.state = 'pending' AND q.node IS NULL`)
	case ringback.Running:
		q.and(`j.state = 'pending' AND q.node IS NOT NULL`)
	default:
		q.and(`j.state = ?`, string(f.State))
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+jobSummary+`, j.rowid FROM jobs j LEFT JOIN job_queue q ON q.id = j.id
		WHERE `+q.text+` ORDER BY j.rowid DESC LIMIT ?`, append(q.args, limit+1)...)
	if err != nil {
		return nil, 0, fmt.Errorf("list jobs: %w", translate(err))
	}
	return page(rows, "list jobs", limit, scanJob)
}

// page collects a page of a list that goes by rowid, the last column. One row more
// than limit was asked for: next is not zero only if there is more.
func page[T any](rows *sql.Rows, what string, limit int, scan func(scanner) (T, error)) (list []T, next int64, err error) {
	var places []int64
	list, err = collect(rows, what, func(r scanner) (T, error) {
		places = append(places, 0)
		return scan(alsoScan{r, []any{&places[len(places)-1]}})
	})
	if len(list) > limit {
		list, next = list[:limit], places[limit-1]
	}
	return list, next, err
}

// ListAudit implements store.Log.
func (s *Store) ListAudit(ctx context.Context, project ringback.ID, before int64, limit int) ([]ringback.Audit, error) {
	q := where{text: `TRUE`}
	if project != "" {
		q.and(`project = ?`, string(project))
	}
	if before > 0 {
		q.and(`seq < ?`, before)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT seq, project, at, actor, action, subject, detail FROM audit
		WHERE `+q.text+` ORDER BY seq DESC LIMIT ?`, append(q.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", translate(err))
	}
	return collect(rows, "list the audit log", func(r scanner) (a ringback.Audit, err error) {
		var at sql.NullInt64
		err = r.Scan(&a.Seq, &a.Project, &at, &a.Actor, &a.Action, &a.Subject, &a.Detail)
		a.At = instant(at)
		return a, err
	})
}

// audit writes a line of the audit log.
func (t *tx) audit(by store.By, project ringback.ID, action string, subject ringback.ID, detail string) error {
	return t.exec(`INSERT INTO audit (project, at, actor, action, subject, detail) VALUES (?, ?, ?, ?, ?, ?)`,
		string(project), micros(by.At), string(by.Actor), action, string(subject), detail)
}

// Sweep implements store.Log. Events are looked at in the order of their birth,
// from the oldest, so that it costs nothing when there is nothing to remove.
func (s *Store) Sweep(ctx context.Context, before time.Time, limit int) (events, unended int, err error) {
	var last sql.NullInt64
	err = s.read.QueryRowContext(ctx, `SELECT max(seq) FROM (SELECT seq, created FROM events ORDER BY seq LIMIT ?) WHERE created < ?`,
		limit, micros(before)).Scan(&last)
	if err != nil || !last.Valid {
		return 0, 0, translate(err)
	}
	err = s.writer.submit(ctx, func(t *tx) error {
		if err := t.flush(); err != nil {
			return err
		}
		if err := t.row(`SELECT count(*) FROM deliveries WHERE event <= ? AND state = 'pending'`, last.Int64).Scan(&unended); err != nil {
			return err
		}
		if err := t.exec(`DELETE FROM attempts WHERE delivery IN (SELECT id FROM deliveries WHERE event <= ?)`, last.Int64); err != nil {
			return err
		}
		if err := t.exec(`DELETE FROM deliveries WHERE event <= ?`, last.Int64); err != nil {
			return err
		}
		n, err := t.change(`DELETE FROM events WHERE seq <= ?`, last.Int64)
		events = int(n)
		return err
	}, nil)
	if err != nil {
		return 0, 0, fmt.Errorf("remove old events: %w", err)
	}
	return events, unended, nil
}
