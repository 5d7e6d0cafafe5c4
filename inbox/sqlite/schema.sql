-- Version 1. What is pending has due, what is not has ended.
CREATE TABLE inbox_entries (
	seq      INTEGER PRIMARY KEY AUTOINCREMENT,
	source   TEXT NOT NULL,
	id       TEXT NOT NULL,
	type     TEXT NOT NULL,
	scheme   TEXT NOT NULL,
	sent     INTEGER NOT NULL,
	received INTEGER NOT NULL,
	body     BLOB,
	state    INTEGER NOT NULL, -- 0 pending, 1 done, 2 dead, 3 purged, or done long ago: only the id is remembered
	attempts INTEGER NOT NULL,
	lost     INTEGER NOT NULL,
	held     INTEGER NOT NULL,
	token    INTEGER NOT NULL,
	due      INTEGER,
	ended    INTEGER,
	error    TEXT,
	UNIQUE (source, id)
) STRICT;

CREATE INDEX inbox_due ON inbox_entries (source, due) WHERE due IS NOT NULL;
CREATE INDEX inbox_ended ON inbox_entries (source, state, ended) WHERE ended IS NOT NULL;
CREATE INDEX inbox_dead ON inbox_entries (seq) WHERE state = 2;

CREATE TABLE inbox_failures (
	entry   INTEGER NOT NULL,
	token   INTEGER NOT NULL,
	number  INTEGER NOT NULL,
	started INTEGER NOT NULL,
	took    INTEGER NOT NULL,
	error   TEXT NOT NULL,
	PRIMARY KEY (entry, token)
) STRICT, WITHOUT ROWID;
