// Reads recorded streams as its argument says and prints what the SDK yields, for the Go test to compare.
import { GoogleGenAI } from '@google/genai';

const ai = new GoogleGenAI({ apiKey: 'any', httpOptions: { baseUrl: process.env.RINGBACK_URL } });

const create = (name) => ai.interactions.create({ model: name, input: 'hi', stream: true });
const get = (name, after) => ai.interactions.get(name, { stream: true, ...(after && { last_event_id: after }) });

const all = [];
for (const { name, how, after } of JSON.parse(process.argv[2])) {
  const heard = { events: [], error: '' };
  all.push(heard);
  try {
    for await (const event of await (how === 'get' ? get(name, after) : create(name))) heard.events.push(event);
  } catch (e) {
    heard.error = String(e);
  }
  if (how === 'broken') {
    for await (const event of await get(name.split('.')[0], heard.events.at(-1).event_id)) heard.events.push(event);
  }
}
console.log(JSON.stringify(all));
