-- +goose Up

ALTER TABLE job_queue ADD COLUMN kind TEXT NOT NULL DEFAULT 'interaction';
ALTER TABLE job_queue ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
DROP INDEX job_queue_due;
CREATE INDEX job_queue_ready ON job_queue (kind, priority DESC, due);

CREATE TABLE idempotency (
  project     TEXT NOT NULL,
  key         TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  job         TEXT NOT NULL,
  PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_job ON idempotency (job);

CREATE TABLE batches (
  id           TEXT PRIMARY KEY, -- jobs.id
  display_name TEXT NOT NULL,
  priority     INTEGER NOT NULL,
  embed        INTEGER NOT NULL,
  input_file   TEXT NOT NULL,    -- files.id; '' if the rows came within the request
  input_blob   TEXT NOT NULL,
  output_file  TEXT,             -- files.id
  output_blob  TEXT,             -- if the rows came within the request
  expires      INTEGER NOT NULL,
  cancelled    INTEGER,
  planned      INTEGER NOT NULL DEFAULT 0,
  -- These stand once it has ended; before, the shards tell.
  total        INTEGER,
  succeeded    INTEGER,
  failed       INTEGER,
  progressed   INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE batch_shards (
  batch      TEXT NOT NULL,
  number     INTEGER NOT NULL,
  first      INTEGER NOT NULL,
  line       INTEGER NOT NULL,
  rows       INTEGER NOT NULL,
  place      INTEGER NOT NULL, -- in the input, bytes
  length     INTEGER NOT NULL,
  succeeded  INTEGER NOT NULL DEFAULT 0,
  failed     INTEGER NOT NULL DEFAULT 0,
  done       INTEGER NOT NULL DEFAULT 0,
  due        INTEGER NOT NULL DEFAULT 0, -- as in job_queue
  lease      INTEGER NOT NULL DEFAULT 0,
  node       TEXT,
  progressed INTEGER,
  PRIMARY KEY (batch, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX batch_shards_open ON batch_shards (batch, number) WHERE done = 0;
CREATE INDEX batch_shards_node ON batch_shards (node) WHERE node IS NOT NULL;

-- The journal: results of rows, some of one shard together, as they were finished.
CREATE TABLE batch_rows (
  seq   INTEGER PRIMARY KEY,
  batch TEXT NOT NULL,
  shard INTEGER NOT NULL,
  data  BLOB NOT NULL
) STRICT;

CREATE INDEX batch_rows_shard ON batch_rows (batch, shard);

-- Batches whose shards and rows are yet to be removed.
CREATE TABLE batch_garbage (
  id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
