# After "Conversation" in Google's guide on the Interactions API:
# https://ai.google.dev/gemini-api/docs/interactions
from google import genai

client = genai.Client()

interaction1 = client.interactions.create(model="gemini-3.6-flash", input="Hi, my name is Phil.")
print(interaction1.steps[-1].content[0].text)

interaction2 = client.interactions.create(
    model="gemini-3.6-flash", input="What is my name?", previous_interaction_id=interaction1.id
)
print(interaction2.steps[-1].content[0].text)
