"""Callbacks to the addresses of a request, verified as Google's documents do, with PyJWT."""

import hashlib
import os

import jwt
import pytest
from google import genai
from google.genai import types
from test_sdk import Receiver

URL = os.environ["RINGBACK_URL"]
JWKS_URI = URL + "/.well-known/jwks.json"


@pytest.fixture(scope="module")
def receiver():
    r = Receiver()
    yield r
    r.server.shutdown()


def test_dynamic_webhook(receiver):
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=URL))
    job = client.interactions.create(
        model="gemini-3.6-flash",
        input="Tell me about callbacks.",
        background=True,
        webhook_config={"uris": [receiver.uri], "user_metadata": {"job_group": "nightly-eval"}},
    )
    headers, body, event = receiver.wait_for("interaction.completed", job.id)
    headers = {k.lower(): v for k, v in headers.items()}
    token = headers["webhook-signature"]

    # As in the documents.
    signing_key = jwt.PyJWKClient(JWKS_URI).get_signing_key_from_jwt(token)
    decoded = jwt.decode(token, signing_key.key, algorithms=["RS256"], audience=receiver.uri)
    assert decoded["type"] == "interaction.completed"
    assert decoded["data"]["id"] == job.id
    assert decoded["user_metadata"] == {"job_group": "nightly-eval"}

    # What binds the token to this delivery.
    assert decoded["jti"] == headers["webhook-id"]
    assert decoded["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert decoded["iss"] == URL
    assert {k: decoded[k] for k in event} == event
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(token, signing_key.key, algorithms=["RS256"], audience="https://another.example/")
