"""How fast rows become Satellite bytes and come back, beside protobuf's own serializer in the same run.

Prints rows per CPU-second, the median of several repeats. Run with ``python -m benchmarks.codec``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.values import Delete, Insert, RowChange, Update

ROWS = 20_000
REPEATS = 7


def rows() -> list[RowChange]:
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
        for n in range(ROWS)
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


def rows_per_cpu_second(run: Callable[[], object]) -> float:
    rates = []
    for _ in range(REPEATS):
        started = time.process_time()
        run()
        rates.append(ROWS / (time.process_time() - started))
    return statistics.median(rates)


def main() -> None:
    inserts = rows()
    body = codec.encode_ops(inserts)
    assert body == protobuf_encode(inserts), "the two encoders disagree"
    changed = updates(inserts)
    update_body = codec.encode_ops(changed)
    removed = deletes(inserts)
    measures: list[tuple[str, Callable[[], object]]] = [
        ("encode inserts", lambda: codec.encode_ops(inserts)),
        ("encode inserts, protobuf", lambda: protobuf_encode(inserts)),
        ("decode inserts", lambda: codec.decode_ops(body)),
        ("decode inserts, protobuf", lambda: protobuf_decode(body)),
        ("encode updates (two images)", lambda: codec.encode_ops(changed)),
        ("decode updates (two images)", lambda: codec.decode_ops(update_body)),
        ("encode deletes", lambda: codec.encode_ops(removed)),
    ]
    print(f"{ROWS} rows of 6 columns, {len(body) / ROWS:.0f} bytes a row, median of {REPEATS}")
    for name, run in measures:
        print(f"  {name:<30} {rows_per_cpu_second(run):>12,.0f} rows per CPU-second")


if __name__ == "__main__":
    main()
