-- Step 2 of schema "electric": when a row was buried, by our own clock, so that old tombstones can be told and removed.
-- deleted_ms is the device's time, and may be anything. Those that are there already count from now.

ALTER TABLE electric.tombstones ADD COLUMN buried_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX tombstones_age ON electric.tombstones (buried_at);
