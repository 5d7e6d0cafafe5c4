# After "Streaming interactions" in Google's documents:
# https://ai.google.dev/gemini-api/docs/interactions/streaming
from google import genai

client = genai.Client()

stream = client.interactions.create(
    model="gemini-3.6-flash",
    input="Count from 1 to 25.",
    stream=True,
)
for event in stream:
    if event.event_type == "step.delta":
        if event.delta.type == "text":
            print(event.delta.text, end="", flush=True)
    elif event.event_type == "interaction.completed":
        print(f"\nTotal tokens: {event.interaction.usage.total_tokens}")
