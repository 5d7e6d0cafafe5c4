-- +goose Up

-- The job that makes the blob. While it is under way the blob is no garbage.
ALTER TABLE blob_garbage ADD COLUMN job TEXT;

-- How long what a file shows or plays takes, in µs; 0 if it is not known.
ALTER TABLE files ADD COLUMN duration INTEGER NOT NULL DEFAULT 0;
