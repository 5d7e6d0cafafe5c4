package api

import (
	"io"
	"net/http"
	"strings"

	"ringback.dev"
)

// UpstreamPath is where providers call to which a batch was handed over, below the
// public URL. The id of the job, a slash and a secret follow.
const UpstreamPath = "/ringback/v1/upstream/"

// maxCall bounds the body of such a call, which is thin.
const maxCall = 64 << 10

// upstreamRoute takes the calls of providers. What one says is not believed, so it
// needs no key and no signature: who knows the address can have the provider asked,
// which the runner does no more than a few times a second. The answer is the same
// whether the address is right or not.
func (a *api) upstreamRoute(r *http.Request) (string, verbs) {
	id, secret, found := strings.Cut(strings.TrimPrefix(r.URL.Path, UpstreamPath), "/")
	if !found || id == "" || secret == "" || strings.Contains(secret, "/") {
		return "", nil
	}
	return "ringback/upstream/{id}/{secret}", verbs{"POST": func(c *call) (any, error) {
		n, err := io.Copy(io.Discard, http.MaxBytesReader(c.w, c.Body, maxCall))
		if err != nil && n >= maxCall {
			return nil, &ringback.Error{Code: ringback.TooLarge, Message: "the body is larger than a call of a webhook has reason to be"}
		}
		a.Runner.Nudge(ringback.ID(id), secret)
		return struct{}{}, nil
	}}
}
