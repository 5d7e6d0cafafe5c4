package edge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
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
	// named: a batch is given the idempotency key for its name, by which an attempt
	// finds what one before it has made (find).
	named bool
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
	if b := j.body.member("batch"); b != nil && b.members != nil && (c.Kind == "batch" || c.Kind == "embeddings") {
		j.named = b.member("displayName") == nil && b.member("display_name") == nil
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
	if err == nil && j.named {
		body, err = withName(body, idempotencyKey(t))
	}
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

// withName names the batch of a body that has no name.
func withName(body []byte, name string) ([]byte, error) {
	var all, batch map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(all["batch"], &batch); err != nil {
		return nil, err
	}
	var err error
	if batch["displayName"], err = json.Marshal(name); err != nil {
		return nil, err
	}
	if all["batch"], err = json.Marshal(batch); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// header is that of every request to the server.
func (j *job) header() http.Header {
	h := http.Header{"User-Agent": {"ringback-edge"}}
	if j.server.key != "" {
		h["X-Goog-Api-Key"] = []string{j.server.key}
	}
	return h
}

const (
	// maxListed bounds how many batches are looked through for one, maxPage the bytes
	// of a page of them, which holds no results.
	maxListed = 5000
	maxPage   = 8 << 20
	// clockSkew is how far a server's clock may be behind ours.
	clockSkew = time.Hour
)

// find looks for the batch that an attempt before this one has made, if its answer
// was lost: Google's API knows no idempotency keys, but lists batches with their
// names, newest first. It returns "" if there is none, and a result if that can't be
// known just now.
func (j *job) find(ctx context.Context, name string, since time.Time) (string, *result) {
	const page = 100
	token := ""
	for range maxListed / page {
		to := *j.server.base
		to.Path += "/v1beta/batches"
		to.RawQuery = url.Values{"pageSize": {strconv.Itoa(page)}, "pageToken": {token}}.Encode()
		now := time.Now()
		resp, err := j.server.client.send(ctx, http.MethodGet, &to, j.header(), nil)
		if err != nil {
			r := unreached(err, j.server.client.key)
			return "", &r
		}
		answer, err := egress.ReadBounded(resp, maxPage)
		switch {
		case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusNotImplemented:
			return "", nil // A server without a list.
		case resp.StatusCode/100 != 2:
			r := status(resp, answer, now)
			return "", &r
		}
		var list struct {
			Operations []struct {
				Name     string
				Metadata struct {
					DisplayName string
					CreateTime  time.Time
				}
			}
			NextPageToken string
		}
		if err == nil {
			err = json.Unmarshal(answer, &list)
		}
		if err != nil {
			r := failure(failed, "its list of batches can't be read: %v", err)
			return "", &r
		}
		for _, op := range list.Operations {
			switch m := &op.Metadata; {
			case m.DisplayName == name:
				return op.Name, nil
			case !m.CreateTime.IsZero() && m.CreateTime.Before(since.Add(-clockSkew)):
				return "", nil // The rest is older than the event.
			}
		}
		if token = list.NextPageToken; token == "" {
			return "", nil
		}
	}
	return "", nil
}

func (j *job) do(ctx context.Context, t *task) result {
	to, body, err := j.request(t)
	if err != nil {
		return unfit(err)
	}
	if j.named && t.again {
		if made, bad := j.find(ctx, idempotencyKey(t), t.Received); bad != nil {
			return *bad
		} else if made != "" {
			r := success("%s", excerpt([]byte(made)))
			r.reason = doneAgo
			return r
		}
	}
	now := time.Now()
	h := j.header()
	h["Content-Type"], h["Idempotency-Key"] = []string{"application/json"}, []string{idempotencyKey(t)}
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
