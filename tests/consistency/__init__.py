"""The promises, checked on the real thing: Postgres, the service, devices of both clients and SQL writers as processes.

Each party writes a history of its own as it goes. What goes wrong around them is drawn from a seed, and what must hold
all the same is checked on the histories afterwards. docs/consistency/README.md says what that is.
"""
