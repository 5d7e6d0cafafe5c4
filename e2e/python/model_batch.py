"""A batch of 100 rows on a real model: uploaded, called back, verified and read with the Python SDK.

It waits for the callback and never polls.
"""

import http.server
import json
import os
import sys

from google import genai
from google.genai import types
from standardwebhooks.webhooks import Webhook

client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=os.environ["RINGBACK_URL"]))
arrived = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        arrived.append((dict(self.headers.items()), self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
hook = client.webhooks.create(uri=f"http://127.0.0.1:{server.server_port}/", subscribed_events=["batch.succeeded", "batch.failed"])
with open(sys.argv[1], "w") as f:
    for i in range(100):
        row = {"contents": [{"parts": [{"text": f"Count on from {i}:"}]}], "generation_config": {"max_output_tokens": 8, "temperature": 0}}
        f.write(json.dumps({"key": f"request-{i}", "request": row}) + "\n")
source = client.files.upload(file=sys.argv[1], config={"mime_type": "jsonl"})
made = client.batches.create(model=os.environ["MODEL"], src=source.name, config={"display_name": "100 rows"})
server.handle_request()
headers, body = arrived[0]
event = Webhook(hook.new_signing_secret).verify(body, {k.lower(): v for k, v in headers.items()})
assert event["type"] == "batch.succeeded" and event["data"]["id"] == made.name, event
job = client.batches.get(name=made.name)
assert job.state.name == "JOB_STATE_SUCCEEDED", job
lines = [json.loads(line) for line in client.files.download(file=job.dest.file_name).decode().splitlines()]
assert [line["key"] for line in lines] == [f"request-{i}" for i in range(100)]
texts = [line["response"]["candidates"][0]["content"]["parts"][0]["text"] for line in lines]
assert all(texts), texts
print("verified", event["data"]["batch_stats"]["successful_request_count"], "rows, the last one:", json.dumps(texts[-1]))
