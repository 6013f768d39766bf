-- What is written to partitions is streamed as of the table that they are of.

ALTER PUBLICATION electric_publication SET (publish_via_partition_root = true);
