"""The published client goes by the wall clock, which may be set back."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conflict_scene import Kind, NodeDevice, conflict_scene

KINDS: tuple[Kind, ...] = ("npm", "python")
EMPTY = "CREATE TABLE entries (id text PRIMARY KEY, content text NOT NULL, more text);"


async def test_a_delete_had_not_seen_what_a_device_wrote_after_its_clock_was_set_back(
    database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, KINDS, EMPTY, "entries") as scene:
        ann, bob = scene.devices
        await ann.write("INSERT INTO entries VALUES ('1', 'first', NULL)")
        await scene.offline()
        assert isinstance(ann, NodeDevice)
        await ann.skew(-3_600_000)
        await ann.write("UPDATE entries SET more = 'unseen'")
        await bob.write("DELETE FROM entries")
        await scene.delivers(ann)
        await scene.delivers(bob)
        await scene.ends_with(entries=[("1", "first", "unseen")])
