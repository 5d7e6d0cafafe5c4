# After "Function calling" in Google's guide on the Interactions API:
# https://ai.google.dev/gemini-api/docs/interactions
from google import genai

client = genai.Client()


def get_weather(location: str):
    """Gets the weather for a given location."""
    return f"The weather in {location} is sunny."


weather_tool = {
    "type": "function",
    "name": "get_weather",
    "description": "Gets the weather for a given location.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
        "required": ["location"],
    },
}

interaction = client.interactions.create(
    model="gemini-3.6-flash", input="What is the weather in Paris?", tools=[weather_tool]
)

for step in interaction.steps:
    if step.type == "function_call":
        print(f"Tool call: {step.name}({step.arguments})")
        result = get_weather(step.arguments.get("location", step.arguments.get("city")))
        interaction = client.interactions.create(
            model="gemini-3.6-flash",
            previous_interaction_id=interaction.id,
            tools=[weather_tool],
            input=[{"type": "function_result", "name": step.name, "call_id": step.id, "result": result}],
        )
        print(interaction.steps[-1].content[0].text)
