-- Step 4 of schema "electric": who works for a slot. Run once, by bootstrap.py, inside its transaction.

-- epoch: of the service that owns the slot. granted: the greatest that was ever handed out, to a service or a host.
ALTER TABLE electric.owner ADD COLUMN granted bigint NOT NULL DEFAULT 0;

-- The processes of the owner, each with the epoch of its present incarnation, which is never below the owner's.
CREATE TABLE electric.hosts (
    slot       text NOT NULL,
    host       text NOT NULL,
    epoch      bigint NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (slot, host)
);
