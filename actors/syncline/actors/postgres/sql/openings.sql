-- Step 7 of schema "electric": when a device's file was opened, so that copies of one file are told apart. Run once, by
-- bootstrap.py, inside its transaction.

-- first: the number of the first entry that the device has made since, in its own numbering. In the order in which they were
-- made; of each device the newest thousand.
CREATE TABLE electric.openings (
    place      bigint GENERATED ALWAYS AS IDENTITY,
    client_id  text NOT NULL,
    opening_id text NOT NULL,
    first      bigint NOT NULL,
    PRIMARY KEY (client_id, opening_id)
);
CREATE INDEX openings_newest ON electric.openings (client_id, place);
