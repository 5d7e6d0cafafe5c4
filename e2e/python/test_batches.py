"""The files and batches calls of the Python SDK, made with the released package."""

import http.server
import io
import json
import os
import time

import pytest
from google import genai
from google.genai import errors, types
from standardwebhooks.webhooks import Webhook

URL = os.environ["RINGBACK_URL"]
MODEL = "gemini-3.6-flash"
OVER = {"JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"}


@pytest.fixture(scope="module")
def client():
    return genai.Client(api_key="any", http_options=types.HttpOptions(base_url=URL))


def ended(client, job):
    """Polls as the documents do, though quicker."""
    while job.state.name not in OVER:
        time.sleep(0.05)
        job = client.batches.get(name=job.name)
    return job


def test_files(client, tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("x" * (9 << 20))  # More than a chunk.
    made = client.files.upload(file=str(path), config={"display_name": "a poem", "mime_type": "text/plain"})
    assert made.state.name == "ACTIVE" and made.size_bytes == 9 << 20 and made.display_name == "a poem"
    small = client.files.upload(file=io.BytesIO(b"hello"), config={"mime_type": "text/plain"})
    assert client.files.get(name=small.name).uri == small.uri
    assert {made.name, small.name} <= {f.name for f in client.files.list(config={"page_size": 1})}
    assert client.files.download(file=small.name) == b"hello"
    assert client.files.download(file=made.name) == path.read_bytes()
    client.files.delete(name=made.name)
    client.files.delete(name=small.name)
    with pytest.raises(errors.ClientError) as e:
        client.files.get(name=made.name)
    assert e.value.code == 404


def test_batch_inline(client):
    arrived = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            arrived.append((dict(self.headers.items()), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    hook = client.webhooks.create(uri=f"http://127.0.0.1:{server.server_port}/", subscribed_events=["batch.succeeded"])
    made = client.batches.create(
        model=MODEL,
        src=[
            {"contents": [{"role": "user", "parts": [{"text": "one"}]}], "metadata": {"key": "k1"}},
            {"contents": [{"role": "user", "parts": []}], "metadata": {"key": "bad"}},
        ],
        config={"display_name": "inline"},
    )
    job = ended(client, made)
    assert job.state.name == "JOB_STATE_SUCCEEDED" and job.display_name == "inline"
    one, bad = job.dest.inlined_responses
    assert 'asked "one"' in one.response.text and bad.error.code == 3
    server.handle_request()
    headers, body = arrived[0]
    event = Webhook(hook.new_signing_secret).verify(body, {k.lower(): v for k, v in headers.items()})
    assert event["data"]["id"] == job.name and event["data"]["batch_stats"]["failed_request_count"] == 1
    client.webhooks.delete(id=hook.id)
    server.server_close()


def test_batch_from_file(client, tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"key": f"request-{i}", "request": {"contents": [{"parts": [{"text": f"number {i}"}]}]}} for i in range(50)]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    source = client.files.upload(file=str(path), config=types.UploadFileConfig(mime_type="jsonl"))
    job = ended(client, client.batches.create(model=MODEL, src=source.name))
    assert job.state.name == "JOB_STATE_SUCCEEDED" and job.model == "models/" + MODEL
    lines = [json.loads(line) for line in client.files.download(file=job.dest.file_name).decode().splitlines()]
    assert [line["key"] for line in lines] == [r["key"] for r in rows]
    assert '"number 49"' in lines[49]["response"]["candidates"][0]["content"]["parts"][0]["text"]
    assert job.name in [b.name for b in client.batches.list(config={"page_size": 1})]
    client.batches.delete(name=job.name)
    with pytest.raises(errors.ClientError) as e:
        client.batches.get(name=job.name)
    assert e.value.code == 404


def test_batch_cancel(client):
    made = client.batches.create(model="slow-model", src=[{"contents": [{"parts": [{"text": "x"}]}]}])
    client.batches.cancel(name=made.name)
    assert ended(client, made).state.name == "JOB_STATE_CANCELLED"


def test_batch_embeddings(client, tmp_path):
    made = client.batches.create_embeddings(
        model=MODEL, src={"inlined_requests": {"contents": ["a cat", "a dog"], "config": {"output_dimensionality": 8}}}
    )
    job = ended(client, made)
    responses = job.dest.inlined_embed_content_responses
    assert len(responses) == 2 and len(responses[0].response.embedding.values) == 8
    path = tmp_path / "embed.jsonl"
    path.write_text(json.dumps({"key": "e", "request": {"content": {"parts": [{"text": "a cat"}]}, "output_dimensionality": 8}}))
    source = client.files.upload(file=str(path), config={"mime_type": "jsonl"})
    file = ended(client, client.batches.create_embeddings(model=MODEL, src={"file_name": source.name}))
    line = json.loads(client.files.download(file=file.dest.file_name))
    assert line["key"] == "e" and len(line["response"]["embedding"]["values"]) == 8


def test_embed_content(client):
    one = client.models.embed_content(model=MODEL, contents="a cat", config={"output_dimensionality": 8})
    assert len(one.embeddings[0].values) == 8
    assert len(client.models.embed_content(model="gemini-embedding-001", contents=["a cat", "a dog"]).embeddings) == 2


def test_errors(client):
    with pytest.raises(errors.ClientError) as e:
        client.batches.create(model=MODEL, src="files/none")
    assert e.value.code == 404
