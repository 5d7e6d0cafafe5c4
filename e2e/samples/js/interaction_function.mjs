// After "Function calling" in Google's guide on the Interactions API:
// https://ai.google.dev/gemini-api/docs/interactions
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({});

const getWeather = ({ location, city }) => `The weather in ${location ?? city} is sunny.`;

const weatherTool = {
  type: "function",
  name: "get_weather",
  description: "Gets the weather for a given location.",
  parameters: {
    type: "object",
    properties: { location: { type: "string", description: "The city and state, e.g. San Francisco, CA" } },
    required: ["location"],
  },
};

let interaction = await client.interactions.create({
  model: "gemini-3.6-flash", input: "What is the weather in Paris?", tools: [weatherTool],
});

for (const step of interaction.steps) {
  if (step.type === "function_call") {
    console.log(`Tool call: ${step.name}`, step.arguments);
    interaction = await client.interactions.create({
      model: "gemini-3.6-flash",
      previous_interaction_id: interaction.id,
      tools: [weatherTool],
      input: [{ type: "function_result", name: step.name, call_id: step.id, result: getWeather(step.arguments) }],
    });
    console.log(interaction.output_text);
  }
}
