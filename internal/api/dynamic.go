package api

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"ringback.dev"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/jsjson"
)

const (
	maxURIs     = 10
	maxMetadata = 8 << 10 // Twice in each event, which should stay under 20 kB.
)

// dynamicWebhooks reads the webhook_config of a request (wire contract §3), in
// either casing. It returns nil if none names an address: then the project's
// webhooks apply. Errors name the field below the given one.
func (a *api) dynamicWebhooks(field string, raw json.RawMessage) (*ringback.DynamicWebhooks, error) {
	if !given(raw) {
		return nil, nil
	}
	var q genai.WebhookConfig
	if err := genai.Decode(raw, &q); err != nil {
		return nil, invalid("%s: %v", field, err)
	}
	if len(q.URIs) > maxURIs {
		return nil, invalid("%s.uris: at most %d addresses are allowed", field, maxURIs)
	}
	d := &ringback.DynamicWebhooks{}
	for i, uri := range q.URIs {
		if err := a.CheckURI(uri); err != nil {
			var e *ringback.Error
			if errors.As(err, &e) {
				return nil, invalid("%s.uris[%d]: %s", field, i, strings.TrimPrefix(e.Message, "uri: "))
			}
			return nil, err
		}
		if !slices.Contains(d.URIs, uri) {
			d.URIs = append(d.URIs, uri)
		}
	}
	if given(q.UserMetadata) {
		if len(q.UserMetadata) > maxMetadata {
			return nil, invalid("%s.user_metadata: it is larger than %d bytes", field, maxMetadata)
		}
		normal, err := jsjson.Normalize(q.UserMetadata)
		if err != nil {
			return nil, invalid("%s.user_metadata: %v", field, err)
		}
		if normal[0] != '{' {
			return nil, invalid("%s.user_metadata: expected an object", field)
		}
		d.UserMetadata = normal
	}
	if len(d.URIs) == 0 {
		return nil, nil
	}
	return d, nil
}
