"""Every call of the Python SDK that the server answers, made with the released package.

The test's caller gives the server in the environment.
"""

import http.server
import json
import os
import re
import threading

import pytest
from google import genai
from google.genai import errors, types
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

URL = os.environ["RINGBACK_URL"]
MODEL = "gemini-3.6-flash"
EVENTS = ["interaction.completed", "interaction.failed", "interaction.requires_action", "interaction.cancelled"]


class Receiver:
    """Keeps what arrives, and lets a test wait for it."""

    def __init__(self):
        self.arrived = []
        self.news = threading.Condition()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                with receiver.news:
                    receiver.arrived.append((dict(self.headers.items()), body, json.loads(body)))
                    receiver.news.notify_all()
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, want):
        def look():
            return next((c for c in self.arrived if want(c[2])), None)

        with self.news:
            assert self.news.wait_for(look, timeout=20), "no such callback arrived"
            return look()

    def wait_for(self, kind, job):
        return self.wait(lambda e: e["type"] == kind and e["data"]["id"] == job)


@pytest.fixture(scope="module")
def client():
    return genai.Client(api_key="any", http_options=types.HttpOptions(base_url=URL))


@pytest.fixture(scope="module")
def receiver():
    r = Receiver()
    yield r
    r.server.shutdown()


@pytest.fixture(scope="module")
def hook(client, receiver):
    w = client.webhooks.create(name="python", uri=receiver.uri, subscribed_events=EVENTS)
    yield w
    client.webhooks.delete(id=w.id)


def verify(secret, callback):
    """As the documents say, and with the habit of the cookbook: over the body parsed and printed again."""
    headers, body, event = callback
    headers = {k.lower(): v for k, v in headers.items()}
    assert Webhook(secret).verify(body, headers) == event
    again = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False)
    assert Webhook(secret).verify(again, headers) == event


def status_of(error):
    """The HTTP status of an SDK's error, whatever its class calls it."""
    return getattr(error, "status_code", None) or getattr(error, "code", None)


def test_webhooks_crud(client, hook):
    made = client.webhooks.create(name="MyHook", uri="https://example.com/cb", subscribed_events=["batch.succeeded", "video.generated"])
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made.new_signing_secret)
    assert made.state == "enabled"
    got = client.webhooks.get(id=made.id)
    assert got.uri == "https://example.com/cb" and got.new_signing_secret is None
    updated = client.webhooks.update(id=made.id, state="disabled", subscribed_events=["batch.failed"], update_mask="subscribed_events,state")
    assert (updated.state, updated.subscribed_events) == ("disabled", ["batch.failed"])
    seen, token = [], None
    while True:
        page = client.webhooks.list(page_size=1, **({"page_token": token} if token else {}))
        seen += [w.id for w in page.webhooks]
        token = page.next_page_token
        if not token:
            break
    assert {made.id, hook.id} <= set(seen) and len(set(seen)) == len(seen)
    client.webhooks.delete(id=made.id)
    with pytest.raises(Exception) as e:
        client.webhooks.get(id=made.id)
    assert status_of(e.value) == 404


def test_webhooks_ping(client, hook, receiver):
    client.webhooks.ping(id=hook.id)
    callback = receiver.wait(lambda e: e["type"] == "ping")
    assert callback[2]["data"] == {"id": hook.id}
    verify(hook.new_signing_secret, callback)


def test_webhooks_rotate(client):
    r = Receiver()
    w = client.webhooks.create(uri=r.uri, subscribed_events=EVENTS)
    second = client.webhooks.rotate_signing_secret(id=w.id, revocation_behavior="revoke_previous_secrets_after_h24").secret
    client.webhooks.ping(id=w.id)
    during = r.wait(lambda e: True)
    verify(w.new_signing_secret, during)
    verify(second, during)
    r.arrived.clear()
    third = client.webhooks.rotate_signing_secret(id=w.id, revocation_behavior="revoke_previous_secrets_immediately").secret
    client.webhooks.ping(id=w.id)
    after = r.wait(lambda e: True)
    verify(third, after)
    with pytest.raises(WebhookVerificationError):
        verify(second, after)
    client.webhooks.delete(id=w.id)
    r.server.shutdown()


def test_webhooks_errors(client):
    with pytest.raises(Exception) as e:
        client.webhooks.create(uri="https://example.com/", subscribed_events=["no.such"])
    assert status_of(e.value) == 400 and "interaction.completed" in str(e.value)
    with pytest.raises(Exception) as e:
        client.webhooks.create(uri="not a url", subscribed_events=EVENTS)
    assert status_of(e.value) == 400


def test_interaction_background(client, hook, receiver):
    made = client.interactions.create(model=MODEL, input="hi", background=True)
    assert made.status == "in_progress" and made.id.startswith("v1_")
    verify(hook.new_signing_secret, receiver.wait_for("interaction.completed", made.id))
    got = client.interactions.get(made.id)
    assert got.status == "completed" and "ringback emulator" in got.steps[-1].content[0].text
    assert got.usage.total_tokens > 0
    client.interactions.delete(made.id)
    with pytest.raises(Exception) as e:
        client.interactions.get(made.id)
    assert status_of(e.value) == 404


def test_interaction_foreground_and_next_turn(client):
    first = client.interactions.create(model=MODEL, input="My name is Ada.", system_instruction="be nice", generation_config={"temperature": 0.2})
    assert first.status == "completed" and "system instruction has 7 bytes" in first.steps[-1].content[0].text
    second = client.interactions.create(model=MODEL, input=[{"type": "text", "text": "And yours?"}], previous_interaction_id=first.id)
    assert second.previous_interaction_id == first.id and "turn 3" in second.steps[-1].content[0].text


def test_interaction_function_call(client, hook, receiver):
    tools = [{"type": "function", "name": "get_weather", "description": "d", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    first = client.interactions.create(model=MODEL, input="weather?", tools=tools)
    assert first.status == "requires_action"
    call = next(s for s in first.steps if s.type == "function_call")
    assert (call.name, call.arguments) == ("get_weather", {"city": "Paris"})
    verify(hook.new_signing_secret, receiver.wait_for("interaction.requires_action", first.id))
    second = client.interactions.create(
        model=MODEL, previous_interaction_id=first.id, tools=tools,
        input=[{"type": "function_result", "call_id": call.id, "name": call.name, "result": {"temp": 20}}])
    assert second.status == "completed" and "temp" in second.steps[-1].content[0].text


def test_interaction_cancel(client, hook, receiver):
    made = client.interactions.create(model="slow-model", input="take your time", background=True)
    assert client.interactions.cancel(made.id).status == "cancelled"
    verify(hook.new_signing_secret, receiver.wait_for("interaction.cancelled", made.id))
    with pytest.raises(Exception) as e:
        client.interactions.cancel(made.id)
    assert status_of(e.value) == 400


def test_interaction_failure(client, hook, receiver):
    made = client.interactions.create(model="fail-model", input="hi", background=True)
    callback = receiver.wait_for("interaction.failed", made.id)
    verify(hook.new_signing_secret, callback)
    assert callback[2]["data"]["error_code"] == "api_error"
    assert client.interactions.get(made.id).status == "failed"


def test_callback_survives_printing_again(client, hook, receiver):
    made = client.interactions.create(model="odd-model", input="hi", background=True)
    callback = receiver.wait_for("interaction.failed", made.id)
    assert callback[2]["data"]["error_message"] == '<b> & "q" \\ / \t\n\x01\x7f é 😀 \u2028\u2029'
    verify(hook.new_signing_secret, callback)


def test_wrong_key():
    bad = genai.Client(api_key="wrong", http_options=types.HttpOptions(base_url=os.environ["RINGBACK_STRICT_URL"]))
    for call in (lambda: bad.webhooks.list(), lambda: bad.interactions.create(model=MODEL, input="hi")):
        with pytest.raises(Exception) as e:
            call()
        assert status_of(e.value) == 401 and type(e.value).__name__ == "AuthenticationError"
    with pytest.raises(errors.ClientError) as e:
        bad.models.generate_content(model=MODEL, contents="hi")
    assert e.value.code == 400 and "API key not valid" in e.value.message


def test_interaction_errors(client):
    for call in (lambda: client.interactions.get("v1_nosuch"), lambda: client.interactions.delete("v1_nosuch")):
        with pytest.raises(Exception) as e:
            call()
        assert status_of(e.value) == 404


def test_models(client):
    assert "models/ringback-emulator" in [m.name for m in client.models.list(config={"page_size": 5})]
    assert client.models.get(model="ringback-emulator").name == "models/ringback-emulator"
    answer = client.models.generate_content(model=MODEL, contents="hi", config={"system_instruction": "be nice", "temperature": 0.5})
    assert "ringback emulator" in answer.text and answer.usage_metadata.total_token_count > 0
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="hi"))
    assert "ringback emulator" in "".join(c.text or "" for c in chunks)
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert client.models.count_tokens(model=MODEL, contents="twelve chars").total_tokens == 3


def test_models_functions_json_errors(client):
    f = types.FunctionDeclaration(name="f", parameters_json_schema={"type": "object", "properties": {"a": {"type": "integer"}}})
    called = client.models.generate_content(model=MODEL, contents="hi", config=types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[f])],
        tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY", allowed_function_names=["f"])),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)))
    assert (called.function_calls[0].name, called.function_calls[0].args) == ("f", {"a": 1})
    answer = client.models.generate_content(model=MODEL, contents="hi", config={
        "response_mime_type": "application/json", "response_schema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}})
    assert isinstance(json.loads(answer.text)["a"], str)
    with pytest.raises(errors.ServerError) as e:
        client.models.generate_content(model="fail-model", contents="hi")
    assert e.value.code == 500 and "not reachable" in e.value.message
