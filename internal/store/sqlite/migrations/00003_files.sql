-- +goose Up

CREATE TABLE files (
  project      TEXT NOT NULL,
  id           TEXT NOT NULL,
  display_name TEXT NOT NULL,
  mime_type    TEXT NOT NULL,
  size         INTEGER NOT NULL,
  sha256       BLOB NOT NULL,
  blob         TEXT NOT NULL,
  generated    INTEGER NOT NULL,
  created      INTEGER NOT NULL,
  updated      INTEGER NOT NULL,
  expires      INTEGER NOT NULL,
  UNIQUE (project, id)
) STRICT;

CREATE INDEX files_expires ON files (expires);

CREATE TABLE uploads (
  hash         BLOB PRIMARY KEY, -- SHA-256 of the secret in the upload's address
  project      TEXT NOT NULL,
  file         TEXT NOT NULL,    -- files.id, once it is done
  display_name TEXT NOT NULL,
  mime_type    TEXT NOT NULL,
  size         INTEGER NOT NULL, -- as declared; -1 if it was not
  blob         TEXT NOT NULL,
  received     INTEGER NOT NULL,
  digest       BLOB,             -- the state of the SHA-256 over what was received
  done         INTEGER NOT NULL,
  created      INTEGER NOT NULL,
  updated      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_updated ON uploads (updated);
CREATE INDEX uploads_project ON uploads (project) WHERE done = 0;

-- Blobs that nothing refers to any more and that are yet to be removed.
CREATE TABLE blob_garbage (
  blob TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
