"""Devices with random shapes against a real Postgres that everybody writes: what they hold is what Postgres says.

A run has a schema, rows, shapes and a plan of what happens, all drawn from its seed. What a device must hold is worked
out twice, by code that knows nothing of the product's:

    at quiet points  from the tables themselves: rows, and which of them satisfy a where clause, asked in SQL
    all the time     from a replication slot of the test's own: a thread reads each device's file after every commit,
                     and when the run is over each of these states is compared with what the shapes gave at its very LSN

So a part of a transaction, a row too many for a moment, a dangling reference, a column that came too early: each is a
difference at some LSN. What a device has written itself and nobody has confirmed is left out of the comparison.
"""
