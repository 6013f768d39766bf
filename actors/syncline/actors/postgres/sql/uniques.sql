-- Of unique constraints: what is done with a device's write that violates one, where it is not rejected; and of a rejection who was
-- first, and which earlier one it follows from.

-- policy: what is done. column_name: of which column the value is changed.
CREATE TABLE electric.unique_policies (
    indexrelid  oid PRIMARY KEY,
    policy      text NOT NULL CHECK (policy IN ('rename', 'nullify')),
    column_name text NOT NULL
);

-- winner: the key of the row that has what was to be unique. follows: the ms of the rejected transaction of the same device that
-- had made the row this one is about.
ALTER TABLE electric.rejections ADD COLUMN winner jsonb, ADD COLUMN follows bigint;
