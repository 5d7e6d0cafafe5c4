// After "Streaming interactions" in Google's documents:
// https://ai.google.dev/gemini-api/docs/interactions/streaming
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({});

const stream = await client.interactions.create({
  model: "gemini-3.6-flash",
  input: "Count from 1 to 25.",
  stream: true,
});
for await (const event of stream) {
  if (event.event_type === "step.delta") {
    if (event.delta.type === "text") {
      process.stdout.write(event.delta.text);
    }
  } else if (event.event_type === "interaction.completed") {
    console.log(`\nTotal tokens: ${event.interaction.usage.total_tokens}`);
  }
}
