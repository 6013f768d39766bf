"""What a file that parted from another had observed, under whose client id."""

from __future__ import annotations

from tests.unit.client.client_scene import captured_database, entries_of, stamp_at

from syncline.client.forking import fork, note_opening, openings_of


def test_every_write_since_the_files_parted_has_observed_what_they_had_written_in_common() -> None:
    """The first of them may be rejected."""
    file = captured_database(client_id="old")
    note_opening(file, "both")
    file.execute("INSERT INTO projects VALUES ('p', 'x'), ('q', 'x')")
    stamp_at(file, 100, "old")
    note_opening(file, "this one")
    theirs = openings_of(file)[:1]
    for ms, sql in enumerate(("UPDATE projects SET name = 'y'", "DELETE FROM projects WHERE id = 'p'"), 101):
        file.execute(sql)
        stamp_at(file, ms, "old")
    file.execute("INSERT INTO projects VALUES ('r', 'x')")
    stamp_at(file, 103, "old")
    new = fork(file, theirs)
    assert [(entry.op, entry.origin, set(entry.clear_tags)) for entry in entries_of(file)] == [
        ("I", "old", set()),
        ("I", "old", set()),
        ("U", None, {"old@100", f"{new}@101"}),
        ("U", None, {"old@100", f"{new}@101"}),
        ("D", None, {"old@100", f"{new}@101", f"{new}@102"}),
        ("I", None, set()),
    ]
