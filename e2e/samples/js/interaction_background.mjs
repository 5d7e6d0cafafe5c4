// After "Background execution" in Google's guide on the Interactions API:
// https://ai.google.dev/gemini-api/docs/interactions
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({});

let interaction = await client.interactions.create({
  model: "gemini-3.6-flash",
  input: "Write a detailed analysis of the history of computing.",
  background: true,
});
console.log(`Interaction started: ${interaction.id}`);

while (interaction.status === "in_progress") {
  await new Promise((resolve) => setTimeout(resolve, 200));
  interaction = await client.interactions.get(interaction.id);
}

console.log(interaction.status);
console.log(interaction.output_text);
