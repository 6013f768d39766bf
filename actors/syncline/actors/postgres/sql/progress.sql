-- Step 14 of schema "electric": how far the stream has come, told while a transaction waits for it. Run once, by bootstrap.py,
-- inside its transaction.

-- lsn: whatever direct SQL committed before is in electric.direct. commits: {xid: its commit in ms} of the latest transactions.
CREATE TABLE electric.progress (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    lsn     pg_lsn NOT NULL,
    commits jsonb NOT NULL
) WITH (fillfactor = 50);
