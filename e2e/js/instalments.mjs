// Waits for a long interaction in the foreground, which the server answers by instalments, and prints how often it
// had to ask again itself because the SDK did not.
import { GoogleGenAI } from '@google/genai';

const ai = new GoogleGenAI({ apiKey: 'any', httpOptions: { baseUrl: process.env.RINGBACK_URL } });
const model = 'late-model';

let got = await ai.interactions.create({ model, input: 'Take your time.' });
let again = 0;
for (; got.status === 'requires_continuation'; again++) {
  got = await ai.interactions.create({ model, previous_interaction_id: got.id, continuation_token: got.continuation_token });
}
console.log(JSON.stringify({ again, id: got.id, status: got.status, text: got.output_text, previous: got.previous_interaction_id ?? '' }));
