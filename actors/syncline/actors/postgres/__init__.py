"""Everything that speaks to Postgres: replication in, writes out, the catalogue, the embedded server."""
