// After "Create a webhook" in Google's guide on webhooks:
// https://ai.google.dev/gemini-api/docs/webhooks
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({});

async function createWebhook() {
  const webhook = await client.webhooks.create({
    name: "MyBatchWebhook",
    subscribed_events: ["batch.succeeded", "batch.failed"],
    uri: "https://my-api.com/gemini-callback",
  });

  // Store webhook.new_signing_secret securely
  const webhookSecret = webhook.new_signing_secret;
  console.log(`Created webhook: ${webhook.name}, ${webhook.id}`, webhookSecret.length);
}

createWebhook();
