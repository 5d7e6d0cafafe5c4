import base64
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from ringback_webhook import Verifier, WebhookError  # noqa: E402

VECTORS = json.loads((ROOT / "../../webhook/testdata/vectors.json").read_text("utf-8"))["vectors"]


def headers_of(v):
    return {"webhook-id": v["id"], "Webhook-Timestamp": v["timestamp"], "webhook-signature": v["signature"]}


def verifier_of(v, **more):
    given = {
        "secrets": v.get("secrets"),
        "public_keys": v.get("public_keys"),
        "jwks": v.get("jwks"),
        "audience": v.get("audience"),
        "issuer": v.get("issuer"),
        "now": lambda: v["now"],
    }
    return Verifier(**{**given, **more})


def named(name):
    return next(v for v in VECTORS if v["name"] == name)


class TestVectors(unittest.TestCase):
    def test_vectors(self):
        self.assertGreaterEqual(len(VECTORS), 70)
        for v in VECTORS:
            with self.subTest(v["name"]):
                verify = lambda: verifier_of(v).verify(headers_of(v), v["body"].encode())  # noqa: E731
                if v["error"]:
                    with self.assertRaises(WebhookError) as caught:
                        verify()
                    self.assertEqual(caught.exception.reason, v["error"], str(caught.exception))
                else:
                    m = verify()
                    self.assertEqual((m.id, int(m.timestamp.timestamp())), (v["id"], int(v["timestamp"])))

    def test_no_byte_can_change(self):
        for v in (named("jwt"), named("v1a"), VECTORS[0]):
            body = v["body"].encode()
            for i in range(0, len(body), 7):
                changed = body[:i] + bytes([body[i] ^ 1]) + body[i + 1 :]
                with self.assertRaises(WebhookError) as caught:
                    verifier_of(v).verify(headers_of(v), changed)
                self.assertEqual(caught.exception.reason, "signature")
            s = v["signature"]
            for i in range(5, len(s), 11):
                changed = s[:i] + ("B" if s[i] == "A" else "A") + s[i + 1 :]
                with self.assertRaises(WebhookError):
                    verifier_of(v).verify({**headers_of(v), "webhook-signature": changed}, body)

    def test_forgers_cause_no_other_error(self):
        deep = b" " + b"[" * 20_000 + b"]" * 20_000
        for name in ("jwt", "v1a"):
            v = named(name)
            given = headers_of(v)
            for headers, body in (
                ({**given, "webhook-id": "msg_x"}, deep),
                ({**given, "webhook-id": "msg_\ud800"}, v["body"].encode()),
                ({**given, "webhook-signature": "eyJhbGciOiJSUzI1NiIsImtpZCI6InRlc3QifQ.\ud800.AAAA"}, v["body"].encode()),
                ({**given, "webhook-signature": base64.urlsafe_b64encode(deep).decode().strip("=") + ".e30.AAAA"}, b"{}"),
            ):
                with self.assertRaises(WebhookError):
                    verifier_of(v).verify(headers, body)

    def test_misuse(self):
        v = named("v1a")
        with self.assertRaises(TypeError):
            verifier_of(v).verify(headers_of(v), v["body"])
        for bad in ({"secrets": "whsec_short"}, {"public_keys": "whpk_short"}, {"jwks": "http://keys.example/jwks.json"}, {"jwks": {"keys": 7}}):
            with self.assertRaises(ValueError):
                Verifier(**bad)
        self.assertEqual(verifier_of(v).verify(list(headers_of(v).items()), v["body"].encode()).event["data"]["id"], "v1_abc")


class TestKeySet(unittest.TestCase):
    def test_kept_refreshed_and_stale(self):
        v, unknown = named("jwt"), named("jwt: unknown kid")
        state = {"fetched": 0, "now": v["now"], "down": False}

        def fetch(url):
            state["fetched"] += 1
            if state["down"]:
                raise OSError("it is down")
            return json.dumps(v["jwks"]).encode(), ""

        verifier = verifier_of(v, jwks="https://sender.example/jwks.json", now=lambda: state["now"], tolerance=10**6, fetch=fetch)
        verify = lambda: verifier.verify(headers_of(v), v["body"].encode())  # noqa: E731
        threads = [threading.Thread(target=verify) for _ in range(20)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        self.assertEqual(state["fetched"], 1)
        state["now"] += 60
        for _ in range(10):
            with self.assertRaises(WebhookError) as caught:
                verifier.verify(headers_of(unknown), unknown["body"].encode())
            self.assertEqual(caught.exception.reason, "unknown key")
        self.assertEqual(state["fetched"], 2)
        state["down"] = True
        state["now"] += 3600
        verify()
        self.assertEqual(state["fetched"], 3)
        state["now"] += 86400
        with self.assertRaises(WebhookError) as caught:
            verify()
        self.assertEqual(caught.exception.reason, "key set")

    def test_what_a_secret_verifies_needs_no_key_set(self):
        good = lambda prefix: next(v for v in VECTORS if not v.get("error") and v["signature"].startswith(prefix) and " " not in v["signature"])  # noqa: E731
        v1, v1a = good("v1,"), good("v1a,")
        verifier = verifier_of(v1, jwks="http://127.0.0.1:1/jwks.json")
        headers = {**headers_of(v1), "webhook-signature": v1a["signature"] + " " + v1["signature"]}
        self.assertEqual(verifier.verify(headers, v1["body"].encode()).scheme, "v1")

    def test_redirects_are_not_followed(self):
        v = named("jwt")

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(302 if self.path == "/jwks" else 200)
                self.send_header("location", "/other")
                self.end_headers()
                self.wfile.write(json.dumps(v["jwks"]).encode())

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = lambda path: verifier_of(v, jwks=f"http://127.0.0.1:{server.server_port}{path}").verify(headers_of(v), v["body"].encode())  # noqa: E731
        with self.assertRaises(WebhookError) as caught:
            at("/jwks")
        self.assertEqual(caught.exception.reason, "key set")
        self.assertEqual(at("/other").scheme, "jwt")
        server.shutdown()
        server.server_close()


class TestReadme(unittest.TestCase):
    def test_sample(self):
        source = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL).group(1)
        source = source.replace(
            'http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler).serve_forever()',
            's = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler); print(s.server_port, flush=True); s.serve_forever()',
        )
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "WEBHOOK_SECRET": secret, "RINGBACK_URL": "http://127.0.0.1:1"}
        with subprocess.Popen([sys.executable, "-c", source], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            try:
                port = int(child.stdout.readline())
                body, stamp = b'{"type":"ping","data":{"id":"x"}}', str(int(time.time()))
                mac = base64.b64encode(hmac.new(base64.b64decode(secret[6:]), b"msg_1." + stamp.encode() + b"." + body, hashlib.sha256).digest()).decode()

                def post(signature):
                    headers = {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": signature}
                    try:
                        return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/", body, headers)).status
                    except urllib.error.HTTPError as err:
                        err.close()
                        return err.code

                self.assertEqual(post("v1," + mac), 204)
                self.assertEqual(post("v1," + ("B" if mac[0] == "A" else "A") + mac[1:]), 401)
            finally:
                child.kill()


if __name__ == "__main__":
    unittest.main()
