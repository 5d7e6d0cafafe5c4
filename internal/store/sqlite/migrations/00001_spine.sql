-- +goose Up

-- Times are microseconds since 1970, UTC. NULL means "not yet" or "never".

CREATE TABLE projects (
  id      TEXT PRIMARY KEY,
  name    TEXT NOT NULL,
  created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
  id      TEXT PRIMARY KEY,
  project TEXT NOT NULL REFERENCES projects (id),
  name    TEXT NOT NULL,
  prefix  TEXT NOT NULL,
  hash    BLOB NOT NULL UNIQUE,
  created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
  id              TEXT NOT NULL UNIQUE,
  project         TEXT NOT NULL,
  kind            TEXT NOT NULL,
  state           TEXT NOT NULL, -- 'pending' until it ends; job_queue tells whether it runs
  model           TEXT NOT NULL,
  spec            BLOB NOT NULL,
  output          BLOB,
  failure_code    TEXT,
  failure_message TEXT,
  runs            INTEGER NOT NULL DEFAULT 0,
  created         INTEGER NOT NULL,
  started         INTEGER,
  updated         INTEGER NOT NULL,
  ended           INTEGER
) STRICT;

-- Jobs under way. They are apart from jobs so that claiming and renewing does
-- not rewrite the request, which can be large.
CREATE TABLE job_queue (
  id      TEXT PRIMARY KEY,
  due     INTEGER NOT NULL, -- when it may be claimed; while leased, when the lease runs out
  lease   INTEGER NOT NULL, -- the fencing token, raised at every claim
  node    TEXT,             -- who holds the lease; NULL while nobody does
  runs    INTEGER NOT NULL,
  started INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX job_queue_due ON job_queue (due);

CREATE TABLE events (
  seq     INTEGER PRIMARY KEY AUTOINCREMENT,
  id      TEXT NOT NULL UNIQUE,
  project TEXT NOT NULL,
  type    TEXT NOT NULL,
  job     TEXT,
  body    BLOB NOT NULL,
  created INTEGER NOT NULL
) STRICT;

CREATE INDEX events_job ON events (job) WHERE job IS NOT NULL;

CREATE TABLE deliveries (
  id       TEXT PRIMARY KEY, -- the webhook-id
  event    INTEGER NOT NULL, -- events.seq
  project  TEXT NOT NULL,
  target   TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  state    TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  due      INTEGER NOT NULL, -- as in job_queue
  lease    INTEGER NOT NULL,
  node     TEXT,
  reason   TEXT,
  created  INTEGER NOT NULL,
  updated  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_pending ON deliveries (target, due) WHERE state = 'pending';
CREATE INDEX deliveries_event ON deliveries (event);

CREATE TABLE attempts (
  delivery   TEXT NOT NULL,
  number     INTEGER NOT NULL,
  started    INTEGER NOT NULL,
  status     INTEGER NOT NULL,
  answer     BLOB,
  dns        INTEGER NOT NULL, -- this and the next four: microseconds
  connect    INTEGER NOT NULL,
  tls        INTEGER NOT NULL,
  first_byte INTEGER NOT NULL,
  total      INTEGER NOT NULL,
  reason     TEXT NOT NULL,
  error      TEXT,
  PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoints (
  id      TEXT PRIMARY KEY,
  project TEXT NOT NULL,
  name    TEXT NOT NULL,
  uri     TEXT NOT NULL,
  events  TEXT NOT NULL, -- a JSON array
  state   TEXT NOT NULL,
  secrets TEXT NOT NULL, -- a JSON array, newest first; the secrets in it are sealed
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
