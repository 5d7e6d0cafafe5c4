// The asymmetric scheme v1a: of a registered webhook by its own key, of addresses of a request by the server's. Verified
// with nothing but Node's crypto, as the standard describes it.
import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { GoogleGenAI } from '@google/genai';
import { Webhook } from 'standardwebhooks';
import { Webhook as Svix } from 'svix';

const baseUrl = process.env.RINGBACK_URL;
const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY, httpOptions: { baseUrl } });
const waiting = new Map();
const server = http.createServer((req, res) => {
  const chunks = [];
  req.on('data', (c) => chunks.push(c));
  req.on('end', () => {
    res.writeHead(204).end();
    waiting.get(req.url)?.({ headers: req.headers, body: Buffer.concat(chunks) });
  });
});
let base;
before(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  base = `http://127.0.0.1:${server.address().port}`;
});
after(() => server.close());

const next = (path) => new Promise((resolve) => waiting.set(path, resolve));
const manage = async (method, path, body) => {
  const res = await fetch(`${baseUrl}/ringback/v1/${path}`, { method, headers: { 'x-goog-api-key': 'any' }, body: JSON.stringify(body) });
  const answer = await res.json();
  assert.equal(res.status, 200, JSON.stringify(answer));
  return answer;
};
const signed = ({ headers, body }) => Buffer.concat([Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`), body]);
const tokens = ({ headers }) => headers['webhook-signature'].split(' ').map((t) => t.split(','));
const ed25519 = (x) => createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x } });

test('static: v1 and v1a side by side; rotation gives both anew', async () => {
  const hook = await ai.webhooks.create({ name: 'both', uri: `${base}/both`, subscribed_events: ['interaction.completed'] });
  const set = await manage('PATCH', `webhooks/${hook.id}`, { signature_schemes: ['v1', 'v1a'] });
  const key = (text) => ed25519(Buffer.from(text.slice('whpk_'.length), 'base64').toString('base64url'));
  let got = next('/both');
  await ai.interactions.create({ model: 'gemini-3.6-flash', input: 'hello', background: true });
  let c = await got;
  assert.deepEqual(tokens(c).map(([scheme]) => scheme).sort(), ['v1', 'v1a']);
  const check = (c, publicKey) => tokens(c).some(([scheme, sig]) => scheme === 'v1a' && verify(null, signed(c), key(publicKey), Buffer.from(sig, 'base64')));
  assert.ok(check(c, set.public_keys[0].public_key));
  // Libraries that know v1 alone pass over the other token.
  for (const Library of [Webhook, Svix]) assert.equal(new Library(hook.new_signing_secret).verify(c.body.toString(), c.headers).type, 'interaction.completed');

  const rotated = await ai.webhooks.rotateSigningSecret(hook.id, {});
  const after = await manage('GET', `webhooks/${hook.id}`);
  assert.equal(after.public_keys.length, 2);
  assert.equal(after.public_keys[1].public_key, set.public_keys[0].public_key);
  assert.ok(after.public_keys[1].expire_time);
  got = next('/both');
  await ai.interactions.create({ model: 'gemini-3.6-flash', input: 'hello', background: true });
  c = await got;
  assert.equal(tokens(c).length, 4);
  for (const k of after.public_keys) assert.ok(check(c, k.public_key));
  for (const secret of [hook.new_signing_secret, rotated.secret]) assert.ok(new Webhook(secret).verify(c.body.toString(), c.headers));
  await ai.webhooks.delete(hook.id);
});

test('dynamic: v1a by a key of the JWKS, which then publishes that kind alone', async () => {
  const project = await manage('GET', 'project');
  await manage('PATCH', `projects/${project.id}`, { dynamic_signature: 'v1a' });
  const got = next('/dynamic');
  const job = await ai.interactions.create({ model: 'gemini-3.6-flash', input: 'hello', background: true, webhook_config: { uris: [`${base}/dynamic`] } });
  const c = await got;
  assert.equal(JSON.parse(c.body).data.id, job.id);
  const { keys } = await (await fetch(`${baseUrl}/.well-known/jwks.json`)).json();
  assert.ok(keys.length >= 2 && keys.every((k) => k.kty === 'OKP' && k.crv === 'Ed25519' && k.alg === 'EdDSA' && k.use === 'sig' && k.kid));
  const [[scheme, sig]] = tokens(c);
  assert.equal(scheme, 'v1a');
  assert.ok(keys.some((k) => verify(null, signed(c), ed25519(k.x), Buffer.from(sig, 'base64'))), 'no key of the set verifies, all tried');
});

test('a rotated signing key verifies still, and the next one was published before', async () => {
  const jwks = async () => (await (await fetch(`${baseUrl}/.well-known/jwks.json`)).json()).keys;
  const before = await jwks();
  await manage('POST', 'signing_keys:rotate', { algorithm: 'EdDSA', force: true });
  const now = await jwks();
  assert.deepEqual(before.filter((k) => !now.some((n) => n.kid === k.kid)), []);
  const got = next('/rotated');
  await ai.interactions.create({ model: 'gemini-3.6-flash', input: 'hello', background: true, webhook_config: { uris: [`${base}/rotated`] } });
  const c = await got;
  const signer = now.find((k) => verify(null, signed(c), ed25519(k.x), Buffer.from(tokens(c)[0][1], 'base64')));
  assert.ok(before.some((k) => k.kid === signer.kid));
});
