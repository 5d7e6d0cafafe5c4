# After "Background execution" in Google's guide on the Interactions API:
# https://ai.google.dev/gemini-api/docs/interactions
import time

from google import genai

client = genai.Client()

interaction = client.interactions.create(
    model="gemini-3.6-flash",
    input="Write a detailed analysis of the history of computing.",
    background=True,
)
print(f"Interaction started: {interaction.id}")

while interaction.status == "in_progress":
    time.sleep(0.2)
    interaction = client.interactions.get(interaction.id)

print(interaction.status)
print(interaction.steps[-1].content[0].text)
