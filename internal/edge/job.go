package edge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"ringback.dev/internal/egress"
)

// job is a job action.
type job struct {
	server *server
	kind   string
	model  *template // Nil if the body names it.
	body   value
}

// jobKinds are the kinds of jobs with the verb of a model's path.
var jobKinds = map[string]string{"interaction": "", "batch": "batchGenerateContent", "embeddings": "asyncBatchEmbedContent", "video": "predictLongRunning"}

// maxBodyValues bounds the values of a body.
const maxBodyValues = 10_000

func (k *kit) job(key string, c *Job) doer {
	j := &job{server: k.servers[c.Server], kind: c.Kind}
	if j.server == nil {
		k.at(key+".server", "%q is not among servers; add it there, with url and api_key_env", c.Server)
	}
	if _, ok := jobKinds[c.Kind]; !ok {
		k.at(key+".kind", "%q is none of interaction, batch, embeddings, video", c.Kind)
	}
	if c.Model != "" {
		j.model = k.text(key+".model", c.Model)
	} else if c.Kind != "interaction" {
		k.at(key+".model", "it is required, for example gemini-3.6-flash")
	}
	if c.Body.Kind != yaml.MappingNode && c.Body.Kind != yaml.AliasNode {
		k.at(key+".body", "it is required: the request as the API documents it, with {{ … }} where the event goes in")
		return j
	}
	left := maxBodyValues
	var err error
	if j.body, err = parseValue(&c.Body, &left, 0); err != nil {
		k.at(key+".body", "%v", err)
		return j
	}
	if j.body.members == nil {
		k.at(key+".body", "it must be a mapping")
		return j
	}
	if c.Kind == "interaction" {
		if j.body.member("background") == nil {
			name, _ := parseTemplate("background") // It has no expression that could be wrong.
			j.body.members = append(j.body.members, member{name, value{literal: []byte("true")}})
		}
		if j.model != nil && j.body.member("model") != nil {
			k.at(key+".model", "the body names a model too; keep one of them")
		} else if j.model != nil {
			name, _ := parseTemplate("model") // As above.
			j.body.members = append(j.body.members, member{name, value{text: j.model}})
		} else if j.body.member("model") == nil && j.body.member("agent") == nil {
			k.at(key+".model", "it is required, for example gemini-3.6-flash")
		}
	}
	return j
}

func (j *job) String() string {
	what := j.kind
	if j.model != nil {
		what += " on " + j.model.source
	}
	return "submit " + what + " to " + j.server.base.Host
}

// idempotencyKey is the same for all attempts of an action about an event, and for
// no other.
func idempotencyKey(t *task) string {
	sum := sha256.Sum256([]byte(t.Source + "\x00" + t.ID + "\x00" + t.action))
	return "edge-" + hex.EncodeToString(sum[:16])
}

// request is the request's path and body about an event.
func (j *job) request(t *task) (*url.URL, []byte, error) {
	body, err := j.body.appendJSON(nil, t.Event)
	if err != nil {
		return nil, nil, fmt.Errorf("body: %w", err)
	}
	to := *j.server.base
	verb := jobKinds[j.kind]
	if verb == "" {
		to.Path += "/v1beta/interactions"
		return &to, body, nil
	}
	model, err := j.model.render(t.Event, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("model: %w", err)
	}
	model = strings.TrimPrefix(model, "models/")
	if model == "" || strings.ContainsAny(model, "/?#%:\\ ") {
		return nil, nil, fmt.Errorf("model: %q is not the name of a model", excerpt([]byte(model)))
	}
	to.Path += "/v1beta/models/" + model + ":" + verb
	return &to, body, nil
}

func (j *job) do(ctx context.Context, t *task) result {
	to, body, err := j.request(t)
	if err != nil {
		return unfit(err)
	}
	now := time.Now()
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"ringback-edge"}, "Idempotency-Key": {idempotencyKey(t)}}
	if j.server.key != "" {
		h["X-Goog-Api-Key"] = []string{j.server.key}
	}
	resp, err := j.server.client.send(ctx, http.MethodPost, to, h, body)
	if err != nil {
		return unreached(err, j.server.client.key)
	}
	answer, err := egress.ReadBounded(resp, 1<<20)
	if resp.StatusCode/100 != 2 {
		// What the server does not understand it won't understand later.
		return status(resp, answer, now, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity)
	}
	var made struct{ ID, Name string }
	if err != nil || json.Unmarshal(answer, &made) != nil {
		// It is there; that its name is not known harms nobody.
		return success("answered %d", resp.StatusCode)
	}
	if made.ID == "" {
		made.ID = made.Name
	}
	return success("%s", excerpt([]byte(made.ID)))
}

// sameHost reports whether an address is the server's own.
func (s *server) sameHost(u *url.URL) bool {
	return s != nil && u.Scheme == s.base.Scheme && strings.EqualFold(u.Host, s.base.Host)
}
