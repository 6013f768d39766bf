-- What is written to partitions is streamed as of the table that they are of. What comes and goes with a partition as a whole is
-- not in the stream: see partitions of sql/reread.sql.

ALTER PUBLICATION electric_publication SET (publish_via_partition_root = true);

-- stale: since when a table has rows that the stream does not tell of. Shapes that have it are to be read anew.
ALTER TABLE electric.tables ADD COLUMN stale timestamptz;

-- The partitions of electrified tables that hold rows, as they have been seen last. filenode: another one after TRUNCATE.
CREATE TABLE electric.partitions (
    root     oid NOT NULL,
    relid    oid NOT NULL,
    filenode oid NOT NULL,
    PRIMARY KEY (root, relid)
);
