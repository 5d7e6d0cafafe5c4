// A background interaction on a real model, and its callback, verified with the Standard Webhooks
// library. Prints "verified", the event and the model's text.
import http from 'node:http';
import { once } from 'node:events';
import { GoogleGenAI } from '@google/genai';
import { Webhook } from 'standardwebhooks';

const ai = new GoogleGenAI({});
const server = http.createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const hook = await ai.webhooks.create({
  uri: `http://127.0.0.1:${server.address().port}/`, subscribed_events: ['interaction.completed', 'interaction.failed'],
});
const arrival = once(server, 'request');
const job = await ai.interactions.create({
  model: process.env.MODEL, input: 'A webhook is', background: true, generation_config: { max_output_tokens: 24, temperature: 0 },
});
const [req, res] = await arrival;
let body = '';
for await (const chunk of req) body += chunk;
const event = new Webhook(hook.new_signing_secret).verify(body, req.headers);
res.writeHead(204).end();
if (event.data.id !== job.id) throw new Error('the callback is about another job');
const done = await ai.interactions.get(job.id);
console.log('verified', event.type, done.status, JSON.stringify(done.output_text));
server.close();
