"""What the documentation says about the tree is true of the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import typer.main
from tests.integration.docs_pages import ROOT, anchors, blocks, links, name, pages, runnable

from syncline.actors import names, tree
from syncline.actors.cli import app
from syncline.actors.devices.websocket import Limits
from syncline.actors.postgres.bootstrap import STEPS
from syncline.actors.postgres.slot import slot_name
from syncline.actors.settings import SETTINGS, UNSUPPORTED
from syncline.proto import assembly, bounds, codec, errors, flow, holding, server_session

EVERYWHERE = pytest.mark.parametrize("page", pages(), ids=name)
CLI = typer.main.get_command(app)
CODE_FOLDERS = ("cluster", "proto", "actors", "client")


def page_text(path: str) -> str:
    return (ROOT / path).read_text()


@EVERYWHERE
def test_a_relative_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        path, _, fragment = target.partition("#")
        destination = (page.parent / path).resolve() if path else page
        assert destination.is_relative_to(ROOT), f"{target} leaves the repository"
        assert destination.exists(), f"{target} does not exist"
        assert not fragment or fragment in anchors(destination), f"{target}: no such heading"


@EVERYWHERE
def test_a_page_speaks_of_nothing_on_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|root|home)/", page.read_text())


@EVERYWHERE
def test_a_block_to_run_is_in_a_language_that_can_be_run(page: Path) -> None:
    assert {block.language for block, _ in runnable(page)} <= {"python", "sql", "sh", "js"}


@EVERYWHERE
def test_python_on_a_page_is_python(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{name(page)}, line {block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", ["docs/operations/running.md", "docs/reference/schema-electric.md"])
def test_the_slot_and_the_publication_are_called_by_their_names(page: str) -> None:
    text = page_text(page)
    assert slot_name("mydb") in text or slot_name("mydb").replace("mydb", "<database>") in text
    assert page != "docs/reference/schema-electric.md" or f"`{tree.PUBLICATION}`" in text


def test_the_device_library_needs_nothing_but_the_base_install() -> None:
    program = "import sys, syncline.client; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    installed_by = packages_distributions()
    in_use = {name.lower() for top in loaded for name in installed_by.get(top, [])}
    extras = {
        re.split(r"[^\w-]", need)[0].lower()
        for need in requires("syncline") or ()
        if re.search(r"extra == .server", need)
    }
    assert {"typer", "asyncpg"} <= extras
    assert {"aiosqlite", "protobuf", "websockets"} <= in_use
    assert not in_use & extras


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = ROOT / "docs" / "README.md"
    linked = {(contents.parent / target).resolve() for target in links(contents)}
    assert set(ROOT.glob("docs/**/*.md")) - {contents} <= linked


def test_decisions_are_numbered_once_each_and_begin_with_the_decision() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [record.name[:4] for record in records]
    assert numbers == [f"{number:04}" for number in range(1, len(records) + 1)]
    for record in records:
        heading, _, rest = record.read_text().partition("\n")
        assert heading.startswith(f"# {record.name[:4]}: ")
        assert rest.strip().startswith("**Decision.**"), record.name


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_is_in_the_reference_as_the_command_has_it(setting) -> None:
    row = f"| `{setting.name}` | `{setting.flag}` | {setting.default} | {setting.meaning} |"
    assert row in page_text("docs/reference/config.md")


def test_variables_that_mean_nothing_here_are_in_the_reference() -> None:
    text = page_text("docs/reference/config.md")
    for variable, reason in UNSUPPORTED.items():
        assert f"| `{variable}` | {reason} |" in text


@pytest.mark.parametrize("command", sorted(CLI.commands))
def test_a_command_and_its_flags_are_in_the_reference(command: str) -> None:
    text = page_text("docs/reference/cli.md")
    assert f"`syncline {command}" in text
    documented = text + page_text("docs/reference/config.md")
    for parameter in CLI.commands[command].params:
        for flag in parameter.opts if parameter.param_type_name == "option" else ():
            assert f"`{flag}`" in documented, f"{command} {flag}"


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", page_text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make (\w+)", page_text("README.md")))
    assert {"demo", "test", "check", "sim", "bench"} <= named <= targets


def messages() -> list[str]:
    """What the page about running it says the service says, with dots for what differs."""
    section = page_text("docs/operations/running.md").partition("## Troubleshooting")[2]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_what_a_device_may_be_refused_for_is_in_the_wire_reference() -> None:
    text = page_text("docs/reference/wire-protocol.md")
    source = "".join(path.read_text() for path in (ROOT / "actors" / "syncline" / "actors" / "devices").glob("*.py"))
    codes = set(re.findall(r'(?:StartRefused|PlanRefused|TableUnknown)\(\s*"([A-Z_]+)"', source))
    assert {"BEHIND_WINDOW", "TABLE_NOT_FOUND"} <= codes
    assert {code for code in codes if f"`{code}`" not in text} == set()


@cache
def said() -> set[str]:
    """Every text in the service's modules, and every message of its procedures."""
    in_modules = {
        node.value
        for path in (ROOT / "actors").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    procedures = (path.read_text() for path in (ROOT / "actors").rglob("*.sql"))
    return in_modules | {message for text in procedures for message in re.findall(r"RAISE '([^']+)'", text)}


@pytest.mark.parametrize("message", messages())
def test_a_message_in_the_troubleshooting_table_is_one_of_ours(message: str) -> None:
    for part in message.split("..."):
        assert any(part.strip() in text for text in said()), part


def test_the_tables_of_schema_electric_are_in_the_reference() -> None:
    schema = "".join(page_text(f"actors/syncline/actors/postgres/sql/{step}") for step in STEPS)
    documented = page_text("docs/reference/schema-electric.md")
    tables = re.findall(r"CREATE TABLE (electric\.\w+)", schema)
    assert len(tables) > 5
    for table in tables:
        assert f"| `{table}` |" in documented


def test_the_bounds_in_the_wire_reference_are_those_of_the_code() -> None:
    text = page_text("docs/reference/wire-protocol.md")
    edge = Limits()
    for what, bound in {
        "the first message of a connection": f"{edge.first_message_bytes_max >> 10} KiB",
        "any later message": f"{edge.message_bytes_max >> 20} MiB",
        "a message that is not a `SatOpLog`": f"{codec.MESSAGE_BYTES_MAX >> 10} KiB",
        "a transaction, over any number of messages": (
            f"{server_session.TRANSACTION_LIMITS.ops_max:,} operations, "
            f"{server_session.TRANSACTION_LIMITS.bytes_max >> 20} MiB"
        ),
        "the same, in the memory of the service": (
            f"{(server_session.TRANSACTION_LIMITS.memory_max or 0) >> 20} MiB: {assembly.OPERATION_MEMORY} bytes an "
            f"operation, {assembly.CELL_MEMORY} a value, and {assembly.VALUE_MEMORY} and its length more "
            "unless that is NULL"
        ),
        "transactions begun and not committed, of all devices": (
            f"{holding.OPEN_BYTES_MAX >> 20} MiB of such memory; "
            "beyond it the largest has its device come back later (1013)"
        ),
        "relations": f"{server_session.RELATIONS_MAX:,}",
        "shapes in a subscription": f"{codec.SHAPES_PER_SUBSCRIPTION_MAX:,}",
        "calls without an answer": f"{server_session.OUTSTANDING_CALLS_MAX:,}",
        "client id": f"{bounds.CLIENT_ID_CHARS_MAX} characters",
        "ids of subscriptions and shape requests": f"{bounds.ID_CHARS_MAX} characters",
        "a transaction's position": f"{bounds.LSN_BYTES_MAX} bytes, below 2^{(bounds.LSN_MAX + 1).bit_length() - 1}",
        "a transaction's time": f"from 1 to 2^{(bounds.COMMIT_MS_MAX + 1).bit_length() - 1} - 1 ms",
    }.items():
        assert f"| {what} | {bound} |" in text
    assert f"window of {flow.WINDOW_TRANSACTIONS} transactions, of {flow.OWN_WINDOW_TRANSACTIONS} to" in text


def test_the_message_table_of_the_wire_reference_names_every_type_byte() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| (`Sat.+?`) \|", page_text("docs/reference/wire-protocol.md"), re.MULTILINE)
    documented = {
        int(number): name.strip("`")
        for numbers, names in rows
        for number, name in zip(numbers.split(", "), names.split(", "), strict=True)
    }
    head = page_text("proto/syncline/proto/satellite.proto").partition("\nsyntax")[0]
    assert documented == {int(number): name for number, name in re.findall(r"\b(\d+) (Sat\w+)", head)}


def test_every_error_code_is_in_a_family_of_the_wire_reference() -> None:
    text = page_text("docs/reference/wire-protocol.md")
    for family in errors.Family:
        (row,) = re.findall(rf"^\| {family.value} \| (.+?) \|", text, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", row):
            assert errors.family_of(code) is family, code
    for code in errors.ErrorCode:
        assert f"`{code.name}`" in text


def rooms() -> tuple[set[str], str]:
    """The folders named in the README's map, and the map."""
    (plan,) = [block.text for block in blocks(ROOT / "README.md") if block.text.startswith("cluster/ ")]
    folders: set[str] = set()
    above: list[tuple[int, str]] = []
    for line in plan.splitlines():
        if match := re.match(r"( *)(\w+)/( |$)", line):
            above = [(indent, folder) for indent, folder in above if indent < len(match[1])]
            above.append((len(match[1]), match[2]))
            folders.add("/".join(folder for _, folder in above))
    return folders, plan


def code_folder(place: str) -> Path:
    """``actors/shapes`` -> ``actors/syncline/actors/shapes``."""
    top, *below = place.split("/")
    return ROOT.joinpath(top, "syncline", top, *below) if top in CODE_FOLDERS else ROOT.joinpath(top, *below)


def test_every_folder_in_the_readmes_map_exists() -> None:
    folders, _ = rooms()
    assert {*CODE_FOLDERS, "docs", "tests", "benchmarks", "actors/postgres", "actors/shapes"} <= folders
    for folder in folders:
        assert code_folder(folder).is_dir(), folder


def test_every_module_in_the_readmes_map_exists_and_every_room_is_in_it() -> None:
    folders, plan = rooms()
    named = set(re.findall(r"\b(\w+\.py)\b", plan))
    modules = [path for folder in CODE_FOLDERS for path in (ROOT / folder / "syncline").rglob("*.py")]
    assert named <= {path.name for path in modules}
    assert {path.parent for path in modules} <= {code_folder(folder) for folder in folders}


def test_modules_that_the_map_calls_pure_do_not_wait() -> None:
    _, plan = rooms()
    waiting = {"asyncio", "asyncpg", "aiosqlite", "socket", "time", "random", "websockets"}
    room = ""
    for line in plan.splitlines():
        if match := re.match(r" *(\w+)/( |$)", line):
            room = match[1]
        for module in re.findall(r"\b\w+\.py\b", line) if room == "proto" or re.search(r"\bpure\b", line) else ():
            (path,) = [found for folder in CODE_FOLDERS for found in (ROOT / folder).rglob(f"{room}/{module}")]
            assert not imported(path) & waiting, path.relative_to(ROOT)


def imported(path: Path) -> set[str]:
    """Top-level names of the packages a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_modules_on_the_two_walks_exist() -> None:
    walks = page_text("README.md").partition("## The two walks")[2].partition("\n## ")[0]
    for step in re.findall(r"`(\w+/\w+)`", walks):
        if step.startswith("sql/"):
            continue
        room, module = step.split("/")
        found = [
            path
            for folder in CODE_FOLDERS
            for path in (ROOT / folder).rglob(f"{module}.py")
            if path.parent.name == room
        ]
        assert found, step


def test_the_tree_at_the_head_of_its_module_is_the_tree() -> None:
    head = ast.get_docstring(ast.parse(Path(tree.__file__).read_text())) or ""
    drawn = re.findall(r"[├└]── (\w+)", head)
    actors = {value for key, value in vars(names).items() if key.isupper() and isinstance(value, str)}
    spread = {names.ORIGIN, names.CLAIMS, names.WATERMARKS}  # of a service on several hosts
    assert actors - spread <= set(drawn)
    assert set(drawn) - actors | spread == {"origin", "edge", "claims", "watermarks"}
