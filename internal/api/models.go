package api

import (
	"net/http"
	"slices"
	"time"

	next "github.com/go-json-experiment/json/v1"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// models lists what the back-ends offer by name.
func (a *api) models(c *call) ([]genai.Model, error) {
	l, ok := a.Backend.(backend.ModelLister)
	if !ok {
		return nil, nil
	}
	return l.Models(c.Context())
}

func (a *api) listModels(c *call) (any, error) {
	all, err := a.models(c)
	if err != nil {
		return nil, err
	}
	size, after, err := c.page()
	if err != nil {
		return nil, err
	}
	start := 0
	if after != "" {
		if start = slices.IndexFunc(all, func(m genai.Model) bool { return m.Name == after }) + 1; start == 0 {
			return nil, errBadToken
		}
	}
	var out struct {
		Models        []genai.Model `json:"models"`
		NextPageToken string        `json:"nextPageToken,omitempty"`
	}
	end := min(start+size, len(all))
	out.Models = append([]genai.Model{}, all[start:end]...)
	if end < len(all) {
		out.NextPageToken = pageToken(all[end-1].Name)
	}
	return out, nil
}

// getModel answers a name that is listed or that a back-end would take.
func (a *api) getModel(c *call) (any, error) {
	d, ok := a.Backend.(backend.Describer)
	if !ok {
		return backend.Describe(string(c.id())), nil
	}
	return d.Describe(c.Context(), string(c.id()))
}

// generation reads a generateContent body for the model in the path.
func (a *api) generation(c *call) (*backend.Request, error) {
	var body genai.GenerateContentRequest
	if err := a.decode(c, &body, false); err != nil {
		return nil, err
	}
	if err := body.Check(); err != nil {
		return nil, invalid("%v", err)
	}
	return &backend.Request{Model: string(c.id()), Body: &body, Project: c.project}, nil
}

func (a *api) generateContent(c *call) (any, error) {
	req, err := a.generation(c)
	if err != nil {
		return nil, err
	}
	return a.Backend.Generate(c.Context(), req)
}

func (a *api) countTokens(c *call) (any, error) {
	var q genai.CountTokensRequest
	if err := a.decode(c, &q, false); err != nil {
		return nil, err
	}
	body := q.GenerateContentRequest
	if body == nil {
		body = &genai.GenerateContentRequest{Contents: q.Contents}
	}
	if len(body.Contents) == 0 {
		return nil, invalid("contents: it is required and must not be empty")
	}
	req := &backend.Request{Model: string(c.id()), Body: body, Project: c.project}
	n := backend.EstimateTokens(body)
	if t, ok := a.Backend.(backend.TokenCounter); ok {
		var err error
		if n, err = t.CountTokens(c.Context(), req); err != nil {
			return nil, err
		}
	}
	return genai.CountTokensResponse{TotalTokens: n, PromptTokensDetails: []genai.ModalityCount{{Modality: "TEXT", TokenCount: n}}}, nil
}

// streamWrite bounds how long a client may take to accept one chunk.
const streamWrite = 30 * time.Second

// streamGenerateContent sends chunks as server-sent events with ?alt=sse, and as
// the elements of a JSON array without. The grammar of the former is strict:
// data lines only, and no sentinel (§8.4). An error before the first chunk is an
// ordinary HTTP error; a later one is the last event.
func (a *api) streamGenerateContent(c *call) (any, error) {
	req, err := a.generation(c)
	if err != nil {
		return nil, err
	}
	sse := c.query("alt") == "sse"
	control := http.NewResponseController(c.w)
	started := false
	write := func(v any) error {
		b, err := next.Marshal(v)
		if err != nil {
			return err
		}
		var chunk string
		switch {
		case sse:
			chunk = "data: " + string(b) + "\r\n\r\n"
		case started:
			chunk = ",\r\n" + string(b)
		default:
			chunk = "[" + string(b)
		}
		if !started {
			started = true
			kind := "application/json"
			if sse {
				kind = "text/event-stream"
			}
			c.w.Header().Set("Content-Type", kind)
			c.w.Header().Set("Cache-Control", "no-store")
		}
		_ = control.SetWriteDeadline(time.Now().Add(streamWrite)) // Not every writer has deadlines.
		if _, err := c.w.Write([]byte(chunk)); err != nil {
			return err
		}
		return control.Flush()
	}
	for chunk, err := range backend.Stream(c.Context(), a.Backend, req) {
		if err != nil {
			if !started {
				return nil, err
			}
			row, message := explain(err)
			_ = write(classicSurface.body(row, message)) // The stream ends here in any case.
			break
		}
		if write(chunk) != nil {
			return nil, nil // The client has gone.
		}
	}
	if started && !sse {
		_, _ = c.w.Write([]byte("]")) // The client has gone if this fails.
	}
	return nil, nil
}
