// After the sample of Google's guide on Deep Research that reads a background stream and, when the connection
// is lost, goes on after the last event that it has seen: https://ai.google.dev/gemini-api/docs/deep-research
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({});

let interactionId, lastEventId;
let isComplete = false;

async function processStream(stream, limit) {
  let n = 0;
  for await (const event of stream) {
    if (n++ === limit) throw new Error("the network is down");
    if (event.event_type === "interaction.created") interactionId = event.interaction.id;
    if (event.event_id) lastEventId = event.event_id;
    if (event.event_type === "step.delta" && event.delta.type === "text") {
      process.stdout.write(event.delta.text);
    } else if (["interaction.completed", "error"].includes(event.event_type)) {
      isComplete = true;
    }
  }
}

try {
  await processStream(
    await client.interactions.create({ model: "counting-model", input: "Count.", background: true, stream: true }), 6,
  );
} catch (e) {
  console.log(`\nConnection dropped: ${e.message}`);
}

while (!isComplete && interactionId) {
  console.log(`Resuming from ${lastEventId}`);
  await processStream(await client.interactions.get(interactionId, { stream: true, last_event_id: lastEventId }));
}
