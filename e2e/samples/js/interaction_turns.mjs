// After "Conversation" in Google's guide on the Interactions API:
// https://ai.google.dev/gemini-api/docs/interactions
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({});

const interaction1 = await client.interactions.create({ model: "gemini-3.6-flash", input: "Hi, my name is Phil." });
console.log(interaction1.output_text);

const interaction2 = await client.interactions.create({
  model: "gemini-3.6-flash", input: "What is my name?", previous_interaction_id: interaction1.id,
});
console.log(interaction2.output_text);
