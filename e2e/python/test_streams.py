"""The streaming calls of the Python SDK, made with the released package."""

import asyncio
import base64
import io
import json
import os

import pytest
from google import genai
from google.genai import types
from test_sdk import status_of

URL = os.environ["RINGBACK_URL"]
MODEL = "gemini-3.6-flash"
FIRST = ["interaction.created", "interaction.status_update"]
TOOLS = [
    {"type": "function", "name": name, "description": "d", "parameters": {"type": "object", "properties": {}}}
    for name in ("get_weather", "get_time")
]


@pytest.fixture(scope="module")
def client():
    return genai.Client(api_key="any", http_options=types.HttpOptions(base_url=URL))


def create(client, **params):
    return client.interactions.create(**{"model": MODEL, "stream": True, **params})


def resume(client, id, last=None):
    return client.interactions.get(id, stream=True, **({"last_event_id": last} if last else {}))


def read(stream, enough=lambda e: False):
    """Reads a stream to its end, or until enough is true of an event; then its connection is closed."""
    events = []
    with stream:
        for event in stream:
            events.append(event)
            if enough(event):
                break
    return events


def said(event):
    return event.event_type == "step.delta"


def text(events):
    return "".join(e.delta.text for e in events if said(e) and e.delta.type == "text")


def plain(x):
    return x.model_dump(mode="json", by_alias=True, exclude_none=True)


def whole(events, status):
    """Checks what all whole streams have in common and returns the interaction's id."""
    assert [e.event_id for e in events] == [f"e{i + 1}" for i in range(len(events))]
    assert [e.event_type for e in events][:2] == FIRST
    assert (events[0].interaction.status, events[1].status) == ("in_progress", "in_progress")
    assert [e.event_type for e in events].count("interaction.completed") == 1
    last = events[-1]
    assert (last.event_type, last.interaction.status) == ("interaction.completed", status)
    assert events[0].interaction.id == events[1].interaction_id == last.interaction.id
    return last.interaction.id


def append(items, content):
    """Text goes on with the text before it."""
    if content["type"] == "text" and items and items[-1]["type"] == "text":
        items[-1]["text"] += content["text"]
    else:
        items.append(dict(content))


def steps(events):
    """The steps that the events of a stream add up to."""
    every, open_ = [], set()
    for e in map(plain, events):
        if e["event_type"] == "step.start":
            assert e["index"] == len(every) and "content" not in e["step"]
            every.append(e["step"])
            open_.add(e["index"])
        elif e["event_type"] == "step.delta":
            assert e["index"] in open_
            step, d = every[e["index"]], e["delta"]
            if d["type"] == "arguments_delta":
                step["arguments"] = (step["arguments"] or "") + d["arguments"]
            elif d["type"] == "thought_signature":
                step["signature"] = d["signature"]
            else:
                append(step.setdefault("summary" if d["type"] == "thought_summary" else "content", []), d.get("content", d))
        elif e["event_type"] == "step.stop":
            open_.remove(e["index"])
            if isinstance(every[e["index"]].get("arguments"), str):
                every[e["index"]]["arguments"] = json.loads(every[e["index"]]["arguments"])
    assert not open_
    return every


def stored(client, events, status):
    """A whole stream says what is stored, and says it again in the same words."""
    id = whole(events, status)
    got = client.interactions.get(id)
    assert got.status == status
    assert steps(events) == [plain(s) for s in got.steps]
    assert events[-1].interaction.usage.total_tokens == got.usage.total_tokens > 0
    assert read(resume(client, id)) == events
    return got


def test_text(client):
    events = read(create(client, input="hi", system_instruction="be nice"))
    got = stored(client, events, "completed")
    assert text(events) == got.output_text and "system instruction has 7 bytes" in got.output_text
    assert list(dict.fromkeys(e.event_type for e in events)) == [*FIRST, "step.start", "step.delta", "step.stop", "interaction.completed"]
    assert len([e for e in events if said(e)]) > 5
    assert events[-1].interaction.service_tier == "standard"


def test_thoughts(client):
    events = read(create(client, model="thinking-model", input="hi"))
    got = stored(client, events, "completed")
    assert [s.type for s in got.steps] == ["thought", "model_output"]
    assert got.steps[0].summary[0].text == "Let me see what I know." and got.steps[0].signature
    assert len([e for e in events if said(e) and e.delta.type == "thought_summary"]) > 1
    assert text(events) == "It is as you say."


def test_function_call(client):
    events = read(create(client, input="weather?", tools=TOOLS))
    got = stored(client, events, "requires_action")
    start = next(e for e in events if e.event_type == "step.start" and e.step.type == "function_call")
    assert (start.step.name, start.step.arguments) == ("get_weather", {})
    pieces = [e.delta.arguments for e in events if said(e) and e.delta.type == "arguments_delta"]
    assert len(pieces) > 1 and json.loads("".join(pieces)) == {"city": "Paris"}

    result = {"type": "function_result", "call_id": start.step.id, "name": "get_weather", "result": {"temp": 20}}
    told = read(create(client, tools=TOOLS, previous_interaction_id=got.id, input=[result]))
    answer = stored(client, told, "completed")
    assert "temp" in text(told) and answer.previous_interaction_id == got.id
    thanks = read(create(client, input="thanks", tools=TOOLS, previous_interaction_id=answer.id))
    assert "turn 5" in text(thanks)


def test_calls_at_once(client):
    events = read(create(client, input="Please plan my trip.", tools=TOOLS))
    got = stored(client, events, "requires_action")
    thought, weather, time = got.steps
    assert thought.type == "thought" and weather.id != time.id
    assert (weather.name, weather.arguments, time.name, time.arguments) == ("get_weather", {"city": "Paris"}, "get_time", {"zone": "CET", "format": "15:04"})
    results = [
        {"type": "function_result", "call_id": time.id, "result": "12:30"},
        {"type": "function_result", "call_id": weather.id, "result": {"temp": 20}},
    ]
    told = read(create(client, tools=TOOLS, previous_interaction_id=got.id, input=results))
    stored(client, told, "completed")
    assert "get_time returned" in text(told) and "12:30" in text(told) and "get_weather returned" in text(told)


def test_resumed_after_each_event(client):
    events = read(create(client, input="hi"))
    id = whole(events, "completed")
    for i, e in enumerate(events):
        assert read(resume(client, id, e.event_id)) == events[i + 1 :]


def test_background_left_and_resumed(client):
    begun = read(create(client, model="counting-model", input="hi", background=True), lambda e: e.event_id == "e3")
    rest = read(resume(client, begun[0].interaction.id, "e3"))
    stored(client, begun + rest, "completed")
    assert text(rest) == "one two three four five six seven eight nine ten"


def test_created_without_a_stream(client):
    late = client.interactions.create(model="late-model", input="hi", background=True)
    assert "ringback emulator" in stored(client, read(resume(client, late.id)), "completed").output_text
    done = client.interactions.create(model=MODEL, input="Please plan my trip.", tools=TOOLS)
    told = read(resume(client, done.id))
    assert stored(client, told, "requires_action").steps == done.steps
    assert read(resume(client, done.id, "e4")) == told[4:]
    failed = client.interactions.create(model="fail-model", input="hi", background=True)
    bad = read(resume(client, failed.id))
    whole(bad, "failed")
    assert (bad[-2].error.code, bad[-2].error.message) == ("api_error", "the model is not reachable")


def test_failure(client):
    events = read(create(client, model="fail-model", input="hi"))
    id = whole(events, "failed")
    assert [e.event_type for e in events if not e.event_type.startswith("step.")] == [*FIRST, "error", "interaction.completed"]
    assert (events[-2].error.code, events[-2].error.message) == ("api_error", "the model is not reachable")
    assert client.interactions.get(id).status == "failed"
    assert read(resume(client, id)) == events


def test_incomplete(client):
    stored(client, read(create(client, input="hi", generation_config={"max_output_tokens": 3})), "incomplete")


def test_left_in_the_foreground(client):
    begun = read(create(client, model="halting-model", input="hi"), said)
    rest = read(resume(client, begun[0].interaction.id, begun[-1].event_id))
    assert client.interactions.get(whole(begun + rest, "cancelled")).status == "cancelled"


def test_cancelled_while_it_runs(client):
    events = []
    for event in create(client, model="halting-model", input="hi", background=True):
        events.append(event)
        if said(event):
            assert client.interactions.cancel(events[0].interaction.id).status == "cancelled"
    id = whole(events, "cancelled")
    assert text(events) == "one "
    assert read(resume(client, id)) == events


def test_not_stored(client):
    events = read(create(client, input="hi", store=False))
    id = whole(events, "completed")
    assert "ringback emulator" in text(events)
    for call in (lambda: client.interactions.get(id), lambda: resume(client, id)):
        with pytest.raises(Exception) as e:
            call()
        assert status_of(e.value) == 404


def test_json(client):
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}, "required": ["name", "n"]}
    events = read(create(client, input="hi", response_format={"type": "text", "mime_type": "application/json", "schema": schema}))
    stored(client, events, "completed")
    assert {k: type(v) for k, v in json.loads(text(events)).items()} == {"name": str, "n": int}


def test_errors_before_the_first_event(client):
    bad = genai.Client(api_key="wrong", http_options=types.HttpOptions(base_url=os.environ["RINGBACK_STRICT_URL"]))
    done = read(create(client, input="hi"))
    id = done[0].interaction.id
    for call, status, name, word in [
        (lambda: create(client, input=""), 400, "BadRequestError", "input"),
        (lambda: create(client, input="hi", store=False, background=True), 400, "BadRequestError", "store"),
        (lambda: create(client, input="hi", tools=[{"type": "google_search"}]), 400, "BadRequestError", "google_search"),
        (lambda: create(client, input="hi", previous_interaction_id="v1_nosuch"), 404, "NotFoundError", "v1_nosuch"),
        (lambda: resume(client, "v1_nosuch"), 404, "NotFoundError", "v1_nosuch"),
        (lambda: create(bad, input="hi"), 401, "AuthenticationError", "API key"),
        (lambda: resume(client, id, "e0"), 400, "BadRequestError", "last_event_id"),
        (lambda: resume(client, id, "x"), 400, "BadRequestError", "last_event_id"),
        (lambda: resume(client, id, f"e{len(done) + 1}"), 400, "BadRequestError", "last_event_id"),
    ]:
        with pytest.raises(Exception) as e:
            call()
        assert (status_of(e.value), type(e.value).__name__) == (status, name) and word in str(e.value)


def test_async():
    async def run():
        client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=URL)).aio
        begun = []
        stream = await client.interactions.create(model="counting-model", input="hi", background=True, stream=True)
        async with stream:
            async for event in stream:
                begun.append(event)
                if said(event):
                    break
        id, last = begun[0].interaction.id, begun[-1].event_id
        rest = [e async for e in await client.interactions.get(id, stream=True, last_event_id=last)]
        every = [e async for e in await client.interactions.get(id, stream=True)]
        assert begun + rest == every
        whole(every, "completed")
        assert text(every) == "one two three four five six seven eight nine ten"

    asyncio.run(run())


@pytest.mark.parametrize("kind, mime_type", [("image", "image/png"), ("audio", "audio/wav"), ("video", "video/mp4"), ("document", "application/pdf")])
def test_media(client, kind, mime_type):
    data = f"not really {kind}".encode()
    question = {"type": "text", "text": f"What is in this {kind}?"}
    inline = {"type": kind, "mime_type": mime_type, "data": base64.b64encode(data).decode()}
    answer = client.interactions.create(model=MODEL, input=[question, inline])
    assert answer.status == "completed" and "What is in this" in answer.output_text
    file = client.files.upload(file=io.BytesIO(data), config={"mime_type": mime_type})
    content = [question, {"type": kind, "mime_type": mime_type, "uri": file.uri}]
    events = read(create(client, input=[{"type": "user_input", "content": content}]))
    got = stored(client, events, "completed")
    assert "What is in this" in text(events)
    assert "turn 3" in client.interactions.create(model=MODEL, input="And now?", previous_interaction_id=got.id).output_text
    client.files.delete(name=file.name)
