"""The video calls of the Python SDK, made with the released package.

Version 3 refuses them on its own side; this file runs with version 2.
"""

import http.server
import json
import os
import re
import time

import pytest
from google import genai
from google.genai import errors, types
from standardwebhooks.webhooks import Webhook

URL = os.environ["RINGBACK_URL"]
MODEL = "veo-3.1-generate-preview"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture(scope="module")
def client():
    return genai.Client(api_key="any", http_options=types.HttpOptions(base_url=URL))


@pytest.fixture
def receiver():
    """An address and the callbacks that arrive there."""
    arrived = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            arrived.append((dict(self.headers.items()), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)

    def callback():
        server.handle_request()
        return arrived[-1]

    yield f"http://127.0.0.1:{server.server_port}/", callback
    server.server_close()


def ended(client, operation):
    """Polls as the documents do, though quicker."""
    while not operation.done:
        time.sleep(0.05)
        operation = client.operations.get(operation)
    return operation


def test_videos(client, receiver, tmp_path):
    uri, callback = receiver
    hook = client.webhooks.create(uri=uri, subscribed_events=["video.generated"])
    made = client.models.generate_videos(
        model=MODEL,
        source=types.GenerateVideosSource(prompt="a cat"),
        config=types.GenerateVideosConfig(number_of_videos=2, aspect_ratio="9:16", duration_seconds=8, negative_prompt="dogs"),
    )
    assert re.fullmatch(f"models/{MODEL}/operations/[a-z0-9]+", made.name)
    operation = ended(client, made)
    assert operation.error is None and len(operation.response.generated_videos) == 2
    first, second = operation.response.generated_videos
    data = client.files.download(file=first)
    assert data[4:8] == b"ftyp" and b'was asked "a cat" (video 1 of 2' in data and b"No model ran." in data
    first.video.save(str(tmp_path / "cat.mp4"))
    assert (tmp_path / "cat.mp4").read_bytes() == data
    assert client.files.download(file=second.video) != data
    headers, body = callback()
    event = Webhook(hook.new_signing_secret).verify(body, {k.lower(): v for k, v in headers.items()})
    assert event["type"] == "video.generated" and event["data"]["id"] == operation.name
    assert event["data"]["output_file_uri"] == event["data"]["video_uri"] == first.video.uri
    file = client.files.get(name=event["data"]["file_name"])
    assert (file.source.name, file.mime_type, file.video_metadata["videoDuration"]) == ("GENERATED", "video/mp4", "4s")
    assert client.files.download(file=file) == data
    client.webhooks.delete(id=hook.id)


def test_video_of_images(client):
    image = types.Image(image_bytes=PNG, mime_type="image/png")
    config = types.GenerateVideosConfig(
        last_frame=image,
        reference_images=[types.VideoGenerationReferenceImage(image=image, reference_type="ASSET")],
    )
    operation = ended(client, client.models.generate_videos(model=MODEL, prompt="a cat", image=image, config=config))
    video = operation.response.generated_videos[0].video
    longer = ended(client, client.models.generate_videos(model=MODEL, source=types.GenerateVideosSource(prompt="on", video=video)))
    assert longer.error is None and len(longer.response.generated_videos) == 1
    client.files.download(file=video)  # Its bytes are in it now, and go along.
    whole = types.Video(video_bytes=video.video_bytes, mime_type="video/mp4")
    again = ended(client, client.models.generate_videos(model=MODEL, source=types.GenerateVideosSource(prompt="on", video=whole)))
    assert again.error is None


def test_video_failures(client):
    failed = ended(client, client.models.generate_videos(model="fail-veo", prompt="a cat"))
    assert failed.error == {"code": 13, "message": "the model is not reachable"} and failed.response is None
    filtered = ended(client, client.models.generate_videos(model=MODEL, prompt="somebody famous"))
    assert filtered.error is None and filtered.response.rai_media_filtered_count == 1
    assert filtered.response.rai_media_filtered_reasons == ["it shows a real person"]
    with pytest.raises(errors.ClientError) as e:
        client.models.generate_videos(model=MODEL, prompt="a cat", config={"number_of_videos": 5})
    assert e.value.code == 400 and "sampleCount" in e.value.message
    with pytest.raises(errors.ClientError) as e:
        client.operations.get(types.GenerateVideosOperation(name=f"models/{MODEL}/operations/none"))
    assert e.value.code == 404


def test_video_receiver_of_the_request(client, receiver):
    uri, callback = receiver
    config = types.GenerateVideosConfig(webhook_config={"uris": [uri], "user_metadata": {"reel": "7"}})
    made = client.models.generate_videos(model=MODEL, prompt="a cat", config=config)
    headers, body = callback()
    event = json.loads(body)
    assert (event["type"], event["data"]["id"], event["user_metadata"]) == ("video.generated", made.name, {"reel": "7"})
    assert len({k.lower(): v for k, v in headers.items()}["webhook-signature"].split(".")) == 3  # test_dynamic.py verifies tokens.
