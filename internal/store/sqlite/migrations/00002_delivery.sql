-- +goose Up

ALTER TABLE projects ADD COLUMN dynamic_signature TEXT NOT NULL DEFAULT 'jwt';
ALTER TABLE projects ADD COLUMN audience TEXT NOT NULL DEFAULT '';

-- An operator's key has the project ''.
ALTER TABLE api_keys ADD COLUMN last_used INTEGER;

ALTER TABLE jobs ADD COLUMN webhooks TEXT; -- JSON; NULL if the project's endpoints get the events
CREATE INDEX jobs_project ON jobs (project);

ALTER TABLE job_queue ADD COLUMN stalled INTEGER;

ALTER TABLE events ADD COLUMN skipped TEXT; -- JSON
CREATE INDEX events_project ON events (project);

-- endpoint is '' for a delivery to a URI of the request.
ALTER TABLE deliveries ADD COLUMN uri TEXT;
ALTER TABLE deliveries ADD COLUMN scheme TEXT;
ALTER TABLE deliveries ADD COLUMN begun INTEGER; -- of the retry window; NULL: created
CREATE INDEX deliveries_failed ON deliveries (project) WHERE state = 'failed';

ALTER TABLE endpoints ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'; -- JSON
ALTER TABLE endpoints ADD COLUMN resumed INTEGER;
ALTER TABLE endpoints ADD COLUMN failing_since INTEGER;
ALTER TABLE endpoints ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;

CREATE TABLE replays (
  id       TEXT PRIMARY KEY,
  project  TEXT NOT NULL,
  filter   TEXT NOT NULL, -- JSON
  position INTEGER NOT NULL, -- events.seq of the latest event looked at
  until    INTEGER NOT NULL, -- events.seq of the last one to look at
  sent     INTEGER NOT NULL,
  created  INTEGER NOT NULL,
  done     INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX replays_open ON replays (created) WHERE done IS NULL;

CREATE TABLE signing_keys (
  id              TEXT PRIMARY KEY, -- the kid
  algorithm       TEXT NOT NULL,
  sealed          BLOB,
  public          TEXT NOT NULL,
  created         INTEGER NOT NULL,
  signs_from      INTEGER,
  signs_until     INTEGER,
  published_until INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
  seq     INTEGER PRIMARY KEY AUTOINCREMENT,
  project TEXT NOT NULL,
  at      INTEGER NOT NULL,
  actor   TEXT NOT NULL,
  action  TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail  TEXT NOT NULL
) STRICT;

CREATE INDEX audit_project ON audit (project);
