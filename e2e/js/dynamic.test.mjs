// Callbacks to the addresses of a request, verified by what receivers use: the way of Google's
// documents (jwks-rsa and jsonwebtoken), jose, and for webhooks svix and standardwebhooks.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { GoogleGenAI } from '@google/genai';
import * as jose from 'jose';
import jwt from 'jsonwebtoken';
import jwksClient from 'jwks-rsa';
import { Webhook as Svix } from 'svix';
import { Webhook } from 'standardwebhooks';

const baseUrl = process.env.RINGBACK_URL;
const jwksUri = `${baseUrl}/.well-known/jwks.json`;
const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY, httpOptions: { baseUrl } });
const metadata = { job_group: 'nightly-eval', 7: [1.5, null, 'é\u2028<'], nested: { b: true, a: {} } };

const arrived = [];
let waiting = [];
const server = http.createServer((req, res) => {
  const chunks = [];
  req.on('data', (c) => chunks.push(c));
  req.on('end', () => {
    const body = Buffer.concat(chunks).toString('utf8');
    arrived.push({ url: req.url, headers: req.headers, body, event: JSON.parse(body) });
    res.writeHead(204).end();
    waiting = waiting.filter((w) => !w());
  });
});
let base;
before(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  base = `http://127.0.0.1:${server.address().port}`;
});
after(() => server.close());

/** Resolves to the first callback at a path. */
const wait = (path) =>
  new Promise((resolve) => {
    const look = () => {
      const found = arrived.find((c) => c.url === path);
      if (found) resolve(found);
      return Boolean(found);
    };
    if (!look()) waiting.push(look);
  });

/** Starts a background interaction with its own receivers. */
const create = (...paths) =>
  ai.interactions.create({
    model: 'gemini-3.6-flash',
    input: 'Tell me about callbacks.',
    background: true,
    webhook_config: { uris: paths.map((p) => base + p), user_metadata: metadata },
  });

test('dynamic: each address gets its own id, the metadata twice, and nothing goes to the registered webhooks', async () => {
  const hook = await ai.webhooks.create({ name: 'static', uri: `${base}/static`, subscribed_events: ['interaction.completed'] });
  const job = await create('/one', '/two?x=1');
  assert.deepEqual(job.webhook_config, { uris: [`${base}/one`, `${base}/two?x=1`], user_metadata: metadata });
  const [one, two] = await Promise.all([wait('/one'), wait('/two?x=1')]);
  assert.notEqual(one.headers['webhook-id'], two.headers['webhook-id']);
  assert.equal(one.body, two.body);
  assert.equal(one.event.type, 'interaction.completed');
  assert.equal(one.event.data.id, job.id);
  assert.deepEqual(one.event.user_metadata, metadata);
  assert.deepEqual(one.event.data.user_metadata, metadata);
  assert.equal(JSON.stringify(JSON.parse(one.body)), one.body);
  assert.deepEqual((await ai.interactions.get(job.id)).webhook_config, { uris: [`${base}/one`, `${base}/two?x=1`], user_metadata: metadata });
  await ai.interactions.create({ model: 'gemini-3.6-flash', input: 'For the registered webhook.', background: true });
  await wait('/static');
  assert.deepEqual(arrived.filter((c) => c.url === '/static' && c.event.data.id === job.id), []);
  await ai.webhooks.delete(hook.id);
});

test('jwt: as in the documents, with jwks-rsa and jsonwebtoken', async () => {
  const job = await create('/documented');
  const got = await wait('/documented');
  const client = jwksClient({ jwksUri });
  const getKey = (header, callback) => client.getSigningKey(header.kid, (err, key) => callback(err, key?.getPublicKey()));
  const event = await new Promise((resolve, reject) =>
    jwt.verify(got.headers['webhook-signature'], getKey, { algorithms: ['RS256'], audience: `${base}/documented` }, (err, decoded) => (err ? reject(err) : resolve(decoded))),
  );
  assert.equal(event.type, 'interaction.completed');
  assert.equal(event.data.id, job.id);
  assert.deepEqual(event.user_metadata, metadata);
});

test('jwt: with jose, bound to body, id and audience', async () => {
  await create('/jose');
  const got = await wait('/jose');
  const keys = jose.createRemoteJWKSet(new URL(jwksUri));
  const { payload, protectedHeader } = await jose.jwtVerify(got.headers['webhook-signature'], keys, { algorithms: ['RS256'], audience: `${base}/jose`, issuer: baseUrl });
  assert.equal(protectedHeader.typ, 'JWT');
  assert.equal(payload.jti, got.headers['webhook-id']);
  assert.equal(payload.body_sha256, createHash('sha256').update(got.body).digest('hex'));
  assert.equal(payload.exp - payload.iat, 300);
  assert.equal(String(payload.iat), got.headers['webhook-timestamp']);
  await assert.rejects(jose.jwtVerify(got.headers['webhook-signature'], keys, { audience: `${base}/another` }));
});

test('the key set: RSA only, cached, without anything private', async () => {
  for (const prefix of ['', '/v1beta', '/proxied/deep']) {
    const res = await fetch(`${baseUrl}${prefix}/.well-known/jwks.json`);
    assert.equal(res.status, 200);
    assert.equal(res.headers.get('cache-control'), 'public, max-age=300');
    const { keys } = await res.json();
    assert.ok(keys.length >= 2, 'the next key is published before it signs');
    for (const key of keys) assert.deepEqual(Object.keys(key).sort(), ['alg', 'e', 'kid', 'kty', 'n', 'use']);
  }
});

test('static webhooks: svix and standardwebhooks verify', async () => {
  const hook = await ai.webhooks.create({ name: 'libraries', uri: `${base}/libraries`, subscribed_events: ['interaction.completed'] });
  await ai.interactions.create({ model: 'gemini-3.6-flash', input: 'hello', background: true });
  const got = await wait('/libraries');
  for (const Library of [Svix, Webhook]) {
    assert.deepEqual(new Library(hook.new_signing_secret).verify(got.body, got.headers), got.event);
    assert.throws(() => new Library(hook.new_signing_secret).verify(got.body + ' ', got.headers));
  }
  await ai.webhooks.delete(hook.id);
});
