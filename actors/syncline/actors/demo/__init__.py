"""``syncline demo``: a Postgres, the service and two devices on this machine, and a minute to watch them."""

from __future__ import annotations

from syncline.actors.demo.run import main

__all__ = ["main"]
