-- Step 6 of schema "electric": of a rejection also the columns and the row at fault, as electric.fault finds them. Run once, by
-- bootstrap.py, inside its transaction.

ALTER TABLE electric.rejections ADD COLUMN columns jsonb, ADD COLUMN key jsonb;
