"""Reads recorded streams as its argument says and prints what the SDK yields, for the Go test to compare."""

import asyncio
import json
import os
import sys

from google import genai
from google.genai import types

client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=os.environ["RINGBACK_URL"]))


def plain(event):
    """The event as JSON. A type that the SDK does not know would be kept too, so it is looked for."""
    for part in (event, getattr(event, "step", None), getattr(event, "delta", None)):
        if type(part).__name__.startswith("Unknown"):
            raise TypeError(f"the SDK does not know {part!r}")
    return event.model_dump(mode="json", by_alias=True, exclude_none=True)


def open_sync(name, how, after):
    if how == "get":
        return client.interactions.get(name, stream=True, **({"last_event_id": after} if after else {}))
    return client.interactions.create(model=name, input="hi", stream=True)


async def open_async(name, how, after):
    if how == "get":
        return await client.aio.interactions.get(name, stream=True, **({"last_event_id": after} if after else {}))
    return await client.aio.interactions.create(model=name, input="hi", stream=True)


def read_sync(events, *where):
    for event in open_sync(*where):
        events.append(plain(event))


async def read_async(events, *where):
    async for event in await open_async(*where):
        events.append(plain(event))


async def main(kind, readings):
    heard = []
    for r in readings:
        name, how, after, events, error = r["name"], r["how"], r.get("after"), [], ""
        heard.append({"events": events})

        async def read(*where):
            if kind == "async":
                await read_async(events, *where)
            else:
                read_sync(events, *where)

        try:
            await read(name, how, after)
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        if how == "broken":
            await read(name.split(".")[0], "get", events[-1]["event_id"])
        heard[-1]["error"] = error
    print(json.dumps(heard))


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
