package manage

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.json
var openAPIDocument []byte

// openAPI answers the description of this API, for which no key is needed.
func (m *manage) openAPI(c *call) (any, error) {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Cache-Control", "public, max-age=300")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(openAPIDocument) // The client has gone if this fails.
	return nil, nil
}
