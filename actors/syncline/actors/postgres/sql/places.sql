-- Step 11 of schema "electric": where in the stream direct SQL changed each column. Run once, by bootstrap.py, inside its
-- transaction.

-- For each column with a time in column_ms a position of the WAL, as a number: the time counts only if the row's entry in
-- electric.shadow is older than that. After a restart the stream brings again what is known to that entry already, in one
-- go with what is new. What is missing here is at lsn.
ALTER TABLE electric.direct ADD COLUMN column_lsn bigint[] NOT NULL DEFAULT '{}';
