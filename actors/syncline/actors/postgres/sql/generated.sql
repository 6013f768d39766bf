-- Step 9 of schema "electric": what merge functions were made from, as electric.merge_basis says it, and which of them
-- electric.merge names. Run once, by bootstrap.py, inside its transaction.

ALTER TABLE electric.tables ADD COLUMN merge_basis text, ADD COLUMN dispatched boolean NOT NULL DEFAULT false;
