# After the sample of Google's guide on Deep Research that reads a background stream and, when the connection
# is lost, goes on after the last event that it has seen: https://ai.google.dev/gemini-api/docs/deep-research
from google import genai

client = genai.Client()

interaction_id = None
last_event_id = None
is_complete = False


def process_stream(stream, limit=None):
    global interaction_id, last_event_id, is_complete
    for n, event in enumerate(stream):
        if n == limit:
            raise ConnectionError("the network is down")
        if event.event_type == "interaction.created":
            interaction_id = event.interaction.id
        if event.event_id:
            last_event_id = event.event_id
        if event.event_type == "step.delta" and event.delta.type == "text":
            print(event.delta.text, end="", flush=True)
        elif event.event_type in ("interaction.completed", "error"):
            is_complete = True


try:
    process_stream(
        client.interactions.create(model="counting-model", input="Count.", background=True, stream=True), limit=6
    )
except ConnectionError as e:
    print(f"\nConnection dropped: {e}")

while not is_complete and interaction_id:
    print(f"Resuming from {last_event_id}")
    process_stream(client.interactions.get(interaction_id, stream=True, last_event_id=last_event_id))
