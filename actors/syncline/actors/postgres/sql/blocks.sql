-- Step 17 of schema "electric": values of sequences that devices have reserved. Run once, by bootstrap.py, inside its
-- transaction.

-- first, first + step, and so on to last. client_id: of the device that has them; NULL: they were given back, and the next who
-- asks gets them. storage: the sequence's relfilenode and name then, others after it was restarted: then what was given back
-- is the sequence's again. Of a device those that it may have left; what it has used up is forgotten.
CREATE TABLE electric.blocks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sequence    oid NOT NULL,
    storage     text NOT NULL,
    client_id   text,
    first       bigint NOT NULL,
    last        bigint NOT NULL,
    step        bigint NOT NULL,
    reserved_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX blocks_of_device ON electric.blocks (client_id, sequence, id);
