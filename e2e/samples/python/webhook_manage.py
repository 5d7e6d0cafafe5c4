# After "Manage webhooks" in Google's guide on webhooks:
# https://ai.google.dev/gemini-api/docs/webhooks
from google import genai

client = genai.Client()

webhook = client.webhooks.create(
    name="MyWebhook", subscribed_events=["interaction.completed"], uri="https://my-api.com/gemini-callback"
)

webhook = client.webhooks.get(id=webhook.id)
print(webhook.uri, webhook.subscribed_events)

for w in client.webhooks.list().webhooks:
    print(w.id, w.name)

webhook = client.webhooks.update(id=webhook.id, subscribed_events=["batch.succeeded", "batch.failed"])
print(webhook.subscribed_events)

response = client.webhooks.rotate_signing_secret(
    id=webhook.id, revocation_behavior="revoke_previous_secrets_after_h24"
)
print("New secret:", response.secret[:10])

client.webhooks.delete(id=webhook.id)
print("Deleted")
