package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"ringback.dev/internal/genai"
)

type modelsCommand struct{ client }

// Help shows more than the flags.
func (modelsCommand) Help() string {
	return `  ringback models                          what can be asked for, and what each can
  ringback models --json | jq -r '.models[].name'

A model that a pattern in the server's configuration matches can be used whether it is listed or not.`
}

// abilities are the words for what a method of the API does.
var abilities = []struct{ method, word string }{
	{"generateContent", "generate"}, {"embedContent", "embed"}, {"predictLongRunning", "video"},
}

func (c *modelsCommand) Run(ctx context.Context, s *streams) error {
	all := []json.RawMessage{}
	for q := (url.Values{"pageSize": {"1000"}}); ; {
		var page struct {
			Models []json.RawMessage
			Next   string `json:"nextPageToken"`
		}
		if err := c.call(ctx, http.MethodGet, "/models?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		all = append(all, page.Models...)
		if page.Next == "" {
			break
		}
		q.Set("pageToken", page.Next)
	}
	if c.JSON {
		return printJSON(s, map[string]any{"models": all})
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "no models are known by name; one that a pattern in the server's configuration matches can be used all the same (docs/config.md)")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MODEL\tCAN\tDESCRIPTION")
	for _, raw := range all {
		var m genai.Model
		if err := json.Unmarshal(raw, &m); err != nil {
			return fmt.Errorf("the answer can't be read: %w", err)
		}
		var can []string
		for _, a := range abilities {
			if slices.Contains(m.SupportedGenerationMethods, a.method) {
				can = append(can, a.word)
			}
		}
		description, _, _ := strings.Cut(m.Description, "\n")
		fmt.Fprintf(t, "%s\t%s\t%s\n", strings.TrimPrefix(m.Name, "models/"), strings.Join(can, ", "), description)
	}
	return t.Flush()
}
