// A real model, streamed: text, and JSON by a schema. Prints what came, a line each.
import { GoogleGenAI } from "@google/genai";

const ai = new GoogleGenAI({});
const model = process.env.MODEL;

// listen reads a stream and puts it together.
async function listen(params) {
  const heard = { text: "", deltas: 0, status: "" };
  for await (const e of await ai.interactions.create({ model, stream: true, ...params })) {
    if (e.event_type === "error") throw new Error(JSON.stringify(e));
    if (e.event_type === "step.delta") {
      heard.deltas++;
      heard.text += e.delta.type === "text" ? e.delta.text : "";
    }
    if (e.event_type === "interaction.completed") Object.assign(heard, { status: e.interaction.status, tokens: e.interaction.usage?.total_output_tokens });
  }
  return heard;
}

const text = await listen({ input: "The capital of France is", generation_config: { max_output_tokens: 24, temperature: 0 } });
console.log("text", JSON.stringify(text));

const schema = { type: "object", properties: { city: { type: "string", maxLength: 12 }, population: { type: "integer" } }, required: ["city", "population"], additionalProperties: false };
const json = await listen({ input: "Paris has two million people. As JSON:", response_format: { type: "text", mime_type: "application/json", schema }, generation_config: { max_output_tokens: 120, temperature: 0 } });
console.log("json", JSON.stringify(json));
