-- Step 10 of schema "electric": how xids go with time. Run once, by bootstrap.py, inside its transaction.

-- Whatever has this xid or a greater one has committed after ms. About one a minute, while there are transactions.
CREATE TABLE electric.xids (
    xid bigint PRIMARY KEY,
    ms  bigint NOT NULL
);
