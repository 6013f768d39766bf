-- Step 13 of schema "electric": which part of a transaction of direct SQL an entry is of. Run once, by bootstrap.py, inside its
-- transaction.

-- A large transaction is absorbed in pieces, all of which have the position of its commit. They are cut at the same places when
-- the stream comes again: so this number, with lsn, tells which of two entries is the later.
ALTER TABLE electric.direct ADD COLUMN piece integer NOT NULL DEFAULT 0;
