"""Verifies callbacks after Standard Webhooks 1.0.0 (schemes v1 and v1a), and the JWTs that the Gemini API documents for
per-request webhooks.

It does what the Go package ringback.dev/webhook does, and both are tested against the same vectors. v1 needs the standard
library alone; v1a and JWT need ``cryptography``.
"""

import base64
import binascii
import dataclasses
import datetime
import hashlib
import hmac
import json
import re
import threading
import time
import typing
import urllib.parse
import urllib.request

__all__ = ["Message", "Verifier", "WebhookError"]

DEFAULT_TOLERANCE = 300
_MAX_SIGNATURES = 32
_MAX_V1A = 8  # Each costs a hash of the body for each key.
_MAX_HINT = 64 * 1024  # No reason is searched for larger bodies.
_MAX_TOKEN = 64 * 1024
_MAX_KEYS = 100
_MAX_KEY_SET = 1 << 20
_DEFAULT_AGE, _MIN_AGE, _MAX_AGE, _REFRESH_EVERY, _STALE_AGE = 300, 60, 3600, 30, 86400


class WebhookError(Exception):
    """A message was refused. ``reason`` is one of: header, timestamp, signature, "no key", token, audience,
    "unknown key", "key set"; the text says why. Answer 503 to "key set", so that the sender comes again, and 401 to
    the others."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Message:
    """A verified message. ``id`` is the same on every retry: act once per id."""

    id: str
    timestamp: datetime.datetime
    scheme: str
    body: bytes
    event: typing.Any  # The body as JSON; None if it is not JSON.


def _b64(text: str) -> typing.Optional[bytes]:
    """Strict standard base64 with padding."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _b64url(text: typing.Any) -> typing.Optional[bytes]:
    """Strict base64url without padding (RFC 7515 §2)."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        return None
    return _b64(text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4))


def _utf8(text: str) -> bytes:
    """Text of a message as bytes; half a surrogate pair in it is no error, and matches nothing."""
    return text.encode("utf-8", "surrogatepass")


def _secret(text: str) -> bytes:
    key = _b64(text[6:] if text.startswith("whsec_") else text)
    if key is None or not 24 <= len(key) <= 64:
        raise ValueError('a secret must be "whsec_" and the base64 of 24 to 64 bytes')
    return key


def _public(text: str) -> typing.Any:
    key = _b64(text[5:] if text.startswith("whpk_") else text)
    if key is None or len(key) != 32:
        raise ValueError('a public key must be "whpk_" and the base64 of 32 bytes')
    return _ed25519(key)


def _ed25519(key: bytes) -> typing.Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(key)


def _verify_ed25519(key: typing.Any, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _verify_rs256(key: typing.Any, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    try:
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _restored(body: bytes) -> typing.Iterator[typing.Tuple[bytes, str]]:
    """What a body was before somebody printed it anew, and what to say about it."""
    if len(body) > _MAX_HINT:
        return
    try:
        text = body.decode("utf-8")
        json.loads(text)
        compact = re.sub(r'("(?:[^"\\]|\\.)*")|\s+', lambda m: m.group(1) or "", text)
        if compact != text:
            yield compact.encode(), (
                "the body was re-serialised on the way: it matches once its white space is removed; verify the raw bytes as received"
            )
    except (ValueError, RecursionError):
        pass
    if body.strip() != body:
        yield body.strip(), "white space was added around the body; verify the raw bytes as received"


def _parse_keys(keys: typing.Any) -> typing.List[typing.Tuple[typing.Any, str, typing.Any]]:
    """Reads a JWKS (RFC 7517) into (kid, kind, key). Keys for other uses, of other kinds or malformed are passed over."""
    if not isinstance(keys, dict) or not isinstance(keys.get("keys") or [], list):
        raise ValueError("it is not a JWKS")
    listed = keys.get("keys") or []
    if len(listed) > _MAX_KEYS:
        raise ValueError(f"the set has {len(listed)} keys, at most {_MAX_KEYS} are allowed")
    found = []
    for k in listed:
        if not isinstance(k, dict):
            continue
        if any(name in k for name in ("d", "p", "k")):
            raise ValueError("a key of the set is private or symmetric")
        if k.get("use") not in (None, "", "sig") or (k.get("key_ops") and "verify" not in k["key_ops"]):
            continue
        if k.get("kty") == "RSA" and k.get("alg") in (None, "", "RS256"):
            n, e = _b64url(k.get("n")), _b64url(k.get("e"))
            if n is None or e is None:
                continue
            modulus, exponent = int.from_bytes(n, "big"), int.from_bytes(e, "big")
            if exponent.bit_length() > 31 or not 2048 <= modulus.bit_length() <= 8192 or exponent < 3 or exponent % 2 == 0:
                continue  # Weak keys verify nothing.
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

            found.append((k.get("kid"), "rsa", RSAPublicNumbers(exponent, modulus).public_key()))
        elif k.get("kty") == "OKP" and k.get("crv") == "Ed25519" and k.get("alg") in (None, "", "EdDSA", "Ed25519"):
            x = _b64url(k.get("x"))
            if x is not None and len(x) == 32:
                found.append((k.get("kid"), "ed25519", _ed25519(x)))
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: typing.Any) -> None:
        return None


def _fetch(url: str) -> typing.Tuple[bytes, str]:
    """Gets the set and its Cache-Control."""
    with urllib.request.build_opener(_NoRedirect).open(url, timeout=10) as answer:
        if answer.status != 200:
            raise OSError(f"it was answered with {answer.status}")
        return answer.read(_MAX_KEY_SET + 1), answer.headers.get("cache-control", "")


class _KeySet:
    """A sender's published keys, fetched when first needed and kept for a while. No key is taken from a message."""

    def __init__(self, source: typing.Any, now: typing.Callable[[], float], fetch: typing.Callable[[str], typing.Tuple[bytes, str]]):
        self.now, self.get = now, fetch
        self.url = None
        self.keys: typing.List[typing.Tuple[typing.Any, str, typing.Any]] = []
        self.fetched: typing.Optional[float] = None
        self.until = 0.0
        self.tried: typing.Optional[float] = None
        self.failed: typing.Optional[Exception] = None
        self.lock = threading.Lock()  # Held while the set is fetched: one fetches, the others wait.
        if isinstance(source, str):
            u = urllib.parse.urlsplit(source)
            if u.scheme != "https" and not (u.scheme == "http" and u.hostname in ("localhost", "127.0.0.1", "::1")):
                raise ValueError("the address of the key set must begin with https://")
            self.url = source
        else:
            self.keys = _parse_keys(source)

    def current(self, wanted: bool) -> typing.List[typing.Tuple[typing.Any, str, typing.Any]]:
        if self.url is None:
            return self.keys
        with self.lock:
            now = self.now()
            old = now >= self.until or (self.fetched is not None and now < self.fetched)
            recent = self.tried is not None and 0 <= now - self.tried < _REFRESH_EVERY
            if (old or wanted) and not recent:
                self.tried = now
                try:
                    data, cache = self.get(self.url)
                    if len(data) > _MAX_KEY_SET:
                        raise ValueError("it is too large")
                    self.keys = _parse_keys(json.loads(data))
                    age = re.search(r'(?:^|,)\s*max-age="?(\d{1,9})', cache, re.IGNORECASE)
                    self.fetched = now
                    self.until = now + (min(max(int(age.group(1)), _MIN_AGE), _MAX_AGE) if age else _DEFAULT_AGE)
                except (OSError, ValueError, RecursionError) as err:
                    self.failed = err
            if self.fetched is None or now - self.fetched > _STALE_AGE:
                raise WebhookError("key set", f"the key set can't be had: {self.failed}")
            return self.keys

    def rsa(self, kid: str) -> typing.List[typing.Any]:
        for wanted in (False, True):
            keys = self.current(wanted)
            found = [key for name, kind, key in keys if kind == "rsa" and name == kid]
            if found or self.url is None:
                break
        if not found:
            raise WebhookError("unknown key", f"the token's key {kid!r} is not among the {len(keys)} keys of the set")
        return found

    def ed25519(self) -> typing.List[typing.Any]:
        return [key for _, kind, key in self.current(False) if kind == "ed25519"]


def _many(value: typing.Union[None, str, typing.Iterable[str]]) -> typing.List[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


class Verifier:
    """Verifies messages. What may sign a message is what is given here; nothing of the message itself is trusted to say so.

    secrets: signing secrets, "whsec_…" (v1), several during a rotation. public_keys: "whpk_…" (v1a). jwks: address of the
    sender's key set, or the set as a dict. audience: names by which the receiver is known, usually its address; a JWT must
    be meant for one. issuer: must have issued a JWT. allow_unbound: accept a JWT without body_sha256 whose event equals the
    body. tolerance: seconds that a message may be old or in the future. It may be used by any number of threads.
    """

    def __init__(
        self,
        secrets: typing.Union[None, str, typing.Iterable[str]] = None,
        public_keys: typing.Union[None, str, typing.Iterable[str]] = None,
        jwks: typing.Union[None, str, dict] = None,
        audience: typing.Union[None, str, typing.Iterable[str]] = None,
        issuer: typing.Optional[str] = None,
        allow_unbound: bool = False,
        tolerance: int = DEFAULT_TOLERANCE,
        now: typing.Callable[[], float] = time.time,
        fetch: typing.Callable[[str], typing.Tuple[bytes, str]] = _fetch,
    ):
        self._secrets = [_secret(s) for s in _many(secrets)]
        self._public_keys = [_public(k) for k in _many(public_keys)]
        self._keys = None if jwks is None else _KeySet(jwks, now, fetch)
        self._audience = _many(audience)
        self._issuer, self._allow_unbound, self._tolerance, self._now = issuer, allow_unbound, tolerance, now

    def verify(self, headers: typing.Any, body: bytes) -> Message:
        """Verifies the raw body as received. Raises WebhookError."""
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise TypeError("the body must be the raw bytes as received")
        body = bytes(body)
        pairs = headers.items() if hasattr(headers, "items") else headers
        given: typing.Dict[str, typing.List[str]] = {}
        for name, value in pairs:
            given.setdefault(name.lower(), []).append(value)
        values = [" ".join(given.get(name, [])) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")]
        for name, value in zip(("webhook-id", "webhook-timestamp", "webhook-signature"), values):
            if not value:
                raise WebhookError("header", f"missing header: {name}")
        id, stamp, signature = values
        at = self._timestamp(stamp)
        scheme = "jwt"
        if signature.count(".") == 2 and not re.search("[ ,]", signature):
            self._token(signature, id, body)
        else:
            scheme = self._signatures(signature, _utf8(f"{id}.{at}."), body)
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            event = None  # Verified, but not JSON.
        return Message(id, datetime.datetime.fromtimestamp(at, datetime.timezone.utc), scheme, body, event)

    def _timestamp(self, text: str) -> int:
        if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text, re.ASCII):
            raise WebhookError("timestamp", "webhook-timestamp must be Unix seconds as a decimal integer")
        age = int(self._now()) - int(text)
        if age > self._tolerance:
            raise WebhookError("timestamp", f"the message is {age} s old, {self._tolerance} s is allowed")
        if age < -self._tolerance:
            raise WebhookError("timestamp", f"the message is {-age} s in the future, {self._tolerance} s is allowed; compare the clocks")
        return int(text)

    def _signatures(self, text: str, prefix: bytes, body: bytes) -> str:
        v1, v1a = [], []
        for token in text.split(" "):
            if len(v1) + len(v1a) == _MAX_SIGNATURES:
                break
            scheme, _, encoded = token.partition(",")
            data = _b64(encoded)
            if scheme == "v1" and data is not None and len(data) == 32:
                v1.append(data)
            elif scheme == "v1a" and data is not None and len(data) == 64 and len(v1a) < _MAX_V1A:
                v1a.append(data)
        keys = list(self._public_keys)

        def match(content: bytes) -> str:
            matched = ""
            for key in keys:
                for signature in v1a:
                    if _verify_ed25519(key, signature, prefix + content):
                        matched = "v1a"
            for secret in self._secrets:
                want = hmac.new(secret, prefix + content, hashlib.sha256).digest()
                for mac in v1:
                    if hmac.compare_digest(want, mac):
                        matched = "v1"
            return matched

        # What is at hand comes first: a message that it verifies needs no key set, and must not fail because
        # that can't be had.
        scheme = match(body)
        if not scheme and v1a and self._keys is not None:
            keys = self._keys.ed25519() + keys
            scheme = match(body)
        if scheme:
            return scheme
        if not v1 and not v1a:
            raise WebhookError("signature", "webhook-signature holds no well-formed v1 or v1a signature")
        if not v1 and not keys:
            raise WebhookError("no key", "the message is signed with v1a; the verifier has no public key")
        if not v1a and not self._secrets:
            raise WebhookError("no key", "the message is signed with v1; the verifier has no secret")
        for content, why in _restored(body):
            if match(content):
                raise WebhookError("signature", why)
        raise WebhookError("signature", "wrong secret or key, or the id, timestamp or body was changed on the way")

    def _token(self, token: str, id: str, body: bytes) -> None:
        if self._keys is None:
            raise WebhookError("no key", "the message is signed with a JWT; the verifier has no key set")
        if not self._audience:
            raise WebhookError("no key", "the message is signed with a JWT; the verifier has no audience to compare")
        if len(token) > _MAX_TOKEN:
            raise WebhookError("token", "the token is too large")

        def decode(part: str) -> typing.Optional[dict]:
            data = _b64url(part)
            try:
                value = json.loads(data) if data is not None else None
            except (ValueError, RecursionError):
                return None
            return value if isinstance(value, dict) else None

        head, payload, sig = token.split(".")
        h = decode(head)
        if h is None or not isinstance(h.get("kid", ""), str):
            raise WebhookError("token", "the token's header is malformed")
        if h.get("alg") != "RS256":
            raise WebhookError("token", f"the token is signed with {h.get('alg')!r}; only RS256 is accepted")
        if "crit" in h:
            raise WebhookError("token", "the token has critical extensions")
        if not h.get("kid"):
            raise WebhookError("unknown key", "the token names no key (kid)")
        signature = _b64url(sig)
        if signature is None:
            raise WebhookError("token", "the token's signature is malformed")
        signed = _utf8(f"{head}.{payload}")
        if not any([_verify_rs256(key, signature, signed) for key in self._keys.rsa(h["kid"])]):
            raise WebhookError("signature", f"the token's signature is not by key {h['kid']!r}, or the token was changed")
        # From here on the sender is known; what can be wrong is what it is about.
        c = decode(payload)
        if c is None:
            raise WebhookError("token", "the token's claims are malformed")
        self._claims(c, id)
        self._bound(c, body)

    def _claims(self, c: dict, id: str) -> None:
        if self._issuer and c.get("iss") != self._issuer:
            raise WebhookError("token", f"the token was issued by {c.get('iss')!r}, not {self._issuer!r}")
        audience = [c["aud"]] if isinstance(c.get("aud"), str) else c.get("aud")
        if not isinstance(audience, list) or not audience:
            raise WebhookError("audience", "the token names no audience")
        if not any(a in self._audience for a in audience):
            raise WebhookError("audience", f"the token is meant for {audience}, the verifier expects {self._audience}")
        now = int(self._now())

        def date(v: typing.Any) -> bool:
            return isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v < 2**40

        if not date(c.get("iat")) or not date(c.get("exp")):
            raise WebhookError("token", "iat or exp is missing or malformed")
        if now > int(c["exp"]) + self._tolerance:
            raise WebhookError("timestamp", f"the token expired {now - c['exp']} s ago")
        if c["iat"] > now + self._tolerance:
            raise WebhookError("timestamp", f"the token was issued {c['iat'] - now} s in the future; compare the clocks")
        if "nbf" in c and (not date(c["nbf"]) or c["nbf"] > now + self._tolerance):
            raise WebhookError("timestamp", "the token is not valid yet")
        if not isinstance(c.get("jti"), str) or not hmac.compare_digest(_utf8(c["jti"]), _utf8(id)):
            raise WebhookError("token", f"the token is about message {c.get('jti')!r}, webhook-id says {id!r}")

    def _bound(self, c: dict, body: bytes) -> None:
        want = c.get("body_sha256")
        if not isinstance(want, str):
            if not self._allow_unbound:
                raise WebhookError("token", "the token has no body_sha256, so anybody could put another body beside it")
            try:
                sent = json.loads(body)
            except (ValueError, RecursionError):
                sent = None
            if not isinstance(sent, dict) or "type" not in sent or "data" not in sent:
                raise WebhookError("token", "the body is not an event")
            for name, value in sent.items():
                if c.get(name) != value:
                    raise WebhookError("signature", f"the token belongs to another body: {name!r} differs")
            return

        def match(content: bytes) -> bool:
            return hmac.compare_digest(_utf8(want.lower()), hashlib.sha256(content).hexdigest().encode())

        if match(body):
            return
        for content, why in _restored(body):
            if match(content):
                raise WebhookError("signature", why)
        raise WebhookError("signature", "the token belongs to another body")
