-- +goose Up

-- What a run noted to go on from, and how far it is, in percent.
ALTER TABLE job_queue ADD COLUMN checkpoint BLOB;
ALTER TABLE job_queue ADD COLUMN progress INTEGER NOT NULL DEFAULT 0;

-- Old jobs are looked for in the order of their end.
CREATE INDEX jobs_ended ON jobs (kind, ended) WHERE ended IS NOT NULL;

-- What streamed interactions have said: some events of one job together.
CREATE TABLE stream_events (
  job   TEXT NOT NULL,
  last  INTEGER NOT NULL, -- Number of the last event in data.
  first INTEGER NOT NULL,
  data  BLOB NOT NULL,
  PRIMARY KEY (job, last)
) STRICT, WITHOUT ROWID;
