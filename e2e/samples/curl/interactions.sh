# After the REST examples in Google's guide on the Interactions API:
# https://ai.google.dev/gemini-api/docs/interactions
set -eu

interaction=$(curl -sS -X POST "$GOOGLE_GEMINI_BASE_URL/v1beta/interactions" \
  -H "x-goog-api-key: $GEMINI_API_KEY" \
  -H 'Content-Type: application/json' \
  -d '{
    "model": "gemini-3.6-flash",
    "input": "Hi, my name is Phil."
  }')
id=$(printf %s "$interaction" | sed 's/.*"id":"\(v1_[^"]*\)".*/\1/')

curl -sS -X POST "$GOOGLE_GEMINI_BASE_URL/v1beta/interactions" \
  -H "x-goog-api-key: $GEMINI_API_KEY" \
  -H 'Content-Type: application/json' \
  -d '{
    "model": "gemini-3.6-flash",
    "input": "What is my name?",
    "previous_interaction_id": "'"$id"'"
  }'

curl -sS "$GOOGLE_GEMINI_BASE_URL/v1beta/interactions/$id" -H "x-goog-api-key: $GEMINI_API_KEY"
