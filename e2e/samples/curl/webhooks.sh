# After the REST examples in Google's guide on webhooks:
# https://ai.google.dev/gemini-api/docs/webhooks
set -eu

curl -sS -X POST "$GOOGLE_GEMINI_BASE_URL/v1beta/webhooks?webhook_id=my-webhook" \
  -H "x-goog-api-key: $GEMINI_API_KEY" \
  -H 'Content-Type: application/json' \
  -d '{
    "name": "MyBatchWebhook",
    "uri": "https://my-api.com/gemini-callback",
    "subscribed_events": ["batch.succeeded", "batch.failed"]
  }'

curl -sS "$GOOGLE_GEMINI_BASE_URL/v1beta/webhooks/my-webhook?key=$GEMINI_API_KEY"

curl -sS -X PATCH "$GOOGLE_GEMINI_BASE_URL/v1beta/webhooks/my-webhook?update_mask=subscribed_events" \
  -H "x-goog-api-key: $GEMINI_API_KEY" \
  -d '{"subscribed_events": ["batch.succeeded"]}'

curl -sS -X POST "$GOOGLE_GEMINI_BASE_URL/v1beta/webhooks/my-webhook/rotate_secret" \
  -H "x-goog-api-key: $GEMINI_API_KEY" \
  -d '{"revocation_behavior": "REVOKE_PREVIOUS_SECRETS_AFTER_H24"}'

curl -sS -X DELETE "$GOOGLE_GEMINI_BASE_URL/v1beta/webhooks/my-webhook" -H "x-goog-api-key: $GEMINI_API_KEY"
