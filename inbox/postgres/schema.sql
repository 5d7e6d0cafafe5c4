-- Version 1. What is pending has due, what is not has ended.
CREATE TABLE ringback_inbox (
	seq      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	source   text COLLATE "C" NOT NULL,
	id       text COLLATE "C" NOT NULL,
	type     text NOT NULL,
	scheme   text NOT NULL,
	sent     bigint NOT NULL,
	received bigint NOT NULL,
	body     bytea,
	state    smallint NOT NULL, -- 0 pending, 1 done, 2 dead, 3 purged, or done long ago: only the id is remembered
	attempts integer NOT NULL DEFAULT 0,
	lost     integer NOT NULL DEFAULT 0,
	held     boolean NOT NULL,
	token    bigint NOT NULL,
	due      bigint,
	ended    bigint,
	error    text,
	UNIQUE (source, id)
);

CREATE INDEX ringback_inbox_due ON ringback_inbox (source, due) WHERE due IS NOT NULL;
CREATE INDEX ringback_inbox_ended ON ringback_inbox (source, state, ended) WHERE ended IS NOT NULL;
CREATE INDEX ringback_inbox_dead ON ringback_inbox (seq) WHERE state = 2;

CREATE TABLE ringback_inbox_failures (
	entry   bigint NOT NULL, -- Its seq. A foreign key would lock it.
	token   bigint NOT NULL,
	number  integer NOT NULL,
	started bigint NOT NULL,
	took    bigint NOT NULL,
	error   text NOT NULL,
	PRIMARY KEY (entry, token)
);

CREATE TABLE ringback_inbox_version (version integer NOT NULL);
INSERT INTO ringback_inbox_version VALUES (1);
