# After the REST example of "Streaming interactions" in Google's documents:
# https://ai.google.dev/gemini-api/docs/interactions/streaming
set -eu

curl -sS -X POST "$GOOGLE_GEMINI_BASE_URL/v1beta/interactions" \
  -H "x-goog-api-key: $GEMINI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "Api-Revision: 2026-05-20" \
  --no-buffer \
  -d '{
    "model": "gemini-3.6-flash",
    "input": "Count from 1 to 25.",
    "stream": true
  }'
