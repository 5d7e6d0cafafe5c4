// After "Manage webhooks" in Google's guide on webhooks:
// https://ai.google.dev/gemini-api/docs/webhooks
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({});

let webhook = await client.webhooks.create({
  name: "MyWebhook", subscribed_events: ["interaction.completed"], uri: "https://my-api.com/gemini-callback",
});

webhook = await client.webhooks.get(webhook.id);
console.log(webhook.uri, webhook.subscribed_events);

const page = await client.webhooks.list();
for (const w of page.webhooks) console.log(w.id, w.name);

webhook = await client.webhooks.update(webhook.id, { subscribed_events: ["batch.succeeded", "batch.failed"] });
console.log(webhook.subscribed_events);

const response = await client.webhooks.rotateSigningSecret(webhook.id, {
  revocation_behavior: "REVOKE_PREVIOUS_SECRETS_AFTER_H24",
});
console.log("New secret:", response.secret.slice(0, 10));

await client.webhooks.delete(webhook.id);
console.log("Deleted");
