// The streaming calls of the JavaScript SDK, made with the released package.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GoogleGenAI } from '@google/genai';

const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY, httpOptions: { baseUrl: process.env.RINGBACK_URL } });
const model = 'gemini-3.6-flash';
const tools = ['get_weather', 'get_time'].map((name) => ({ type: 'function', name, description: 'd', parameters: { type: 'object', properties: {} } }));
const first = ['interaction.created', 'interaction.status_update'];

const create = (params) => ai.interactions.create({ model, stream: true, ...params });
const resume = (id, last_event_id) => ai.interactions.get(id, { stream: true, ...(last_event_id && { last_event_id }) });

/** Reads a stream to its end, or until enough is true of an event; then it is left and its connection closed. */
async function read(stream, enough = () => false) {
  const events = [];
  for await (const event of await stream) {
    events.push(event);
    if (enough(event)) break;
  }
  return events;
}

const said = (event) => event.event_type === 'step.delta';
const types = (events) => events.map((e) => e.event_type);
const text = (events) => events.filter((e) => e.delta?.type === 'text').map((e) => e.delta.text).join('');

/** Checks what all whole streams have in common and returns the interaction's id. */
function whole(events, status) {
  assert.deepEqual(events.map((e) => e.event_id), events.map((_, i) => `e${i + 1}`));
  assert.deepEqual(types(events).slice(0, 2), first);
  assert.deepEqual([events[0].interaction.status, events[1].status], ['in_progress', 'in_progress']);
  assert.equal(events.filter((e) => e.event_type === 'interaction.completed').length, 1);
  const last = events.at(-1);
  assert.deepEqual([last.event_type, last.interaction.status], ['interaction.completed', status]);
  assert.deepEqual([events[0].interaction.id, events[1].interaction_id], [last.interaction.id, last.interaction.id]);
  return last.interaction.id;
}

/** Text goes on with the text before it. */
function append(list, content) {
  const last = list.at(-1);
  if (content.type === 'text' && last?.type === 'text') last.text += content.text;
  else list.push({ ...content });
}

/** The steps that the events of a stream add up to. */
function steps(events) {
  const all = [], open = new Set();
  for (const e of events) {
    if (e.event_type === 'step.start') {
      assert.equal(e.index, all.length);
      assert.equal(e.step.content, undefined); // It would be lost to who prints deltas.
      all.push({ ...e.step });
      open.add(e.index);
    } else if (e.event_type === 'step.delta') {
      assert.ok(open.has(e.index));
      const step = all[e.index], d = e.delta;
      if (d.type === 'arguments_delta') step.arguments = (typeof step.arguments === 'string' ? step.arguments : '') + d.arguments;
      else if (d.type === 'thought_signature') step.signature = d.signature;
      else append(d.type === 'thought_summary' ? (step.summary ??= []) : (step.content ??= []), d.content ?? d);
    } else if (e.event_type === 'step.stop') {
      assert.ok(open.delete(e.index));
      if (typeof all[e.index].arguments === 'string') all[e.index].arguments = JSON.parse(all[e.index].arguments);
    }
  }
  assert.equal(open.size, 0);
  return all;
}

/** A whole stream says what is stored, and says it again in the same words. */
async function stored(events, status) {
  const id = whole(events, status);
  const got = await ai.interactions.get(id);
  assert.equal(got.status, status);
  assert.deepEqual(steps(events), got.steps);
  assert.deepEqual(events.at(-1).interaction.usage, got.usage);
  assert.deepEqual(await read(resume(id)), events);
  return got;
}

test('streams: text comes word by word', async () => {
  const events = await read(create({ input: 'hi', system_instruction: 'be nice' }));
  const got = await stored(events, 'completed');
  assert.equal(text(events), got.output_text);
  assert.match(got.output_text, /system instruction has 7 bytes/);
  assert.deepEqual([...new Set(types(events))], [...first, 'step.start', 'step.delta', 'step.stop', 'interaction.completed']);
  assert.ok(events.filter(said).length > 5);
  assert.ok(got.usage.total_tokens > 0);
  assert.equal(events.at(-1).interaction.service_tier, 'standard');
});

test('streams: thoughts, with their signature', async () => {
  const events = await read(create({ model: 'thinking-model', input: 'hi' }));
  const got = await stored(events, 'completed');
  assert.deepEqual(got.steps.map((s) => s.type), ['thought', 'model_output']);
  assert.equal(got.steps[0].summary[0].text, 'Let me see what I know.');
  assert.ok(got.steps[0].signature);
  assert.ok(events.filter((e) => e.delta?.type === 'thought_summary').length > 1);
  assert.equal(text(events), 'It is as you say.');
});

test('streams: a function call, its result, and the next turn', async () => {
  const events = await read(create({ input: 'weather?', tools }));
  const got = await stored(events, 'requires_action');
  const start = events.find((e) => e.event_type === 'step.start' && e.step.type === 'function_call');
  assert.deepEqual([start.step.name, start.step.arguments], ['get_weather', {}]);
  const pieces = events.filter((e) => e.delta?.type === 'arguments_delta').map((e) => e.delta.arguments);
  assert.ok(pieces.length > 1, 'the arguments came in one piece');
  assert.deepEqual(JSON.parse(pieces.join('')), { city: 'Paris' });

  const told = await read(create({
    tools, previous_interaction_id: got.id,
    input: [{ type: 'function_result', call_id: start.step.id, name: 'get_weather', result: { temp: 20 } }],
  }));
  const answer = await stored(told, 'completed');
  assert.match(text(told), /temp/);
  assert.equal(answer.previous_interaction_id, got.id);
  const next = await read(create({ input: 'thanks', tools, previous_interaction_id: answer.id }));
  assert.match(text(next), /turn 5/);
});

test('streams: calls at once, answered in any order', async () => {
  const events = await read(create({ input: 'Please plan my trip.', tools }));
  const got = await stored(events, 'requires_action');
  assert.deepEqual(got.steps.map((s) => s.type), ['thought', 'function_call', 'function_call']);
  const [weather, time] = steps(events).slice(1);
  assert.deepEqual([weather.name, weather.arguments, time.name, time.arguments], ['get_weather', { city: 'Paris' }, 'get_time', { zone: 'CET', format: '15:04' }]);
  assert.notEqual(weather.id, time.id);
  const told = await read(create({
    tools, previous_interaction_id: got.id,
    input: [{ type: 'function_result', call_id: time.id, result: '12:30' }, { type: 'function_result', call_id: weather.id, result: { temp: 20 } }],
  }));
  await stored(told, 'completed');
  assert.match(text(told), /get_time returned.*12:30.*get_weather returned.*temp/);
});

test('streams: the steps of a stream can be sent as the history of the next', async () => {
  const asked = await read(create({ input: 'weather?', tools, store: false }));
  whole(asked, 'requires_action');
  const told = await read(create({
    tools, store: false,
    input: [{ type: 'user_input', content: [{ type: 'text', text: 'weather?' }] }, ...steps(asked),
      { type: 'function_result', call_id: steps(asked)[0].id, result: 'sunny' }],
  }));
  whole(told, 'completed');
  assert.match(text(told), /get_weather returned.*sunny/);
});

test('streams: resumed after each event', async () => {
  const events = await read(create({ input: 'hi' }));
  const id = whole(events, 'completed');
  for (const [i, e] of events.entries()) assert.deepEqual(await read(resume(id, e.event_id)), events.slice(i + 1));
});

test('streams: in the background, left after three events and resumed', async () => {
  const begun = await read(create({ model: 'counting-model', input: 'hi', background: true }), (e) => e.event_id === 'e3');
  const id = begun[0].interaction.id;
  const rest = await read(resume(id, 'e3'));
  await stored([...begun, ...rest], 'completed');
  assert.equal(text(rest), 'one two three four five six seven eight nine ten');
});

test('streams: several may read one', async () => {
  const begun = await read(create({ model: 'counting-model', input: 'hi', background: true }), said);
  const id = begun[0].interaction.id;
  const [all, same, rest] = await Promise.all([read(resume(id)), read(resume(id)), read(resume(id, begun.at(-1).event_id))]);
  whole(all, 'completed');
  assert.deepEqual(same, all);
  assert.deepEqual([...begun, ...rest], all);
});

test('streams: of interactions that were created without', async () => {
  const late = await ai.interactions.create({ model: 'late-model', input: 'hi', background: true });
  const events = await read(resume(late.id));
  assert.match((await stored(events, 'completed')).output_text, /ringback emulator/);

  const done = await ai.interactions.create({ model, input: 'Please plan my trip.', tools });
  const told = await read(resume(done.id));
  assert.deepEqual((await stored(told, 'requires_action')).steps, done.steps);
  assert.deepEqual(await read(resume(done.id, 'e4')), told.slice(4));

  const failed = await ai.interactions.create({ model: 'fail-model', input: 'hi', background: true });
  const bad = await read(resume(failed.id));
  whole(bad, 'failed');
  assert.deepEqual(bad.at(-2).error, { code: 'api_error', message: 'the model is not reachable' });
});

test('streams: a failure is an event, then the end', async () => {
  const events = await read(create({ model: 'fail-model', input: 'hi' }));
  const id = whole(events, 'failed');
  assert.deepEqual(types(events).filter((t) => !t.startsWith('step.')), [...first, 'error', 'interaction.completed']);
  assert.deepEqual(events.at(-2).error, { code: 'api_error', message: 'the model is not reachable' });
  assert.equal((await ai.interactions.get(id)).status, 'failed');
  assert.deepEqual(await read(resume(id)), events);
});

test('streams: cut at the limit of tokens', async () => {
  await stored(await read(create({ input: 'hi', generation_config: { max_output_tokens: 3 } })), 'incomplete');
});

test('streams: left in the foreground, it is cancelled', async () => {
  const begun = await read(create({ model: 'halting-model', input: 'hi' }), said);
  const rest = await read(resume(begun[0].interaction.id, begun.at(-1).event_id));
  const id = whole([...begun, ...rest], 'cancelled');
  assert.equal((await ai.interactions.get(id)).status, 'cancelled');
});

test('streams: cancelled while they run', async () => {
  const events = [];
  for await (const event of await create({ model: 'halting-model', input: 'hi', background: true })) {
    events.push(event);
    if (said(event)) assert.equal((await ai.interactions.cancel(events[0].interaction.id)).status, 'cancelled');
  }
  const id = whole(events, 'cancelled');
  assert.equal(text(events), 'one ');
  assert.deepEqual(await read(resume(id)), events);
});

test('streams: not stored', async () => {
  const events = await read(create({ input: 'hi', store: false }));
  const id = whole(events, 'completed');
  assert.match(text(events), /ringback emulator/);
  await assert.rejects(ai.interactions.get(id), (e) => e.status === 404);
  await assert.rejects(read(resume(id)), (e) => e.status === 404);
});

test('streams: JSON by schema', async () => {
  const schema = { type: 'object', properties: { name: { type: 'string' }, tags: { type: 'array', items: { type: 'string' } } }, required: ['name', 'tags'] };
  const events = await read(create({ input: 'hi', response_format: { type: 'text', mime_type: 'application/json', schema } }));
  await stored(events, 'completed');
  const { name, tags } = JSON.parse(text(events));
  assert.deepEqual([typeof name, Array.isArray(tags)], ['string', true]);
});

test('streams: errors before the first event are typed', async () => {
  const is = (status, name, word) => (e) => {
    assert.deepEqual([e.status, e.constructor.name], [status, name]);
    assert.match(e.message, word);
    return true;
  };
  await assert.rejects(create({ input: '' }), is(400, 'BadRequestError', /input/));
  await assert.rejects(create({ input: 'hi', store: false, background: true }), is(400, 'BadRequestError', /store/));
  await assert.rejects(create({ input: 'hi', tools: [{ type: 'google_search' }] }), is(400, 'BadRequestError', /google_search/));
  await assert.rejects(create({ input: 'hi', previous_interaction_id: 'v1_nosuch' }), is(404, 'NotFoundError', /v1_nosuch/));
  await assert.rejects(resume('v1_nosuch'), is(404, 'NotFoundError', /v1_nosuch/));
  const bad = new GoogleGenAI({ apiKey: 'wrong', httpOptions: { baseUrl: process.env.RINGBACK_STRICT_URL } });
  await assert.rejects(bad.interactions.create({ model, input: 'hi', stream: true }), is(401, 'AuthenticationError', /API key/));

  const events = await read(create({ input: 'hi' }));
  for (const id of ['e0', 'x', '3', `e${events.length + 1}`]) {
    await assert.rejects(resume(events[0].interaction.id, id), is(400, 'BadRequestError', /last_event_id/));
  }
});

const media = { image: 'image/png', audio: 'audio/wav', video: 'video/mp4', document: 'application/pdf' };

for (const [type, mime_type] of Object.entries(media)) {
  test(`interactions: ${type} as data and as a file`, async () => {
    const bytes = Buffer.from(`not really ${type}`);
    const question = { type: 'text', text: `What is in this ${type}?` };
    const data = await ai.interactions.create({ model, input: [question, { type, mime_type, data: bytes.toString('base64') }] });
    assert.equal(data.status, 'completed');
    assert.match(data.output_text, /What is in this/);

    const file = await ai.files.upload({ file: new Blob([bytes], { type: mime_type }) });
    const events = await read(create({ input: [{ type: 'user_input', content: [question, { type, mime_type, uri: file.uri }] }] }));
    await stored(events, 'completed');
    assert.match(text(events), /What is in this/);
    const next = await ai.interactions.create({ model, input: 'And now?', previous_interaction_id: events[0].interaction.id });
    assert.match(next.output_text, /turn 3/);
    await ai.files.delete({ name: file.name });
  });
}
