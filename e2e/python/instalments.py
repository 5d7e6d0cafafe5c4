"""Waits for a long interaction in the foreground, which the server answers by instalments, and prints how often it
had to ask again itself because the SDK did not."""

import json
import os

from google import genai
from google.genai import types

client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=os.environ["RINGBACK_URL"]))
question = {"model": "late-model", "input": "Take your time."}

got = client.interactions.create(**question)
again = 0
while got.status == "requires_continuation":
    # Releases that don't ask again don't know the fields either.
    more = {"previous_interaction_id": got.id, "continuation_token": got.model_dump()["continuation_token"]}
    got = client.interactions.create(**question, extra_body=more)
    again += 1
print(json.dumps({"again": again, "id": got.id, "status": got.status, "text": got.output_text, "previous": got.previous_interaction_id or ""}))
