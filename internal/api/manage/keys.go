package manage

import (
	"fmt"
	"strconv"
	"time"

	"ringback.dev"
)

// shownSigningKey is one of the server's own keys as it is shown.
type shownSigningKey struct {
	ID             string `json:"id"`
	Algorithm      string `json:"algorithm"`
	State          string `json:"state"` // signing, next or retired
	Created        string `json:"created"`
	SignsFrom      string `json:"signs_from,omitempty"`
	SignsUntil     string `json:"signs_until,omitempty"`
	PublishedUntil string `json:"published_until,omitempty"`
}

func renderSigningKey(k *ringback.SigningKey, now time.Time) *shownSigningKey {
	out := &shownSigningKey{ID: k.ID, Algorithm: k.Algorithm, State: "signing", Created: wireTime(k.Created), SignsFrom: wireTime(k.SignsFrom),
		SignsUntil: wireTime(k.SignsUntil), PublishedUntil: wireTime(k.PublishedUntil)}
	switch {
	case k.SignsFrom.IsZero():
		out.State = "next"
	case !k.SignsUntil.IsZero() && !now.Before(k.SignsUntil):
		out.State = "retired"
	}
	return out
}

func (m *manage) signingKeys(c *call) (any, error) {
	all, err := m.Store.SigningKeys(c.Context())
	out := []*shownSigningKey{}
	for i := range all {
		out = append(out, renderSigningKey(&all[i], c.now))
	}
	return map[string]any{"signing_keys": out}, err
}

func (m *manage) listSigningKeys(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	return m.signingKeys(c)
}

func (m *manage) rotateSigningKeys(c *call) (any, error) {
	var q struct {
		Algorithm string `json:"algorithm"`
		Force     bool   `json:"force"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if err := m.RotateSigningKeys(c.Context(), q.Algorithm, q.Force, c.by()); err != nil {
		return nil, err
	}
	return m.signingKeys(c)
}

func (m *manage) revokeSigningKey(c *call) (any, error) {
	if err := c.decode(&struct{}{}); err != nil {
		return nil, err
	}
	if err := m.RevokeSigningKey(c.Context(), string(c.id()), c.by()); err != nil {
		return nil, err
	}
	return m.signingKeys(c)
}

// change is a line of the audit log as it is shown.
type change struct {
	At      string      `json:"at"`
	Project ringback.ID `json:"project,omitempty"`
	Actor   ringback.ID `json:"actor"`
	Action  string      `json:"action"`
	Subject ringback.ID `json:"subject,omitempty"`
	Detail  string      `json:"detail,omitempty"`
}

// listAudit shows a project's changes, or to an operator the whole server's.
func (m *manage) listAudit(c *call) (any, error) {
	q, err := c.query("before", "limit")
	if err != nil {
		return nil, err
	}
	n, err := limit(q)
	if err != nil {
		return nil, err
	}
	kind := fmt.Sprintf("audit of %q", c.project)
	before, err := numbered("before", kind, q.Get("before"))
	if err != nil {
		return nil, err
	}
	all, err := m.Store.ListAudit(c.Context(), c.project, before, n)
	if err != nil {
		return nil, err
	}
	var out struct {
		Audit []*change `json:"audit"`
		Next  string    `json:"next,omitempty"`
	}
	out.Audit = []*change{}
	for _, a := range all {
		line := &change{At: wireTime(a.At), Actor: a.Actor, Action: a.Action, Subject: a.Subject, Detail: a.Detail}
		if c.project == "" {
			line.Project = a.Project
		}
		out.Audit = append(out.Audit, line)
	}
	if len(all) == n {
		out.Next = cursor(kind, strconv.FormatInt(all[n-1].Seq, 10))
	}
	return out, nil
}
