// The files and batches calls of the JavaScript SDK, made with the released package.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { GoogleGenAI } from '@google/genai';
import { Webhook } from 'standardwebhooks';

const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY, httpOptions: { baseUrl: process.env.RINGBACK_URL } });
const model = 'gemini-3.6-flash';
const dir = await mkdtemp(join(tmpdir(), 'ringback-'));

/** Polls as the documents do, though quicker. */
async function ended(job) {
  const over = ['JOB_STATE_SUCCEEDED', 'JOB_STATE_FAILED', 'JOB_STATE_CANCELLED', 'JOB_STATE_EXPIRED'];
  while (!over.includes(job.state)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    job = await ai.batches.get({ name: job.name });
  }
  return job;
}

/** A receiver of one callback. */
async function receiver() {
  const server = http.createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    uri: `http://127.0.0.1:${server.address().port}/hook`,
    async callback() {
      const [req, res] = await once(server, 'request');
      const chunks = [];
      for await (const c of req) chunks.push(c);
      res.writeHead(204).end();
      server.close();
      return { headers: req.headers, body: Buffer.concat(chunks).toString('utf8') };
    },
  };
}

test('files: upload from a path and from memory, get, list, download, delete', async () => {
  const path = join(dir, 'poem.txt');
  const text = 'x'.repeat(9 << 20); // More than a chunk.
  await writeFile(path, text);
  const made = await ai.files.upload({ file: path, config: { mimeType: 'text/plain', displayName: 'a poem' } });
  assert.match(made.name, /^files\/[a-z0-9]+$/);
  assert.deepEqual([made.state, made.displayName, made.mimeType, made.sizeBytes], ['ACTIVE', 'a poem', 'text/plain', String(text.length)]);
  const got = await ai.files.get({ name: made.name });
  assert.equal(got.uri, made.uri);
  assert.ok(Date.parse(got.expirationTime) - Date.parse(got.createTime) >= 47 * 3600e3);

  const small = await ai.files.upload({ file: new Blob(['hello'], { type: 'text/plain' }), config: { name: 'my-file' + Date.now() } });
  const names = [];
  for await (const f of await ai.files.list({ config: { pageSize: 1 } })) names.push(f.name);
  assert.ok(names.includes(made.name) && names.includes(small.name));

  const copy = join(dir, 'copy.txt');
  await ai.files.download({ file: made.name, downloadPath: copy });
  assert.equal(await readFile(copy, 'utf8'), text);
  for (const f of [made, small]) await ai.files.delete({ name: f.name });
  await assert.rejects(ai.files.get({ name: made.name }), (e) => e.status === 404);
});

test('batches: inline, results in order, callback verified', async () => {
  const r = await receiver();
  const hook = await ai.webhooks.create({ uri: r.uri, subscribed_events: ['batch.succeeded'] });
  const arrived = r.callback();
  const made = await ai.batches.create({
    model,
    src: [
      { contents: [{ role: 'user', parts: [{ text: 'one' }] }], metadata: { key: 'k1' }, config: { temperature: 0.5, systemInstruction: 'be nice' } },
      { contents: 'two' },
      { contents: [{ role: 'user', parts: [] }], metadata: { key: 'bad' } },
    ],
    config: { displayName: 'inline' },
  });
  assert.match(made.name, /^batches\/[a-z0-9]{36}$/);
  assert.equal(made.displayName, 'inline');
  const job = await ended(made);
  assert.equal(job.state, 'JOB_STATE_SUCCEEDED');
  const [one, two, bad] = job.dest.inlinedResponses;
  assert.match(one.response.candidates[0].content.parts[0].text, /asked "one"/);
  assert.match(two.response.candidates[0].content.parts[0].text, /asked "two"/);
  assert.equal(bad.error.code, 3);
  const c = await arrived;
  const event = new Webhook(hook.new_signing_secret).verify(c.body, c.headers);
  assert.deepEqual(event.data, {
    id: job.name,
    batch_stats: { request_count: 3, successful_request_count: 2, failed_request_count: 1, pending_request_count: 0 },
  });
  await ai.webhooks.delete(hook.id);
});

test('batches: from a file, results downloaded', async () => {
  const path = join(dir, 'in.jsonl');
  const rows = Array.from({ length: 50 }, (_, i) => JSON.stringify({ key: `request-${i}`, request: { contents: [{ parts: [{ text: `number ${i}` }] }] } }));
  await writeFile(path, rows.join('\n'));
  const input = await ai.files.upload({ file: path, config: { mimeType: 'jsonl' } });
  const job = await ended(await ai.batches.create({ model, src: input.name, config: { displayName: 'file' } }));
  assert.equal(job.state, 'JOB_STATE_SUCCEEDED');
  assert.ok(job.endTime >= job.createTime && job.model === 'models/' + model);
  const out = join(dir, 'out.jsonl');
  await ai.files.download({ file: job.dest.fileName, downloadPath: out });
  const lines = (await readFile(out, 'utf8')).trimEnd().split('\n').map((l) => JSON.parse(l));
  assert.deepEqual(lines.map((l) => l.key), rows.map((r) => JSON.parse(r).key));
  assert.match(lines[49].response.candidates[0].content.parts[0].text, /"number 49"/);

  const seen = [];
  for await (const b of await ai.batches.list({ config: { pageSize: 1 } })) seen.push(b.name);
  assert.ok(seen.includes(job.name));
  await ai.batches.delete({ name: job.name });
  await assert.rejects(ai.batches.get({ name: job.name }), (e) => e.status === 404);
});

test('batches: cancel', async () => {
  const made = await ai.batches.create({ model: 'slow-model', src: [{ contents: 'x' }] });
  await ai.batches.cancel({ name: made.name });
  assert.equal((await ended(made)).state, 'JOB_STATE_CANCELLED');
});

test('batches: embeddings', async () => {
  const made = await ai.batches.createEmbeddings({ model, src: { inlinedRequests: { contents: ['a cat', 'a dog'], config: { outputDimensionality: 8 } } } });
  const job = await ended(made);
  assert.equal(job.state, 'JOB_STATE_SUCCEEDED');
  assert.equal(job.dest.inlinedEmbedContentResponses.length, 2);
  assert.equal(job.dest.inlinedEmbedContentResponses[0].response.embedding.values.length, 8);
  const path = join(dir, 'embed.jsonl');
  await writeFile(path, JSON.stringify({ key: 'e', request: { content: { parts: [{ text: 'a cat' }] }, output_dimensionality: 8 } }));
  const input = await ai.files.upload({ file: path, config: { mimeType: 'application/jsonl' } });
  const file = await ended(await ai.batches.createEmbeddings({ model, src: { fileName: input.name } }));
  const out = join(dir, 'embedded.jsonl');
  await ai.files.download({ file: file.dest.fileName, downloadPath: out });
  const line = JSON.parse(await readFile(out, 'utf8'));
  assert.deepEqual([line.key, line.response.embedding.values], ['e', job.dest.inlinedEmbedContentResponses[0].response.embedding.values]);
});

test('models: embedContent', async () => {
  const one = await ai.models.embedContent({ model, contents: 'a cat', config: { outputDimensionality: 8 } });
  assert.equal(one.embeddings[0].values.length, 8);
  const two = await ai.models.embedContent({ model, contents: ['a cat', 'a dog'] });
  assert.equal(two.embeddings.length, 2);
});

test('batches: errors are typed', async () => {
  await assert.rejects(ai.batches.create({ model, src: 'files/none' }), (e) => e.status === 404);
  await assert.rejects(ai.batches.get({ name: 'batches/none' }), (e) => e.status === 404);
});
