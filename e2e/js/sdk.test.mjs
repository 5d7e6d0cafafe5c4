// Every call of the JavaScript SDK that the server answers, made with the released package. The
// test's caller links the SDK's version to @google/genai and gives the server in the environment.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { GoogleGenAI } from '@google/genai';
import { Webhook } from 'standardwebhooks';

const baseUrl = process.env.RINGBACK_URL;
const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY, httpOptions: { baseUrl } });
const model = 'gemini-3.6-flash';
const events = ['interaction.completed', 'interaction.failed', 'interaction.requires_action', 'interaction.cancelled'];

/** A receiver that keeps what arrives and wakes whoever waits for it. */
class Receiver {
  arrived = [];
  waiting = [];
  async listen() {
    this.server = http.createServer((req, res) => {
      const chunks = [];
      req.on('data', (c) => chunks.push(c));
      req.on('end', () => {
        const callback = { headers: req.headers, body: Buffer.concat(chunks).toString('utf8') };
        callback.event = JSON.parse(callback.body);
        this.arrived.push(callback);
        res.writeHead(204).end();
        this.waiting = this.waiting.filter((w) => !w());
      });
    });
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    this.uri = `http://127.0.0.1:${this.server.address().port}/hook`;
  }
  /** Resolves to the first callback for which want is true. */
  wait(want) {
    return new Promise((resolve) => {
      const look = () => {
        const found = this.arrived.find(want);
        if (found) resolve(found);
        return Boolean(found);
      };
      if (!look()) this.waiting.push(look);
    });
  }
}

const receiver = new Receiver();
let hook;
before(async () => {
  await receiver.listen();
  hook = await ai.webhooks.create({ name: 'js', uri: receiver.uri, subscribed_events: events });
});
after(async () => {
  await ai.webhooks.delete(hook.id);
  receiver.server.close();
});

const forJob = (type, id) => (c) => c.event.type === type && c.event.data.id === id;

/** Verifies as the documents say, and with the habit of the cookbook: over the body parsed and printed again. */
function verify(secret, callback) {
  const wh = new Webhook(secret);
  assert.deepEqual(wh.verify(callback.body, callback.headers), callback.event);
  assert.deepEqual(wh.verify(JSON.stringify(JSON.parse(callback.body)), callback.headers), callback.event);
}

test('webhooks: create shows the secret once, get, list, update, delete', async () => {
  const made = await ai.webhooks.create({ name: 'MyHook', uri: 'https://example.com/cb', subscribed_events: ['batch.succeeded', 'video.generated'] });
  assert.match(made.new_signing_secret, /^whsec_[A-Za-z0-9+/]{43}=$/);
  assert.match(made.id, /^[a-z0-9]{36}$/);
  assert.equal(made.state, 'enabled');
  assert.deepEqual(made.subscribed_events, ['batch.succeeded', 'video.generated']);
  assert.equal(made.signing_secrets[0].truncated_secret, 'whsec_...' + made.new_signing_secret.slice(-4));

  const got = await ai.webhooks.get(made.id);
  assert.equal(got.new_signing_secret, undefined);
  assert.equal(got.uri, 'https://example.com/cb');
  assert.equal((await ai.webhooks.get('webhooks/' + made.id)).id, made.id);

  const updated = await ai.webhooks.update(made.id, { state: 'disabled', subscribed_events: ['batch.failed'], update_mask: 'subscribed_events,state' });
  assert.deepEqual([updated.state, updated.subscribed_events], ['disabled', ['batch.failed']]);

  const seen = [];
  for (let page_token; ; ) {
    const page = await ai.webhooks.list({ page_size: 1, ...(page_token && { page_token }) });
    seen.push(...page.webhooks.map((w) => w.id));
    page_token = page.next_page_token;
    if (!page_token) break;
  }
  assert.ok(seen.includes(made.id) && seen.includes(hook.id));
  assert.equal(new Set(seen).size, seen.length);

  await ai.webhooks.delete(made.id);
  await assert.rejects(ai.webhooks.get(made.id), (e) => e.status === 404);
});

test('webhooks: ping is delivered and verifies', async () => {
  await ai.webhooks.ping(hook.id);
  const callback = await receiver.wait((c) => c.event.type === 'ping');
  assert.deepEqual(callback.event.data, { id: hook.id });
  assert.equal(callback.event.version, 'v1');
  verify(hook.new_signing_secret, callback);
});

test('webhooks: rotation with overlap, then at once', async () => {
  const r = new Receiver();
  await r.listen();
  const w = await ai.webhooks.create({ uri: r.uri, subscribed_events: events });
  const second = await ai.webhooks.rotateSigningSecret(w.id, { revocation_behavior: 'REVOKE_PREVIOUS_SECRETS_AFTER_H24' });
  assert.match(second.secret, /^whsec_/);
  const during = await ai.webhooks.get(w.id);
  assert.equal(during.signing_secrets.length, 2);
  assert.equal(during.signing_secrets[0].expire_time, undefined);
  assert.ok(Date.parse(during.signing_secrets[1].expire_time) > Date.now() + 23 * 3600e3);
  await ai.webhooks.ping(w.id);
  const overlapping = await r.wait(() => true);
  verify(w.new_signing_secret, overlapping);
  verify(second.secret, overlapping);
  assert.equal(overlapping.headers['webhook-signature'].split(' ').length, 2);

  r.arrived.length = 0;
  const third = await ai.webhooks.rotateSigningSecret(w.id, { revocation_behavior: 'revoke_previous_secrets_immediately' });
  await ai.webhooks.ping(w.id);
  const after = await r.wait(() => true);
  verify(third.secret, after);
  assert.throws(() => verify(second.secret, after));
  await ai.webhooks.delete(w.id);
  r.server.close();
});

test('webhooks: errors are typed', async () => {
  await assert.rejects(ai.webhooks.create({ uri: 'https://example.com/', subscribed_events: ['no.such'] }),
    (e) => e.status === 400 && e.message.includes('interaction.completed'));
  await assert.rejects(ai.webhooks.create({ uri: 'not a url', subscribed_events: events }), (e) => e.status === 400);
  await assert.rejects(ai.webhooks.get('nosuch'), (e) => e.status === 404 && e.constructor.name === 'NotFoundError');
});

test('interactions: background, polled and called back', async () => {
  const made = await ai.interactions.create({ model, input: 'hi', background: true });
  assert.equal(made.status, 'in_progress');
  assert.match(made.id, /^v1_[A-Za-z0-9_-]+$/);
  const callback = await receiver.wait(forJob('interaction.completed', made.id));
  verify(hook.new_signing_secret, callback);
  const got = await ai.interactions.get(made.id);
  assert.equal(got.status, 'completed');
  assert.match(got.output_text, /ringback emulator/);
  assert.ok(got.usage.total_tokens > 0);
  await ai.interactions.delete(made.id);
  await assert.rejects(ai.interactions.get(made.id), (e) => e.status === 404);
});

test('interactions: foreground with system instruction, then the next turn', async () => {
  const first = await ai.interactions.create({ model, input: 'My name is Ada.', system_instruction: 'be nice', generation_config: { temperature: 0.2 } });
  assert.equal(first.status, 'completed');
  assert.match(first.output_text, /system instruction has 7 bytes/);
  const second = await ai.interactions.create({ model, input: [{ type: 'text', text: 'And yours?' }], previous_interaction_id: first.id });
  assert.equal(second.previous_interaction_id, first.id);
  assert.match(second.output_text, /turn 3/);
});

test('interactions: function call round trip, with its event', async () => {
  const tools = [{ type: 'function', name: 'get_weather', description: 'd', parameters: { type: 'object', properties: { city: { type: 'string' } } } }];
  const first = await ai.interactions.create({ model, input: 'weather?', tools });
  assert.equal(first.status, 'requires_action');
  const call = first.steps.find((s) => s.type === 'function_call');
  assert.deepEqual([call.name, call.arguments], ['get_weather', { city: 'Paris' }]);
  verify(hook.new_signing_secret, await receiver.wait(forJob('interaction.requires_action', first.id)));
  const second = await ai.interactions.create({
    model, previous_interaction_id: first.id, tools,
    input: [{ type: 'function_result', call_id: call.id, name: call.name, result: { temp: 20 } }],
  });
  assert.equal(second.status, 'completed');
  assert.match(second.output_text, /temp/);
});

test('interactions: cancel, with its event', async () => {
  const made = await ai.interactions.create({ model: 'slow-model', input: 'take your time', background: true });
  const cancelled = await ai.interactions.cancel(made.id);
  assert.equal(cancelled.status, 'cancelled');
  verify(hook.new_signing_secret, await receiver.wait(forJob('interaction.cancelled', made.id)));
  await assert.rejects(ai.interactions.cancel(made.id), (e) => e.status === 400);
});

test('interactions: failure, with its event', async () => {
  const made = await ai.interactions.create({ model: 'fail-model', input: 'hi', background: true });
  const callback = await receiver.wait(forJob('interaction.failed', made.id));
  verify(hook.new_signing_secret, callback);
  assert.deepEqual(callback.event.data, { id: made.id, error_code: 'api_error', error_message: 'the model is not reachable' });
  assert.equal((await ai.interactions.get(made.id)).status, 'failed');
});

test('interactions: the callback is printed as JSON.stringify prints it', async () => {
  const made = await ai.interactions.create({ model: 'odd-model', input: 'hi', background: true });
  const callback = await receiver.wait(forJob('interaction.failed', made.id));
  assert.equal(callback.event.data.error_message, '<b> & "q" \\ / \t\n\u0001\u007f é 😀 \u2028\u2029');
  assert.equal(callback.body, JSON.stringify(callback.event));
  verify(hook.new_signing_secret, callback);
});

test('interactions: JSON answers and stateless use', async () => {
  const schema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };
  const made = await ai.interactions.create({ model, input: 'hi', store: false, response_format: { type: 'text', mime_type: 'application/json', schema } });
  assert.equal(typeof JSON.parse(made.output_text).name, 'string');
  await assert.rejects(ai.interactions.get(made.id), (e) => e.status === 404);
});

test('interactions: errors are typed', async () => {
  await assert.rejects(ai.interactions.get('v1_nosuch'), (e) => e.status === 404);
  await assert.rejects(ai.interactions.create({ model, input: '' }), (e) => e.status === 400);
});

test('keys: a wrong one is told apart on both surfaces', async () => {
  const bad = new GoogleGenAI({ apiKey: 'wrong', httpOptions: { baseUrl: process.env.RINGBACK_STRICT_URL } });
  const denied = (e) => e.status === 401 && e.constructor.name === 'AuthenticationError';
  await assert.rejects(bad.webhooks.list(), denied);
  await assert.rejects(bad.interactions.create({ model, input: 'hi' }), denied);
  await assert.rejects(bad.models.generateContent({ model, contents: 'hi' }), (e) => e.status === 400 && e.message.includes('API key not valid'));
});

test('models: list, get, generate, stream, count', async () => {
  const names = [];
  for await (const m of await ai.models.list({ config: { pageSize: 5 } })) names.push(m.name);
  assert.ok(names.includes('models/ringback-emulator'));
  assert.equal((await ai.models.get({ model: 'ringback-emulator' })).name, 'models/ringback-emulator');

  const answer = await ai.models.generateContent({ model, contents: 'hi', config: { systemInstruction: 'be nice', temperature: 0.5, maxOutputTokens: 500 } });
  assert.match(answer.text, /ringback emulator/);
  assert.ok(answer.usageMetadata.totalTokenCount > 0);

  let text = '', last;
  for await (const chunk of await ai.models.generateContentStream({ model, contents: 'hi' })) {
    text += chunk.text ?? '';
    last = chunk;
  }
  assert.match(text, /ringback emulator/);
  assert.equal(last.candidates[0].finishReason, 'STOP');

  assert.equal((await ai.models.countTokens({ model, contents: 'twelve chars' })).totalTokens, 3);
});

test('models: functions, JSON mode, errors', async () => {
  const called = await ai.models.generateContent({
    model, contents: 'hi', config: {
      tools: [{ functionDeclarations: [{ name: 'f', parametersJsonSchema: { type: 'object', properties: { a: { type: 'integer' } } } }] }],
      toolConfig: { functionCallingConfig: { mode: 'ANY', allowedFunctionNames: ['f'] } },
    },
  });
  assert.deepEqual([called.functionCalls[0].name, called.functionCalls[0].args], ['f', { a: 1 }]);
  const json = await ai.models.generateContent({
    model, contents: 'hi', config: { responseMimeType: 'application/json', responseSchema: { type: 'OBJECT', properties: { a: { type: 'STRING' } } } },
  });
  assert.equal(typeof JSON.parse(json.text).a, 'string');
  await assert.rejects(ai.models.generateContent({ model: 'fail-model', contents: 'hi' }), (e) => e.status === 500 && e.message.includes('not reachable'));
});
