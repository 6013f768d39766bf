-- Step 5 of schema "electric": of which history what a device holds is. Run once, by bootstrap.py, inside its transaction.

-- lineage: what slot_lineage in electric.meta was when the device started afresh, or had been repaired. Where it is
-- another one by now, the device's position means nothing. A table of its own: rows of electric.clients are locked while
-- transactions of their devices are applied.
CREATE TABLE electric.positions (
    client_id text PRIMARY KEY,
    lineage   text NOT NULL
);

-- Until now whoever was of another history had no subscriptions.
INSERT INTO electric.positions (client_id, lineage)
SELECT client_id, value FROM electric.clients, electric.meta WHERE key = 'slot_lineage';
