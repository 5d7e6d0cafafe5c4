/** Why a message was refused. */
export type Reason = 'header' | 'timestamp' | 'signature' | 'no key' | 'token' | 'audience' | 'unknown key' | 'key set';

export class WebhookError extends Error {
  readonly reason: Reason;
  constructor(reason: Reason, message: string);
}

/** The envelope of the events that ringback and the Gemini API send. */
export interface Event {
  /** Such as "interaction.completed". */
  type: string;
  version: string;
  /** When the event happened, RFC 3339. */
  timestamp: string;
  data: { id: string; error_code?: string; error_message?: string; output_file_uri?: string; file_name?: string; video_uri?: string; [name: string]: unknown };
  user_metadata?: Record<string, unknown>;
}

/** A verified message. */
export interface Message {
  /** The same on every retry: act once per id. */
  id: string;
  /** When this attempt was made. */
  timestamp: Date;
  scheme: 'v1' | 'v1a' | 'jwt';
  body: Uint8Array;
  /** The body as JSON; undefined if it is not JSON. */
  event: Event | undefined;
}

export interface Options {
  /** Signing secrets, "whsec_…" (v1): several during a rotation. */
  secrets?: string | string[];
  /** Public keys, "whpk_…" (v1a). */
  publicKeys?: string | string[];
  /** Address of the sender's key set, or the set itself. */
  jwks?: string | URL | { keys: object[] };
  /** Names by which the receiver is known, usually its address; a JWT must be meant for one. */
  audience?: string | string[];
  /** Must have issued a JWT. */
  issuer?: string;
  /** Accept a JWT without body_sha256 whose event equals the body. */
  allowUnbound?: boolean;
  /** Seconds that a message may be old or in the future; 300 if absent. */
  tolerance?: number;
  /** The clock, in milliseconds or as a Date. */
  now?: () => number | Date;
  /** Fetches the key set; the global fetch if absent. */
  fetch?: typeof fetch;
}

type HeadersLike = Headers | Record<string, string | string[] | undefined> | [string, string][];

export class Verifier {
  constructor(options?: Options);
  /** Verifies the raw body as received. Throws WebhookError. */
  verify(headers: HeadersLike, rawBody: string | Uint8Array | ArrayBuffer): Promise<Message>;
  /** Verifies a Fetch API Request, reading its body. */
  verifyRequest(request: Request): Promise<Message>;
}
