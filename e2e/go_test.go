package e2e

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/genai"
	"google.golang.org/genai/interactions/models/apierrors"
	"google.golang.org/genai/interactions/models/interactions"
	"google.golang.org/genai/interactions/models/operations"
	"google.golang.org/genai/interactions/models/webhooks"
)

// goClient is the released Go SDK, pointed at a server.
func goClient(t *testing.T, s *server, key string) *genai.Client {
	t.Helper()
	c, err := genai.NewClient(t.Context(), &genai.ClientConfig{APIKey: key, Backend: genai.BackendGeminiAPI, HTTPOptions: genai.HTTPOptions{BaseURL: s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// decode makes one of the SDK's types of JSON.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// create creates an interaction from the JSON of the SDK's type.
func create(t *testing.T, c *genai.Client, body string) *interactions.Interaction {
	t.Helper()
	b := decode[interactions.CreateModelInteraction](t, body)
	r := must[*operations.CreateInteractionResponse](t)(c.Interactions.Create(t.Context(),
		operations.CreateInteractionRequest{Body: operations.NewCreateInteractionRequestBody(b)}))
	return r.Interaction
}

func get(t *testing.T, c *genai.Client, id string) *interactions.Interaction {
	t.Helper()
	return must[*operations.GetInteractionByIDResponse](t)(c.Interactions.Get(t.Context(), operations.GetInteractionByIDRequest{ID: id})).Interaction
}

func register(t *testing.T, c *genai.Client, uri string) *webhooks.Webhook {
	t.Helper()
	in := decode[webhooks.WebhookInput](t, `{"name":"go","uri":"`+uri+`","subscribed_events":["interaction.completed","interaction.failed","interaction.requires_action","interaction.cancelled","batch.succeeded","video.generated"]}`)
	return must[*operations.CreateWebhookResponse](t)(c.Webhooks.Create(t.Context(), operations.CreateWebhookRequest{Body: in})).Webhook
}

// verify checks a callback with the Standard Webhooks library.
func verify(t *testing.T, secret string, c callback) error {
	t.Helper()
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return w.Verify(c.Body, c.Header)
}

func ping(t *testing.T, c *genai.Client, id string) {
	t.Helper()
	if _, err := c.Webhooks.Ping(t.Context(), operations.PingWebhookRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
}

func TestGoWebhooks(t *testing.T) {
	c := goClient(t, dev(t), "any")
	r := receive(t)
	w := register(t, c, r.URI)
	if !strings.HasPrefix(*w.NewSigningSecret, "whsec_") || *w.State != webhooks.WebhookStateEnabled || w.CreateTime.IsZero() {
		t.Fatalf("unexpected webhook %+v", w)
	}
	got := must[*operations.GetWebhookResponse](t)(c.Webhooks.Get(t.Context(), operations.GetWebhookRequest{ID: *w.ID})).Webhook
	if got.URI != r.URI || got.NewSigningSecret != nil {
		t.Errorf("unexpected webhook %+v", got)
	}
	one := 1
	page := must[*operations.ListWebhooksResponse](t)(c.Webhooks.List(t.Context(), operations.ListWebhooksRequest{PageSize: &one})).WebhookListResponse
	if len(page.Webhooks) != 1 || page.NextPageToken == nil {
		t.Errorf("unexpected first page %+v", page)
	}
	next := must[*operations.ListWebhooksResponse](t)(c.Webhooks.List(t.Context(), operations.ListWebhooksRequest{PageSize: &one, PageToken: page.NextPageToken})).WebhookListResponse
	if len(next.Webhooks) != 1 || *next.Webhooks[0].ID == *page.Webhooks[0].ID {
		t.Errorf("unexpected second page %+v", next)
	}
	ping(t, c, *w.ID)
	first := r.wait(t, "ping", *w.ID)
	if err := verify(t, *w.NewSigningSecret, first); err != nil {
		t.Error(err)
	}

	rotate := func(behavior string) string {
		body := decode[webhooks.RotateSigningSecretRequest](t, `{"revocation_behavior":"`+behavior+`"}`)
		return *must[*operations.RotateSigningSecretResponse](t)(c.Webhooks.RotateSigningSecret(t.Context(),
			operations.RotateSigningSecretRequest{ID: *w.ID, Body: body})).WebhookRotateSigningSecretResponse.Secret
	}
	second := rotate("revoke_previous_secrets_after_h24")
	r.clear()
	ping(t, c, *w.ID)
	both := r.wait(t, "ping", *w.ID)
	if err := errors.Join(verify(t, *w.NewSigningSecret, both), verify(t, second, both)); err != nil {
		t.Errorf("during the overlap: %v", err)
	}
	third := rotate("revoke_previous_secrets_immediately")
	r.clear()
	ping(t, c, *w.ID)
	last := r.wait(t, "ping", *w.ID)
	if err := verify(t, third, last); err != nil {
		t.Error(err)
	}
	if verify(t, second, last) == nil {
		t.Error("a revoked secret still verifies")
	}

	mask := "subscribed_events"
	patch := decode[webhooks.WebhookUpdate](t, `{"subscribed_events":["batch.failed"],"state":"disabled"}`)
	changed := must[*operations.UpdateWebhookResponse](t)(c.Webhooks.Update(t.Context(), operations.UpdateWebhookRequest{ID: *w.ID, UpdateMask: &mask, Body: patch})).Webhook
	if len(changed.SubscribedEvents) != 1 || *changed.State != webhooks.WebhookStateEnabled {
		t.Errorf("the mask was not kept: %+v", changed)
	}
	if _, err := c.Webhooks.Delete(t.Context(), operations.DeleteWebhookRequest{ID: *w.ID}); err != nil {
		t.Error(err)
	}
	_, err := c.Webhooks.Get(t.Context(), operations.GetWebhookRequest{ID: *w.ID})
	var api *apierrors.APIError
	if !errors.As(err, &api) || api.StatusCode != 404 {
		t.Errorf("a deleted webhook: %v", err)
	}
	bad := decode[webhooks.WebhookInput](t, `{"uri":"https://example.com/","subscribed_events":["no.such"]}`)
	if _, err := c.Webhooks.Create(t.Context(), operations.CreateWebhookRequest{Body: bad}); !errors.As(err, &api) || api.StatusCode != 400 || !strings.Contains(api.Body, "interaction.completed") {
		t.Errorf("an unknown event: %v", err)
	}
}

func TestGoInteractions(t *testing.T) {
	c := goClient(t, dev(t), "any")
	r := receive(t)
	w := register(t, c, r.URI)
	check := func(kind, id string) {
		t.Helper()
		if err := verify(t, *w.NewSigningSecret, r.wait(t, kind, id)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	job := create(t, c, `{"model":"gemini-3.6-flash","input":"hi","background":true}`)
	if job.Status != interactions.InteractionStatusInProgress {
		t.Errorf("unexpected status %s", job.Status)
	}
	check("interaction.completed", *job.ID)
	if done := get(t, c, *job.ID); done.Status != interactions.InteractionStatusCompleted || !strings.Contains(*done.OutputText, "ringback emulator") {
		t.Errorf("unexpected interaction %+v", done)
	}

	first := create(t, c, `{"model":"gemini-3.6-flash","input":"My name is Ada.","system_instruction":"be nice"}`)
	second := create(t, c, `{"model":"gemini-3.6-flash","input":"And yours?","previous_interaction_id":"`+*first.ID+`"}`)
	if !strings.Contains(*second.OutputText, "turn 3") || *second.PreviousInteractionID != *first.ID {
		t.Errorf("unexpected second turn %v", *second.OutputText)
	}

	tools := `"tools":[{"type":"function","name":"get_weather","description":"d","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}]`
	asked := create(t, c, `{"model":"gemini-3.6-flash","input":"weather?",`+tools+`}`)
	if asked.Status != interactions.InteractionStatusRequiresAction {
		t.Fatalf("unexpected status %s", asked.Status)
	}
	check("interaction.requires_action", *asked.ID)
	call := asked.Steps[len(asked.Steps)-1].FunctionCallStep
	if call == nil || call.Name != "get_weather" || call.Arguments["city"] != "Paris" {
		t.Fatalf("unexpected call %+v", call)
	}
	told := create(t, c, `{"model":"gemini-3.6-flash","previous_interaction_id":"`+*asked.ID+`",`+tools+`,"input":[{"type":"function_result","call_id":"`+call.ID+`","name":"get_weather","result":"20 degrees"}]}`)
	if told.Status != interactions.InteractionStatusCompleted || !strings.Contains(*told.OutputText, "20 degrees") {
		t.Errorf("unexpected answer %s %s", told.Status, *told.OutputText)
	}

	slow := create(t, c, `{"model":"slow-model","input":"hi","background":true}`)
	cancelled := must[*operations.CancelInteractionByIDResponse](t)(c.Interactions.Cancel(t.Context(), operations.CancelInteractionByIDRequest{ID: *slow.ID})).Interaction
	if cancelled.Status != interactions.InteractionStatusCancelled {
		t.Errorf("unexpected status %s", cancelled.Status)
	}
	check("interaction.cancelled", *slow.ID)
	failed := create(t, c, `{"model":"fail-model","input":"hi","background":true}`)
	check("interaction.failed", *failed.ID)

	if _, err := c.Interactions.Delete(t.Context(), operations.DeleteInteractionRequest{ID: *job.ID}); err != nil {
		t.Error(err)
	}
	_, err := c.Interactions.Get(t.Context(), operations.GetInteractionByIDRequest{ID: *job.ID})
	if err == nil || !strings.Contains(err.Error(), "not_found") {
		t.Errorf("a deleted interaction: %v", err)
	}
}

func TestGoModels(t *testing.T) {
	c := goClient(t, dev(t), "any")
	page := must[genai.Page[genai.Model]](t)(c.Models.List(t.Context(), &genai.ListModelsConfig{PageSize: 5}))
	if len(page.Items) != 1 || page.Items[0].Name != "models/ringback-emulator" {
		t.Errorf("unexpected models %+v", page.Items)
	}
	must[*genai.Model](t)(c.Models.Get(t.Context(), "ringback-emulator", nil))
	answer := must[*genai.GenerateContentResponse](t)(c.Models.GenerateContent(t.Context(), "gemini-3.6-flash", genai.Text("hi"), nil))
	if !strings.Contains(answer.Text(), "ringback emulator") {
		t.Errorf("unexpected answer %q", answer.Text())
	}
	var text strings.Builder
	for chunk, err := range c.Models.GenerateContentStream(t.Context(), "gemini-3.6-flash", genai.Text("hi"), nil) {
		text.WriteString(must[*genai.GenerateContentResponse](t)(chunk, err).Text())
	}
	if text.String() != answer.Text() {
		t.Errorf("the stream says %q, the answer %q", text.String(), answer.Text())
	}
	n := must[*genai.CountTokensResponse](t)(c.Models.CountTokens(t.Context(), "gemini-3.6-flash", genai.Text("twelve chars"), nil))
	if n.TotalTokens != 3 {
		t.Errorf("got %d tokens", n.TotalTokens)
	}
	_, err := c.Models.GenerateContent(t.Context(), "fail-model", genai.Text("hi"), nil)
	var api genai.APIError
	if !errors.As(err, &api) || api.Code != 500 || !strings.Contains(api.Message, "not reachable") {
		t.Errorf("a failing model: %v", err)
	}
}

// TestServe proves the other mode: keys are required and shown once, and
// callbacks to this machine are refused unless allowed.
func TestServe(t *testing.T) {
	strict := start(t, "serve", "--emulator")
	if strict.Key == "" {
		t.Fatal("no key was printed at the first start")
	}
	var api *apierrors.APIError
	in := decode[webhooks.WebhookInput](t, `{"uri":"http://127.0.0.1:9/","subscribed_events":["interaction.completed"]}`)
	_, err := goClient(t, strict, strict.Key).Webhooks.Create(t.Context(), operations.CreateWebhookRequest{Body: in})
	if !errors.As(err, &api) || api.StatusCode != 400 || !strings.Contains(api.Body, "--allow-http-callbacks") {
		t.Errorf("a callback to this machine: %v", err)
	}
	_, err = goClient(t, strict, "wrong").Webhooks.Get(t.Context(), operations.GetWebhookRequest{ID: "x"})
	if !errors.As(err, &api) || api.StatusCode != 401 {
		t.Errorf("a wrong key: %v", err)
	}
	_, err = goClient(t, strict, "wrong").Models.GenerateContent(t.Context(), "m", genai.Text("hi"), nil)
	var classic genai.APIError
	if !errors.As(err, &classic) || classic.Code != 400 || !strings.Contains(classic.Message, "API key not valid") {
		t.Errorf("a wrong key on the classic surface: %v", err)
	}

	loose := start(t, "serve", "--emulator", "--allow-http-callbacks", "--allow-private-callbacks")
	c := goClient(t, loose, loose.Key)
	r := receive(t)
	w := register(t, c, r.URI)
	job := create(t, c, `{"model":"m","input":"hi","background":true}`)
	if err := verify(t, *w.NewSigningSecret, r.wait(t, "interaction.completed", *job.ID)); err != nil {
		t.Error(err)
	}
}
