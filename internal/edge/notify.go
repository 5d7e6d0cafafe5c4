package edge

import (
	"context"
	"fmt"
	"net/http"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"ringback.dev/internal/egress"
)

// notice is a notify action over an incoming webhook of a chat.
type notice struct {
	chat   string
	url    *url.URL
	text   *template // Nil for the standard one.
	client *outside
}

// chats are those that there are: how a message is put, what in it must be
// escaped, and how long it may be.
var chats = map[string]struct {
	message func(text string) any
	escape  func(string) string
	limit   int
}{
	// api.slack.com/reference/surfaces/formatting
	"Slack": {func(text string) any { return map[string]any{"text": text} },
		strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace, 4000},
	// An Adaptive Card, as Teams' workflows take it.
	"Teams": {func(text string) any {
		card := map[string]any{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
			"body": []any{map[string]any{"type": "TextBlock", "text": text, "wrap": true}}}
		return map[string]any{"type": "message", "attachments": []any{
			map[string]any{"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": nil, "content": card}}}
	}, nil, 10_000},
	// discord.com/developers/docs/resources/webhook: nobody is to be called by what an event says.
	"Discord": {func(text string) any {
		return map[string]any{"content": text, "allowed_mentions": map[string]any{"parse": []string{}}}
	}, nil, 2000},
}

func (k *kit) notify(key string, c *Notify) doer {
	targets := 0
	for _, x := range []string{c.SlackEnv, c.SlackFile, c.TeamsEnv, c.TeamsFile, c.DiscordEnv, c.DiscordFile, c.Mail} {
		if x != "" {
			targets++
		}
	}
	if targets != 1 {
		k.at(key, "it has %d receivers; give exactly one of slack_env, teams_env, discord_env (or _file), mail", targets)
		return &notice{}
	}
	var text *template
	if c.Text != "" {
		text = k.text(key+".text", c.Text)
	}
	if c.Mail != "" {
		return k.letter(key, c, text)
	}
	if len(c.To) > 0 || c.Subject != "" {
		k.at(key, "to and subject are for mail")
	}
	n := &notice{text: text, client: k.other(k.setup, key, c.Egress, k.common)}
	for _, x := range []struct{ chat, env, file string }{{"Slack", c.SlackEnv, c.SlackFile}, {"Teams", c.TeamsEnv, c.TeamsFile}, {"Discord", c.DiscordEnv, c.DiscordFile}} {
		if x.env == "" && x.file == "" {
			continue
		}
		n.chat = x.chat
		own := key + "." + strings.ToLower(x.chat)
		raw := k.secret(own, x.env, x.file)
		if raw == "" {
			return n
		}
		if x.file != "" {
			own += "_file"
		} else {
			own += "_env"
		}
		k.address(own, raw, n.client)
		n.url, _ = url.Parse(raw) // Checked by address.
	}
	return n
}

func (n *notice) String() string { return "tell " + n.chat }

// message is the text about an event.
func message(t *task, text *template, escape func(string) string) (string, error) {
	if text != nil {
		return text.show(t.Event, escape)
	}
	parts := []string{t.Type}
	if t.Type == "" {
		parts[0] = "a message from " + t.Source
	}
	data, _ := t.env().Data.(map[string]any)
	for _, name := range []string{"id", "error_code", "error_message", "output_file_uri"} {
		if v, ok := data[name].(string); ok && v != "" {
			parts = append(parts, v)
		}
	}
	standard := strings.Join(parts, " · ")
	if escape != nil {
		standard = escape(standard)
	}
	return standard, nil
}

func (n *notice) do(ctx context.Context, t *task) result {
	chat := chats[n.chat]
	text, err := message(t, n.text, chat.escape)
	if err != nil {
		return unfit(fmt.Errorf("text: %w", err))
	}
	body, err := asJSON(chat.message(cut(text, chat.limit)))
	if err != nil {
		return unfit(fmt.Errorf("text: %w", err))
	}
	now := time.Now()
	resp, err := n.client.send(ctx, http.MethodPost, n.url, http.Header{"Content-Type": {"application/json"}, "User-Agent": {"ringback-edge"}}, body)
	if err != nil {
		return unreached(err, n.client.key)
	}
	answer, err := egress.ReadBounded(resp, answerLimit)
	if err != nil {
		answer = nil // The status says enough.
	}
	if resp.StatusCode/100 == 2 {
		return success("%s has it", n.chat)
	}
	return status(resp, answer, now, http.StatusBadRequest, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity)
}

// cut shortens a text to so many characters.
func cut(text string, limit int) string {
	if r := []rune(text); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return text
}

// addresses reads addresses of mail.
func (f *file) addresses(key string, all List) []*mail.Address {
	var found []*mail.Address
	for i, text := range all {
		a, err := mail.ParseAddress(text)
		if err != nil || strings.ContainsAny(text, "\r\n") {
			f.at(item(key, all, i), "%q is not an address such as ops@example.com", text)
			continue
		}
		found = append(found, a)
	}
	return found
}
