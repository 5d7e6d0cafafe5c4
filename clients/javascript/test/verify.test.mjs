import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Verifier, WebhookError } from '../index.js';

const here = path.dirname(fileURLToPath(import.meta.url));
const { vectors } = JSON.parse(fs.readFileSync(path.join(here, '../../../webhook/testdata/vectors.json'), 'utf8'));
const headersOf = (v) => ({ 'webhook-id': v.id, 'Webhook-Timestamp': v.timestamp, 'webhook-signature': v.signature });
const verifierOf = (v, more) =>
  new Verifier({ secrets: v.secrets, publicKeys: v.public_keys, jwks: v.jwks, audience: v.audience, issuer: v.issuer, now: () => v.now * 1000, ...more });
const jwt = vectors.find((v) => v.name === 'jwt'), v1a = vectors.find((v) => v.name === 'v1a');

test('vectors', async (t) => {
  assert.ok(vectors.length >= 70);
  for (const v of vectors) {
    await t.test(v.name, async () => {
      const verify = verifierOf(v).verify(headersOf(v), v.body);
      if (v.error) return assert.rejects(verify, (err) => err instanceof WebhookError && (assert.equal(err.reason, v.error, err.message), true));
      const m = await verify;
      assert.equal(m.id, v.id);
      assert.equal(m.timestamp.getTime(), Number(v.timestamp) * 1000);
    });
  }
});

test('no byte can change', async () => {
  for (const v of [jwt, v1a, vectors[0]]) {
    for (let i = 0; i < v.body.length; i += 7) {
      const body = new TextEncoder().encode(v.body);
      body[i] ^= 1;
      await assert.rejects(verifierOf(v).verify(headersOf(v), body), { reason: 'signature' });
    }
    for (let i = 5; i < v.signature.length; i += 11) {
      const c = v.signature[i] === 'A' ? 'B' : 'A';
      await assert.rejects(verifierOf(v).verify({ ...headersOf(v), 'webhook-signature': v.signature.slice(0, i) + c + v.signature.slice(i + 1) }, v.body), WebhookError);
    }
  }
});

test('headers and bodies of every kind', async () => {
  const h = headersOf(v1a), bytes = new TextEncoder().encode(v1a.body);
  for (const headers of [h, new Headers(h), Object.entries(h)]) {
    for (const body of [v1a.body, bytes, bytes.buffer]) assert.equal((await verifierOf(v1a).verify(headers, body)).event.data.id, 'v1_abc');
  }
  assert.equal((await verifierOf(v1a).verifyRequest(new Request('https://x/', { method: 'POST', headers: h, body: bytes }))).scheme, 'v1a');
  await assert.rejects(verifierOf(v1a).verify(h, JSON.parse(v1a.body)), TypeError);
  assert.throws(() => new Verifier({ secrets: 'whsec_short' }), TypeError);
  assert.throws(() => new Verifier({ publicKeys: 'whpk_short' }), TypeError);
  assert.throws(() => new Verifier({ jwks: 'http://keys.example/jwks.json' }), TypeError);
});

test('the key set is kept, refreshed for an unknown key, and used while it cannot be had', async () => {
  let fetched = 0, now = jwt.now, answer = () => Response.json(jwt.jwks);
  const verifier = verifierOf(jwt, { jwks: 'https://sender.example/jwks.json', now: () => now * 1000, tolerance: 1e6, fetch: async () => (fetched++, answer()) });
  await Promise.all(Array.from({ length: 20 }, () => verifier.verify(headersOf(jwt), jwt.body)));
  assert.equal(fetched, 1);
  const unknown = vectors.find((v) => v.name === 'jwt: unknown kid');
  now += 60;
  for (let i = 0; i < 10; i++) await assert.rejects(verifier.verify(headersOf(unknown), unknown.body), { reason: 'unknown key' });
  assert.equal(fetched, 2);
  answer = () => new Response('down', { status: 500 });
  now += 3600;
  await verifier.verify(headersOf(jwt), jwt.body);
  assert.equal(fetched, 3);
  now += 86400;
  await assert.rejects(verifier.verify(headersOf(jwt), jwt.body), { reason: 'key set' });
});

test('what a secret verifies needs no key set', async () => {
  const v1 = vectors.find((v) => !v.error && v.signature.startsWith('v1,') && !v.signature.includes(' '));
  const v1a = vectors.find((v) => !v.error && v.signature.startsWith('v1a,') && !v.signature.includes(' '));
  const verifier = verifierOf(v1, { jwks: 'https://sender.example/jwks.json', fetch: async () => assert.fail('it was fetched') });
  const h = { ...headersOf(v1), 'webhook-signature': `${v1a.signature} ${v1.signature}` };
  assert.equal((await verifier.verify(h, v1.body)).scheme, 'v1');
});

test('redirects of the key set are not followed', async () => {
  const server = http.createServer((req, res) => (req.url === '/jwks' ? res.writeHead(302, { location: '/other' }).end() : res.end(JSON.stringify(jwt.jwks))));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const at = (p) => verifierOf(jwt, { jwks: `http://127.0.0.1:${server.address().port}${p}` }).verify(headersOf(jwt), jwt.body);
  await assert.rejects(at('/jwks'), { reason: 'key set' });
  assert.equal((await at('/other')).scheme, 'jwt');
  server.close();
});

test('the sample of the README works', async () => {
  const dir = fs.mkdtempSync(path.join(here, 'sample-'));
  try {
    const [, source] = /```js\n([\s\S]*?)```/.exec(fs.readFileSync(path.join(here, '../README.md'), 'utf8'));
    fs.writeFileSync(path.join(dir, 'sample.mjs'), source.replace('"ringback-webhook"', '"../../index.js"').replace('listen(3000, "127.0.0.1")', 'listen(0, "127.0.0.1", function () { console.log(this.address().port) })'));
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    const child = spawn(process.execPath, [path.join(dir, 'sample.mjs')], { env: { ...process.env, WEBHOOK_SECRET: secret, RINGBACK_URL: 'http://127.0.0.1:1' }, stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      const port = Number(String((await once(child.stdout, 'data'))[0]));
      const body = '{"type":"ping","data":{"id":"x"}}', stamp = String(Math.floor(Date.now() / 1000));
      const key = await crypto.subtle.importKey('raw', Buffer.from(secret.slice(6), 'base64'), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
      const mac = Buffer.from(await crypto.subtle.sign('HMAC', key, new TextEncoder().encode(`msg_1.${stamp}.${body}`))).toString('base64');
      const post = (signature) => fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body, headers: { 'webhook-id': 'msg_1', 'webhook-timestamp': stamp, 'webhook-signature': signature } });
      assert.equal((await post('v1,' + mac)).status, 204);
      assert.equal((await post('v1,' + mac.replace(/^./, (c) => (c === 'A' ? 'B' : 'A')))).status, 401);
    } finally {
      child.kill();
    }
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});
