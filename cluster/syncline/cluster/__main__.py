"""``python -m syncline.cluster``: boots one host with an application, and links it with others.

The application is a dotted path, ``package.module:name``, of a function that takes the open ``LocalHost`` and returns
the ``ChildSpec`` of its root supervisor. When the host is ready one line goes to standard output: ``ready``, its id,
and the addresses it listens at. SIGTERM and SIGINT stop the tree in order and exit 0; when the root ends by itself, or
another owner takes over, the exit code is 1, and whoever started the process decides.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from syncline.cluster.host import LocalHost
from syncline.cluster.spec import ChildSpec, dotted
from syncline.cluster.supervisor import StartFailed

log = logging.getLogger("syncline.cluster")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with code 2 and a usage line when it makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m syncline.cluster", description="Boots one host.")
    parser.add_argument("application", help="package.module:function(host) -> ChildSpec of the root supervisor")
    parser.add_argument("--id", required=True, help="the host's name in the cluster")
    parser.add_argument("--epoch", type=int, default=0, help="the claim of the owner it works for")
    parser.add_argument("--types", help="package.module:function() -> the message types that may cross links")
    parser.add_argument("--listen", action="append", default=[], metavar="ADDRESS", help="unix:/path or tcp:host:port")
    parser.add_argument("--connect", action="append", default=[], metavar="ID=ADDRESS", help="a host to link with")
    parser.add_argument("--log-level", default="WARNING")
    return parser.parse_args(argv)


async def run(options: argparse.Namespace) -> int:
    """Boots, waits for the end, and returns the exit code. ``SYNCLINE_LINK_TOKEN`` is what peers must know."""
    types = cast("Callable[[], Iterable[type]]", dotted(options.types))() if options.types else ()
    host = LocalHost(options.id, epoch=options.epoch, types=types, token=os.environ.get("SYNCLINE_LINK_TOKEN", ""))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await host.open()
    try:
        for peer in options.connect:
            peer_id, _, address = peer.partition("=")
            host.connect(peer_id, address)
        application = cast("Callable[[LocalHost], ChildSpec]", dotted(options.application))
        await host.start(application(host))
        print("ready", host.id, *[await host.listen(address) for address in options.listen], flush=True)
        host.ended.add_done_callback(lambda _: stop.set())
        await stop.wait()
        if host.ended.done():
            log.error("%s ends: %s", host.id, host.ended.result())
            return 1
        return 0
    except StartFailed as error:
        log.error("%s: %s", host.id, error)
        return 1
    finally:
        await host.close()


def main() -> None:
    """The entry point."""
    options = arguments()
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.exit(asyncio.run(run(options)))


if __name__ == "__main__":
    main()
