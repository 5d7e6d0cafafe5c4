// Verifies callbacks after Standard Webhooks 1.0.0 (schemes v1 and v1a) and the JWTs that the Gemini API documents
// for per-request webhooks. Web Crypto only: it runs in Node.js, Deno, Bun, browsers and edge workers.
//
// It does what the Go package ringback.dev/webhook does, and both are tested against the same vectors.

const DEFAULT_TOLERANCE = 300;
const MAX_SIGNATURES = 32;
const MAX_V1A = 8; // Each costs a hash of the body for each key.
const MAX_HINT = 64 * 1024; // No reason is searched for larger bodies.
const MAX_TOKEN = 64 * 1024;
const MAX_KEYS = 100;
const MAX_KEY_SET = 1 << 20;
const DEFAULT_AGE = 300, MIN_AGE = 60, MAX_AGE = 3600, REFRESH_EVERY = 30, STALE_AGE = 86400;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** An error whose reason is one of: header, timestamp, signature, "no key", token, audience, "unknown key", "key set". */
export class WebhookError extends Error {
  constructor(reason, message) {
    super(message);
    this.name = 'WebhookError';
    this.reason = reason;
  }
}

const fail = (reason, message) => {
  throw new WebhookError(reason, message);
};

/** Strict standard base64 with padding; null if it is not that. */
function fromBase64(text) {
  if (text.length % 4 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return toBase64(bytes) === text ? bytes : null;
}

const toBase64 = (bytes) => btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(''));

/** Strict base64url without padding (RFC 7515 §2); null if it is not that. */
function fromBase64url(text) {
  if (!/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) return null;
  return fromBase64(text.replace(/-/g, '+').replace(/_/g, '/') + '='.repeat((4 - (text.length % 4)) % 4));
}

/** Compares in a time that does not depend on where the two differ. */
function equal(a, b) {
  if (a.length !== b.length) return false;
  let differ = 0;
  for (let i = 0; i < a.length; i++) differ |= a[i] ^ b[i];
  return differ === 0;
}

function concat(a, b) {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

function toBytes(body) {
  if (typeof body === 'string') return encoder.encode(body);
  if (body instanceof Uint8Array) return body;
  if (body instanceof ArrayBuffer) return new Uint8Array(body);
  throw new TypeError('the body must be the raw body: a string, Uint8Array or ArrayBuffer');
}

/** Reads a header from a Headers object, a plain object or a list of pairs, whatever its case. */
function header(headers, name) {
  if (typeof headers?.get === 'function') return headers.get(name) ?? '';
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers ?? {});
  return pairs
    .filter(([key, value]) => key.toLowerCase() === name && value != null)
    .flatMap(([, value]) => value)
    .join(' ');
}

const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));

/** What a body was before somebody printed it anew, and what to say about it. */
function* restored(body) {
  if (body.length > MAX_HINT) return;
  let text;
  try {
    text = decoder.decode(body);
  } catch {
    return;
  }
  const compact = compactJSON(text);
  if (compact !== null && compact !== text) yield [encoder.encode(compact), 'the body was re-serialised on the way: it matches once its white space is removed; verify the raw bytes as received'];
  const trimmed = text.trim();
  if (trimmed !== text) yield [encoder.encode(trimmed), 'white space was added around the body; verify the raw bytes as received'];
}

/** JSON without the white space outside its strings; null if it is not JSON. */
function compactJSON(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  return text.replace(/("(?:[^"\\]|\\.)*")|\s+/g, (_, string) => string ?? '');
}

function importHMAC(text) {
  const bytes = fromBase64(text.startsWith('whsec_') ? text.slice(6) : text);
  if (!bytes || bytes.length < 24 || bytes.length > 64) throw new TypeError('a secret must be "whsec_" and the base64 of 24 to 64 bytes');
  return crypto.subtle.importKey('raw', bytes, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
}

function importEd25519(bytes) {
  return crypto.subtle.importKey('raw', bytes, { name: 'Ed25519' }, false, ['verify']).catch((err) => {
    throw new Error(`this runtime can't verify Ed25519: ${err.message}`);
  });
}

function importPublic(text) {
  const bytes = fromBase64(text.startsWith('whpk_') ? text.slice(5) : text);
  if (!bytes || bytes.length !== 32) throw new TypeError('a public key must be "whpk_" and the base64 of 32 bytes');
  return importEd25519(bytes);
}

const bitLength = (bytes) => {
  const first = bytes.findIndex((b) => b !== 0);
  return first < 0 ? 0 : (bytes.length - first) * 8 - Math.clz32(bytes[first]) + 24;
};

/** Reads a JWKS (RFC 7517). Keys for other uses, of other kinds or malformed are passed over. */
async function parseKeys(set) {
  const listed = set?.keys ?? [];
  if (!Array.isArray(listed) || typeof set !== 'object') throw new TypeError('it is not a JWKS');
  if (listed.length > MAX_KEYS) throw new TypeError(`the set has ${listed.length} keys, at most ${MAX_KEYS} are allowed`);
  const keys = [];
  for (const k of listed) {
    if (!k || typeof k !== 'object') continue;
    if (k.d !== undefined || k.p !== undefined || k.k !== undefined) throw new TypeError('a key of the set is private or symmetric');
    if ((k.use && k.use !== 'sig') || (k.key_ops?.length && !k.key_ops.includes('verify'))) continue;
    if (k.kty === 'RSA' && (!k.alg || k.alg === 'RS256')) {
      const n = fromBase64url(`${k.n ?? '='}`), e = fromBase64url(`${k.e ?? '='}`);
      if (!n || !e || bitLength(e) > 31) continue;
      const exponent = e.reduce((value, b) => value * 256 + b, 0);
      if (bitLength(n) < 2048 || bitLength(n) > 8192 || exponent < 3 || exponent % 2 === 0) continue; // Weak keys verify nothing.
      const key = await crypto.subtle.importKey('jwk', { kty: 'RSA', n: k.n, e: k.e, alg: 'RS256', ext: true }, { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, false, ['verify']);
      keys.push({ kid: k.kid, rsa: key });
    } else if (k.kty === 'OKP' && k.crv === 'Ed25519' && (!k.alg || k.alg === 'EdDSA' || k.alg === 'Ed25519')) {
      const x = fromBase64url(`${k.x ?? '='}`);
      if (!x || x.length !== 32) continue;
      keys.push({ kid: k.kid, ed25519: await importEd25519(x) });
    }
  }
  return keys;
}

/** A sender's published keys, fetched when first needed and kept for a while. No key is taken from a message. */
class KeySet {
  constructor(source, now, fetcher) {
    this.now = now;
    this.fetcher = fetcher;
    if (typeof source === 'object' && !(source instanceof URL)) {
      this.fixed = parseKeys(source);
      this.fixed.catch(() => {}); // Whoever verifies hears of it.
      return;
    }
    this.url = new URL(source);
    const local = ['localhost', '127.0.0.1', '[::1]'].includes(this.url.hostname);
    if (this.url.protocol !== 'https:' && !(this.url.protocol === 'http:' && local)) throw new TypeError('the address of the key set must begin with https://');
  }

  async current(wanted) {
    if (this.fixed) return this.fixed.catch((err) => fail('key set', `the key set can't be had: ${err.message}`));
    const now = this.now();
    const old = !(now < this.until) || now < this.fetched;
    const recent = this.tried !== undefined && now >= this.tried && now - this.tried < REFRESH_EVERY;
    if ((old || wanted) && !recent) {
      this.fetching ??= this.fetch().finally(() => (this.fetching = undefined));
      await this.fetching;
    }
    if (this.fetched === undefined || this.now() - this.fetched > STALE_AGE) fail('key set', `the key set can't be had: ${this.failed}`);
    return this.keys;
  }

  async fetch() {
    try {
      const res = await this.fetcher(this.url, { redirect: 'error', signal: AbortSignal.timeout(10_000) });
      if (res.status !== 200) throw new Error(`it was answered with ${res.status}`);
      const text = await res.text();
      if (text.length > MAX_KEY_SET) throw new Error('it is too large');
      this.keys = await parseKeys(JSON.parse(text));
      const age = /(?:^|,)\s*max-age="?(\d{1,9})/i.exec(res.headers.get('cache-control') ?? '');
      this.fetched = this.now();
      this.until = this.fetched + (age ? Math.min(Math.max(Number(age[1]), MIN_AGE), MAX_AGE) : DEFAULT_AGE);
      this.failed = undefined;
    } catch (err) {
      this.failed = err.message;
    }
    this.tried = this.now();
  }

  async rsa(kid) {
    for (let refreshed = false; ; refreshed = true) {
      const keys = await this.current(refreshed);
      const found = keys.filter((k) => k.kid === kid && k.rsa).map((k) => k.rsa);
      if (found.length) return found;
      if (refreshed || this.fixed) fail('unknown key', `the token's key ${JSON.stringify(kid)} is not among the ${keys.length} keys of the set`);
    }
  }

  async ed25519() {
    return (await this.current(false)).filter((k) => k.ed25519).map((k) => k.ed25519);
  }
}

/**
 * Verifies messages. What may sign a message is what is given here; nothing of the message itself is trusted to say so.
 */
export class Verifier {
  constructor({ secrets = [], publicKeys = [], jwks, audience = [], issuer, allowUnbound = false, tolerance = DEFAULT_TOLERANCE, now, fetch: fetcher } = {}) {
    this.clock = now ? () => Math.floor(+now() / 1000) : () => Math.floor(Date.now() / 1000);
    this.secrets = Promise.all([secrets].flat().map(importHMAC));
    this.publicKeys = Promise.all([publicKeys].flat().map(importPublic));
    this.secrets.catch(() => {}); // verify reports what the runtime can't do.
    this.publicKeys.catch(() => {});
    this.keys = jwks ? new KeySet(jwks, this.clock, fetcher ?? ((...args) => fetch(...args))) : undefined;
    this.audience = [audience].flat();
    this.issuer = issuer;
    this.allowUnbound = allowUnbound;
    this.tolerance = tolerance;
  }

  /** Verifies a message and returns { id, timestamp, scheme, body, event }; throws WebhookError. */
  async verify(headers, rawBody) {
    const body = toBytes(rawBody);
    const id = header(headers, 'webhook-id'), stamp = header(headers, 'webhook-timestamp'), signature = header(headers, 'webhook-signature');
    for (const [name, value] of Object.entries({ 'webhook-id': id, 'webhook-timestamp': stamp, 'webhook-signature': signature })) {
      if (!value) fail('header', `missing header: ${name}`);
    }
    const timestamp = this.timestamp(stamp);
    let scheme = 'jwt';
    if (signature.split('.').length === 3 && !/[ ,]/.test(signature)) await this.token(signature, id, body);
    else scheme = await this.signatures(signature, encoder.encode(`${id}.${timestamp}.`), body);
    let event;
    try {
      event = JSON.parse(decoder.decode(body));
    } catch {
      event = undefined; // Verified, but not JSON.
    }
    return { id, timestamp: new Date(timestamp * 1000), scheme, body, event };
  }

  /** Verifies a Fetch API Request, reading its body. */
  async verifyRequest(request) {
    return this.verify(request.headers, await request.arrayBuffer());
  }

  timestamp(text) {
    if (!/^(0|[1-9]\d{0,15})$/.test(text)) fail('timestamp', 'webhook-timestamp must be Unix seconds as a decimal integer');
    const age = this.clock() - Number(text);
    if (age > this.tolerance) fail('timestamp', `the message is ${age} s old, ${this.tolerance} s is allowed`);
    if (age < -this.tolerance) fail('timestamp', `the message is ${-age} s in the future, ${this.tolerance} s is allowed; compare the clocks`);
    return Number(text);
  }

  async signatures(text, prefix, body) {
    const found = { v1: [], v1a: [] };
    for (const token of text.split(' ')) {
      if (found.v1.length + found.v1a.length === MAX_SIGNATURES) break;
      const comma = token.indexOf(',');
      const scheme = token.slice(0, Math.max(comma, 0)), bytes = comma > 0 && fromBase64(token.slice(comma + 1));
      if (bytes && scheme === 'v1' && bytes.length === 32) found.v1.push(bytes);
      if (bytes && scheme === 'v1a' && bytes.length === 64 && found.v1a.length < MAX_V1A) found.v1a.push(bytes);
    }
    const secrets = await this.secrets;
    const keys = [...(await this.publicKeys)];
    const match = async (bytes) => {
      const message = concat(prefix, bytes);
      let scheme = '';
      for (const key of found.v1a.length ? keys : []) {
        for (const sig of found.v1a) if (await crypto.subtle.verify('Ed25519', key, sig, message)) scheme = 'v1a';
      }
      for (const secret of found.v1.length ? secrets : []) {
        const want = new Uint8Array(await crypto.subtle.sign('HMAC', secret, message));
        for (const mac of found.v1) if (equal(want, mac)) scheme = 'v1';
      }
      return scheme;
    };
    // What is at hand comes first: a message that it verifies needs no key set, and must not fail because that can't be had.
    let scheme = await match(body);
    if (!scheme && found.v1a.length && this.keys) {
      keys.unshift(...(await this.keys.ed25519()));
      scheme = await match(body);
    }
    if (scheme) return scheme;
    if (!found.v1.length && !found.v1a.length) fail('signature', 'webhook-signature holds no well-formed v1 or v1a signature');
    if (!found.v1.length && !keys.length) fail('no key', 'the message is signed with v1a; the verifier has no public key');
    if (!found.v1a.length && !secrets.length) fail('no key', 'the message is signed with v1; the verifier has no secret');
    for (const [bytes, why] of restored(body)) if (await match(bytes)) fail('signature', why);
    fail('signature', 'wrong secret or key, or the id, timestamp or body was changed on the way');
  }

  async token(token, id, body) {
    if (!this.keys) fail('no key', 'the message is signed with a JWT; the verifier has no key set');
    if (!this.audience.length) fail('no key', 'the message is signed with a JWT; the verifier has no audience to compare');
    if (token.length > MAX_TOKEN) fail('token', 'the token is too large');
    const [head, payload, sig] = token.split('.');
    const decode = (part) => {
      const bytes = fromBase64url(part);
      try {
        const value = bytes && JSON.parse(decoder.decode(bytes));
        return value && typeof value === 'object' && !Array.isArray(value) ? value : null;
      } catch {
        return null;
      }
    };
    const h = decode(head);
    if (!h || (h.kid !== undefined && typeof h.kid !== 'string')) fail('token', "the token's header is malformed");
    if (h.alg !== 'RS256') fail('token', `the token is signed with ${JSON.stringify(h.alg)}; only RS256 is accepted`);
    if (h.crit !== undefined) fail('token', 'the token has critical extensions');
    if (!h.kid) fail('unknown key', 'the token names no key (kid)');
    const signature = fromBase64url(sig);
    if (!signature) fail('token', "the token's signature is malformed");
    let signed = false;
    for (const key of await this.keys.rsa(h.kid)) {
      if (await crypto.subtle.verify('RSASSA-PKCS1-v1_5', key, signature, encoder.encode(`${head}.${payload}`))) signed = true;
    }
    if (!signed) fail('signature', `the token's signature is not by key ${JSON.stringify(h.kid)}, or the token was changed`);
    // From here on the sender is known; what can be wrong is what it is about.
    const c = decode(payload);
    if (!c) fail('token', "the token's claims are malformed");
    this.claims(c, id);
    await this.bound(c, body);
  }

  claims(c, id) {
    if (this.issuer && c.iss !== this.issuer) fail('token', `the token was issued by ${JSON.stringify(c.iss)}, not ${JSON.stringify(this.issuer)}`);
    const audience = typeof c.aud === 'string' ? [c.aud] : c.aud;
    if (!Array.isArray(audience) || !audience.length) fail('audience', 'the token names no audience');
    if (!audience.some((a) => this.audience.includes(a))) fail('audience', `the token is meant for ${JSON.stringify(audience)}, the verifier expects ${JSON.stringify(this.audience)}`);
    const now = this.clock();
    const date = (v) => typeof v === 'number' && v >= 0 && v < 2 ** 40;
    if (!date(c.iat) || !date(c.exp)) fail('token', 'iat or exp is missing or malformed');
    if (now > Math.floor(c.exp) + this.tolerance) fail('timestamp', `the token expired ${now - c.exp} s ago`);
    if (c.iat > now + this.tolerance) fail('timestamp', `the token was issued ${c.iat - now} s in the future; compare the clocks`);
    if (c.nbf !== undefined && (!date(c.nbf) || c.nbf > now + this.tolerance)) fail('timestamp', 'the token is not valid yet');
    if (typeof c.jti !== 'string' || !equal(encoder.encode(c.jti), encoder.encode(id))) fail('token', `the token is about message ${JSON.stringify(c.jti)}, webhook-id says ${JSON.stringify(id)}`);
  }

  async bound(c, body) {
    if (typeof c.body_sha256 !== 'string') {
      if (!this.allowUnbound) fail('token', 'the token has no body_sha256, so anybody could put another body beside it');
      const sent = JSON.parse(decoder.decode(body));
      for (const [name, value] of Object.entries(sent)) {
        if (JSON.stringify(c[name]) !== JSON.stringify(value)) fail('signature', `the token belongs to another body: ${JSON.stringify(name)} differs`);
      }
      if (sent.type === undefined || sent.data === undefined) fail('token', 'the body is not an event');
      return;
    }
    const want = encoder.encode(c.body_sha256.toLowerCase());
    const match = async (bytes) => equal(want, encoder.encode(hex(await sha256(bytes))));
    if (await match(body)) return;
    for (const [bytes, why] of restored(body)) if (await match(bytes)) fail('signature', why);
    fail('signature', 'the token belongs to another body');
  }
}
