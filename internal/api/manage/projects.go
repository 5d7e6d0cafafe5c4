package manage

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"ringback.dev"
	"ringback.dev/internal/keyring"
)

// maxName bounds names in bytes.
const maxName = 256

// shownProject is a project as it is shown.
type shownProject struct {
	ID               ringback.ID     `json:"id"`
	Name             string          `json:"name"`
	DynamicSignature ringback.Scheme `json:"dynamic_signature"`
	Audience         string          `json:"audience,omitempty"`
	Created          string          `json:"created"`
	APIKey           *shownKey       `json:"api_key,omitempty"`
}

func renderProject(p *ringback.Project) *shownProject {
	return &shownProject{ID: p.ID, Name: p.Name, DynamicSignature: p.DynamicSignature, Audience: p.Audience, Created: wireTime(p.Created)}
}

// shownKey is an API key as it is shown; Key is the whole of it, only in the
// answer to its creation.
type shownKey struct {
	ID       ringback.ID `json:"id"`
	Name     string      `json:"name"`
	Prefix   string      `json:"prefix"`
	Created  string      `json:"created"`
	LastUsed string      `json:"last_used,omitempty"`
	Key      string      `json:"key,omitempty"`
}

func renderKey(k *ringback.APIKey) *shownKey {
	return &shownKey{ID: k.ID, Name: k.Name, Prefix: k.Prefix, Created: wireTime(k.Created), LastUsed: wireTime(k.LastUsed)}
}

// projectRequest is what can be set of a project; what is absent is nil.
type projectRequest struct {
	Name             *string `json:"name"`
	DynamicSignature *string `json:"dynamic_signature"`
	Audience         *string `json:"audience"`
}

// apply validates what the request holds and puts it into p.
func (q *projectRequest) apply(p *ringback.Project) error {
	if q.Name != nil {
		if err := checkName("name", *q.Name); err != nil {
			return err
		}
		p.Name = *q.Name
	}
	if q.Audience != nil {
		if len(*q.Audience) > 2048 || !utf8.ValidString(*q.Audience) {
			return invalid("audience: at most 2048 bytes of UTF-8 are allowed")
		}
		p.Audience = *q.Audience
	}
	if q.DynamicSignature != nil {
		s := ringback.Scheme(strings.ToLower(*q.DynamicSignature))
		if s != ringback.JWT && s != ringback.V1a {
			return invalid("dynamic_signature: %q is neither jwt nor v1a", *q.DynamicSignature)
		}
		p.DynamicSignature = s
	}
	return nil
}

func checkName(field, name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return invalid("%s: 1 to %d bytes of UTF-8 are required", field, maxName)
	}
	return nil
}

func (m *manage) getOwnProject(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	p, err := m.Store.Project(c.Context(), c.project)
	return renderProject(&p), err
}

func (m *manage) listProjects(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	all, err := m.Store.Projects(c.Context())
	out := []*shownProject{}
	for i := range all {
		out = append(out, renderProject(&all[i]))
	}
	return map[string]any{"projects": out}, err
}

func (m *manage) createProject(c *call) (any, error) {
	var q projectRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Name == nil {
		return nil, invalid("name: it is required")
	}
	p := ringback.Project{ID: ringback.NewID("proj", c.now), DynamicSignature: ringback.JWT, Created: c.now}
	if err := q.apply(&p); err != nil {
		return nil, err
	}
	k, key := newKey(p.ID, "first", c)
	if err := m.Store.CreateProject(c.Context(), p, &k, c.by()); err != nil {
		return nil, err
	}
	out := renderProject(&p)
	out.APIKey = renderKey(&k)
	out.APIKey.Key = key
	return out, nil
}

// newKey makes an API key, and returns it beside what is stored of it.
func newKey(project ringback.ID, name string, c *call) (ringback.APIKey, string) {
	key := keyring.NewAPIKey()
	return ringback.APIKey{ID: ringback.NewID("key", c.now), Project: project, Name: name, Prefix: keyring.ShownPrefix(key), Hash: keyring.HashKey(key), Created: c.now}, key
}

// named reads the project that the path names.
func (m *manage) named(c *call) (ringback.Project, error) {
	p, err := m.Store.Project(c.Context(), c.id())
	if ringback.CodeOf(err) == ringback.NotFound {
		err = &ringback.Error{Code: ringback.NotFound, Message: fmt.Sprintf("there is no project %q", c.id())}
	}
	return p, err
}

func (m *manage) getProject(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	p, err := m.named(c)
	if err != nil {
		return nil, err
	}
	return renderProject(&p), nil
}

func (m *manage) patchProject(c *call) (any, error) {
	var q projectRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	p, err := m.named(c)
	if err != nil {
		return nil, err
	}
	if err := q.apply(&p); err != nil {
		return nil, err
	}
	if err := m.Store.UpdateProject(c.Context(), p, c.by()); err != nil {
		return nil, err
	}
	return renderProject(&p), nil
}

func (m *manage) listKeys(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	p, err := m.named(c)
	if err != nil {
		return nil, err
	}
	all, err := m.Store.APIKeys(c.Context(), p.ID)
	out := []*shownKey{}
	for i := range all {
		out = append(out, renderKey(&all[i]))
	}
	return map[string]any{"keys": out}, err
}

func (m *manage) createKey(c *call) (any, error) {
	var q struct {
		Name string `json:"name"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if err := checkName("name", q.Name); err != nil {
		return nil, err
	}
	p, err := m.named(c)
	if err != nil {
		return nil, err
	}
	k, key := newKey(p.ID, q.Name, c)
	if err := m.Store.CreateKey(c.Context(), k, c.by()); err != nil {
		return nil, err
	}
	out := renderKey(&k)
	out.Key = key
	return out, nil
}

func (m *manage) revokeKey(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	p, err := m.named(c)
	if err != nil {
		return nil, err
	}
	id := ringback.ID(c.names["key"])
	return struct{}{}, notFound(m.Store.RevokeKey(c.Context(), p.ID, id, c.by()), "key", id)
}
