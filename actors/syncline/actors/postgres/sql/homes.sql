-- Step 3 of schema "electric": where each shape lives, when shapes have a process each. Made anew at a start, from what
-- is on the disk; what is asked for later is added.

CREATE TABLE electric.shape_homes (
    shape text PRIMARY KEY,
    shard text NOT NULL
);
