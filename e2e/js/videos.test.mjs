// The video calls of the JavaScript SDK, made with the released package. Version 3 refuses them on its
// own side; this file runs with version 2.
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
const model = 'veo-3.1-generate-preview';
const dir = await mkdtemp(join(tmpdir(), 'ringback-'));

/** Polls as the documents do, though quicker. */
async function ended(operation) {
  while (!operation.done) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    operation = await ai.operations.getVideosOperation({ operation });
  }
  return operation;
}

/** Receives one callback. */
async function receiver() {
  const server = http.createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const arrived = once(server, 'request').then(async ([req, res]) => {
    const chunks = [];
    for await (const c of req) chunks.push(c);
    res.writeHead(204).end();
    server.close();
    return { headers: req.headers, body: Buffer.concat(chunks).toString('utf8') };
  });
  return { uri: `http://127.0.0.1:${server.address().port}/hook`, callback: () => arrived };
}

/** Downloads a video and makes sure that it is one. */
async function download(video) {
  const path = join(dir, `${Math.random()}.mp4`);
  await ai.files.download({ file: video, downloadPath: path });
  const bytes = await readFile(path);
  assert.equal(bytes.toString('latin1', 4, 8), 'ftyp');
  return bytes;
}

test('videos: from a prompt to files, with a callback', async () => {
  const r = await receiver();
  const hook = await ai.webhooks.create({ uri: r.uri, subscribed_events: ['video.generated'] });
  const made = await ai.models.generateVideos({ model, prompt: 'a cat', config: { numberOfVideos: 2, aspectRatio: '9:16', durationSeconds: 8, negativePrompt: 'dogs' } });
  assert.match(made.name, /^models\/veo-3.1-generate-preview\/operations\/[a-z0-9]+$/);
  const operation = await ended(made);
  assert.equal(operation.error, undefined);
  assert.equal(operation.response.generatedVideos.length, 2);
  const [first, second] = await Promise.all(operation.response.generatedVideos.map(download));
  assert.ok(!first.equals(second) && first.includes('No model ran.') && first.includes('"a cat" (video 1 of 2'));
  const { headers, body } = await r.callback();
  const event = new Webhook(hook.new_signing_secret).verify(body, headers);
  assert.equal(event.type, 'video.generated');
  assert.equal(event.data.id, operation.name);
  assert.equal(event.data.output_file_uri, operation.response.generatedVideos[0].video.uri);
  assert.equal(event.data.video_uri, event.data.output_file_uri);
  const file = await ai.files.get({ name: event.data.file_name });
  assert.deepEqual([file.source, file.mimeType, file.videoMetadata.videoDuration], ['GENERATED', 'video/mp4', '4s']);
  assert.ok(first.equals(await download(file)));
  await ai.webhooks.delete(hook.id);
});

test('videos: images and a video go in, from memory and from a file', async () => {
  const png = Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), Buffer.alloc(20)]);
  const image = { imageBytes: png.toString('base64'), mimeType: 'image/png' };
  const operation = await ended(await ai.models.generateVideos({
    model, source: { prompt: 'a cat', image }, config: { lastFrame: image, referenceImages: [{ image, referenceType: 'ASSET' }], resolution: '720p' },
  }));
  const video = operation.response.generatedVideos[0].video;
  const longer = await ended(await ai.models.generateVideos({ model, source: { prompt: 'on and on', video } }));
  assert.equal(longer.response.generatedVideos.length, 1);
  const path = join(dir, 'in.png');
  await writeFile(path, png);
  const file = await ai.files.upload({ file: path, config: { mimeType: 'image/png' } });
  const extended = await ended(await ai.models.generateVideos({ model, source: { video: { uri: longer.response.generatedVideos[0].video.uri } } }));
  assert.ok(extended.done && !extended.error);
  await assert.rejects(ai.models.generateVideos({ model, source: { video: { uri: file.uri } } }), (e) => e.status === 400 && /expected video/.test(e.message));
});

test('videos: what fails is an error, what is held back is none', async () => {
  const failed = await ended(await ai.models.generateVideos({ model: 'fail-veo', prompt: 'a cat' }));
  assert.deepEqual(failed.error, { code: 13, message: 'the model is not reachable' });
  assert.equal(failed.response, undefined);
  const filtered = await ended(await ai.models.generateVideos({ model, prompt: 'somebody famous' }));
  assert.equal(filtered.error, undefined);
  assert.deepEqual([filtered.response.raiMediaFilteredCount, filtered.response.raiMediaFilteredReasons], [1, ['it shows a real person']]);
  await assert.rejects(ai.models.generateVideos({ model, prompt: 'a cat', config: { numberOfVideos: 5 } }), (e) => e.status === 400 && /sampleCount/.test(e.message));
  await assert.rejects(ai.operations.getVideosOperation({ operation: { name: `models/${model}/operations/none` } }), (e) => e.status === 404);
});

test('videos: a receiver of the request', async () => {
  const r = await receiver();
  const made = await ai.models.generateVideos({ model, prompt: 'a cat', config: { webhookConfig: { uris: [r.uri], userMetadata: { reel: 7 } } } });
  const { headers, body } = await r.callback();
  const event = JSON.parse(body);
  assert.deepEqual([event.type, event.data.id, event.user_metadata], ['video.generated', made.name, { reel: 7 }]);
  assert.equal(headers['webhook-signature'].split('.').length, 3); // A JWT; dynamic.test.mjs verifies them.
});
