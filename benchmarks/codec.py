"""How fast rows become Satellite bytes and come back, beside protobuf's own serializer in the same run.

python -m benchmarks.codec [--rows N] [--repeats N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.program import Program, run
from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.values import Delete, Insert, RowChange, Update


def rows(count: int) -> list[RowChange]:
    """Six columns of everyday sizes, one of them null: a uuid, two texts, a number, a bool, a timestamp."""
    tags = ("postgres_1@1700000000000",)
    return [
        Insert(
            16400,
            (
                b"6f9619ff-8b86-d011-b42d-%012d" % n,
                b"A title of some thirty letters",
                None,
                b"%d" % n,
                b"t",
                b"2024-02-29 12:34:56.789123Z",
            ),
            tags,
        )
        for n in range(count)
    ]


def updates(inserts: list[RowChange]) -> list[RowChange]:
    return [Update(i.relation_id, i.row, i.row, i.tags) for i in inserts if isinstance(i, Insert)]


def deletes(inserts: list[RowChange]) -> list[RowChange]:
    return [Delete(i.relation_id, i.row) for i in inserts if isinstance(i, Insert)]


def protobuf_encode(inserts: list[RowChange]) -> bytes:
    """The baseline: the same log through protobuf's objects."""
    log = pb.SatOpLog()
    for insert in inserts:
        assert isinstance(insert, Insert)
        mask = bytearray((len(insert.row) + 7) // 8)
        for i, cell in enumerate(insert.row):
            if cell is None:
                mask[i >> 3] |= 0x80 >> (i & 7)
        row = pb.SatOpRow(nulls_bitmask=bytes(mask), values=[cell or b"" for cell in insert.row])
        log.ops.append(
            pb.SatTransOp(insert=pb.SatOpInsert(relation_id=insert.relation_id, row_data=row, tags=insert.tags))
        )
    return log.SerializeToString()


def protobuf_decode(body: bytes) -> int:
    """The baseline: parsed by protobuf and read into plain values."""
    seen = 0
    for op in pb.SatOpLog.FromString(body).ops:
        insert = op.insert
        row = tuple(insert.row_data.values)
        seen += len(Insert(insert.relation_id, row, tuple(insert.tags)).row)
    return seen


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=20_000, help="default 20000")
    parser.add_argument("--repeats", type=int, default=7, help="default 7")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    count = options.rows

    def figure(name: str, work: Callable[[], object], goal: str = "") -> Figure:
        rates = []
        for _ in range(options.repeats):
            started_s = time.process_time()
            work()
            rates.append(count / (time.process_time() - started_s))
        return Figure(name, tuple(rates), "rows/CPU-s", goal=goal)

    inserts = rows(count)
    body = codec.encode_ops(inserts)
    assert body == protobuf_encode(inserts), "the two encoders disagree"
    changed = updates(inserts)
    update_body = codec.encode_ops(changed)
    removed = deletes(inserts)
    encoder = figure("protobuf", lambda: protobuf_encode(inserts))
    decoder = figure("protobuf", lambda: protobuf_decode(body))
    return [
        figure("encode inserts", lambda: codec.encode_ops(inserts), ">= 200,000").against(encoder),
        figure("decode inserts", lambda: codec.decode_ops(body)).against(decoder),
        figure("encode updates, two images each", lambda: codec.encode_ops(changed)),
        figure("decode updates, two images each", lambda: codec.decode_ops(update_body)),
        figure("encode deletes", lambda: codec.encode_ops(removed)),
    ]


PROGRAM = Program("codec", __doc__, options, measure, serves=False)

if __name__ == "__main__":
    run(PROGRAM)
