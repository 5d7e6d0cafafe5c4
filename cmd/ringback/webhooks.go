package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
)

// webhookAnswer is what is read of a webhook.
type webhookAnswer struct {
	ID               string   `json:"id"`
	Name             string   `json:"name,omitempty"`
	URI              string   `json:"uri"`
	SubscribedEvents []string `json:"subscribed_events"`
	State            string   `json:"state"`
	CreateTime       string   `json:"create_time"`
	UpdateTime       string   `json:"update_time"`
	SigningSecrets   []struct {
		TruncatedSecret string `json:"truncated_secret"`
		ExpireTime      string `json:"expire_time,omitempty"`
	} `json:"signing_secrets"`
	NewSigningSecret string `json:"new_signing_secret,omitempty"`
}

type webhooksCommand struct {
	Create webhooksCreate `cmd:"" help:"Register an address for events."`
	List   webhooksList   `cmd:"" help:"List all webhooks."`
	Get    webhooksGet    `cmd:"" help:"Show one webhook."`
	Update webhooksUpdate `cmd:"" help:"Change a webhook."`
	Delete webhooksDelete `cmd:"" help:"Remove a webhook. What waits for it is not delivered."`
	Ping   webhooksPing   `cmd:"" help:"Send a ping event to a webhook."`
	Rotate webhooksRotate `cmd:"" help:"Make a new signing secret."`

	Settings webhooksSettings `cmd:"" help:"Show or change how a webhook is treated: signature, time-out, retries, rate, headers."`
}

type webhooksCreate struct {
	client
	URI    string   `arg:"" help:"Address, for example https://example.com/webhook."`
	Events []string `required:"" short:"e" help:"Events to subscribe to, separated by commas: batch.succeeded, batch.failed, batch.expired, batch.cancelled, interaction.completed, interaction.failed, interaction.requires_action, interaction.cancelled, video.generated."`
	Name   string   `help:"Display name."`
}

func (c *webhooksCreate) Run(ctx context.Context, s *streams) error {
	var w webhookAnswer
	if err := c.call(ctx, http.MethodPost, "/webhooks", map[string]any{"name": c.Name, "uri": c.URI, "subscribed_events": c.Events}, &w); err != nil {
		return err
	}
	if err := c.show(s, &w); err != nil || c.JSON {
		return err
	}
	fmt.Fprintf(s.out, "\nsigning secret, not shown again:\n  %s\n", w.NewSigningSecret)
	return nil
}

// show prints one webhook.
func (c *client) show(s *streams, w *webhookAnswer) error {
	if c.JSON {
		return printJSON(s, w)
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "id\t%s\nname\t%s\naddress\t%s\nevents\t%s\nstate\t%s\ncreated\t%s\nupdated\t%s\n",
		w.ID, w.Name, w.URI, strings.Join(w.SubscribedEvents, ", "), w.State, w.CreateTime, w.UpdateTime)
	for _, x := range w.SigningSecrets {
		until := ""
		if x.ExpireTime != "" {
			until = " until " + x.ExpireTime
		}
		fmt.Fprintf(t, "secret\t%s%s\n", x.TruncatedSecret, until)
	}
	return t.Flush()
}

func printJSON(s *streams, v any) error {
	e := json.NewEncoder(s.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

type webhooksList struct{ client }

func (c *webhooksList) Run(ctx context.Context, s *streams) error {
	all := []webhookAnswer{}
	for token := ""; ; {
		var page struct {
			Webhooks      []webhookAnswer
			NextPageToken string `json:"next_page_token"`
		}
		q := url.Values{"page_size": {strconv.Itoa(1000)}, "page_token": {token}}
		if err := c.call(ctx, http.MethodGet, "/webhooks?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		all = append(all, page.Webhooks...)
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if c.JSON {
		return printJSON(s, map[string]any{"webhooks": all})
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "no webhooks; ringback webhooks create URL --events … makes one")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tSTATE\tEVENTS\tADDRESS")
	for _, w := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", w.ID, w.Name, w.State, len(w.SubscribedEvents), w.URI)
	}
	return t.Flush()
}

// named are the flags of commands on one webhook.
type named struct {
	client
	ID string `arg:"" help:"The webhook's id."`
}

func (n *named) path() string { return "/webhooks/" + url.PathEscape(n.ID) }

type webhooksGet struct{ named }

func (c *webhooksGet) Run(ctx context.Context, s *streams) error {
	var w webhookAnswer
	if err := c.call(ctx, http.MethodGet, c.path(), nil, &w); err != nil {
		return err
	}
	return c.show(s, &w)
}

type webhooksUpdate struct {
	named
	URI    *string  `placeholder:"URL" help:"New address."`
	Events []string `short:"e" help:"Events to subscribe to from now on, separated by commas."`
	Name   *string  `help:"New display name."`
	State  *string  `enum:"enabled,disabled" help:"enabled or disabled."`
}

func (c *webhooksUpdate) Run(ctx context.Context, s *streams) error {
	change := make(map[string]any)
	for key, v := range map[string]*string{"uri": c.URI, "name": c.Name, "state": c.State} {
		if v != nil {
			change[key] = *v
		}
	}
	if c.Events != nil {
		change["subscribed_events"] = c.Events
	}
	if len(change) == 0 {
		return fmt.Errorf("nothing to change: give --uri, --events, --name or --state")
	}
	var w webhookAnswer
	if err := c.call(ctx, http.MethodPatch, c.path(), change, &w); err != nil {
		return err
	}
	return c.show(s, &w)
}

type webhooksDelete struct{ named }

func (c *webhooksDelete) Run(ctx context.Context, s *streams) error {
	if err := c.call(ctx, http.MethodDelete, c.path(), nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "deleted %s\n", c.ID)
	return nil
}

type webhooksPing struct{ named }

func (c *webhooksPing) Run(ctx context.Context, s *streams) error {
	if err := c.call(ctx, http.MethodPost, c.path()+":ping", nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "a ping is on its way to %s\n", c.ID)
	return nil
}

type webhooksRotate struct {
	named
	Now bool `help:"Revoke the earlier secrets at once; otherwise they stay valid for 24 hours."`
}

func (c *webhooksRotate) Run(ctx context.Context, s *streams) error {
	behavior := "revoke_previous_secrets_after_h24"
	if c.Now {
		behavior = "revoke_previous_secrets_immediately"
	}
	var answer struct {
		Secret string `json:"secret"`
	}
	if err := c.call(ctx, http.MethodPost, c.path()+":rotateSigningSecret", map[string]string{"revocation_behavior": behavior}, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s, answer)
	}
	fmt.Fprintf(s.out, "new signing secret, not shown again:\n  %s\n", answer.Secret)
	return nil
}
