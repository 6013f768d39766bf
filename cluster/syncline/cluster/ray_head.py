"""``python -m syncline.cluster.ray_head``: ``ray start``, which would start a server of Ray's for remote drivers too.

We have none, its port may be taken, and a head ends with all its processes when one of them does. Ray leaves that
server out where it finds no gRPC for Python, an extra of it which nothing else in a head needs.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point."""
    sys.modules["grpc"] = None  # type: ignore[assignment]
    from ray.scripts.scripts import main as ray

    ray()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
