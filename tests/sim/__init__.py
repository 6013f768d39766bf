"""The simulator: the service and its devices on a virtual clock, every run repeatable from its seed.

    python -m tests.sim --seed 1 --runs 1000

What runs is the product's own code: sessions, merge rules, bundles, logs, images, the outbound stream, the actors that
carry them out, and on the other side the replica with its oplog, triggers and plans on a real SQLite database. What is
modelled is what lies outside of it: Postgres (``postgres``), sockets (``network``), time (``waiting``).

Nothing here waits for real time. The shells that wait by asyncio in production wait by ``waiting`` here: whoever is
next to run is decided by a heap of (virtual time, sequence number), and how long anything takes by one seeded
generator. A run (``world``) is a workload and a list of faults, both drawn from the seed beforehand, so a failing run
can be made smaller by leaving faults and steps out (``shrink``). What must hold is in ``checks``, rules broken on
purpose in ``mutants``.
"""
