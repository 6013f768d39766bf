"""What the documentation says about the tree is true of the tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main
from tests.integration.docs_pages import ROOT, anchors, blocks, links, name, pages, runnable

from syncline.actors import names, tree
from syncline.actors.cli import app
from syncline.actors.config import SETTINGS, UNSUPPORTED

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
    assert {block.language for block, _ in runnable(page)} <= {"python", "sql", "sh"}


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = ROOT / "docs" / "README.md"
    linked = {(contents.parent / target).resolve() for target in links(contents)}
    singles = {page for page in ROOT.glob("docs/**/*.md") if page.parent.name != "decisions"}
    assert singles - {contents} <= linked


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


def rooms() -> tuple[set[str], str]:
    """The folders named in the README's map, and the map."""
    (plan,) = [block.text for block in blocks(ROOT / "README.md") if block.text.startswith("cluster/ ")]
    folders: set[str] = set()
    top = ""
    for line in plan.splitlines():
        if match := re.match(r"( *)(\w+)/( |$)", line):
            top = match[2] if not match[1] else top
            folders.add(f"{top}/{match[2]}" if match[1] else top)
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


def test_every_module_is_in_the_readmes_map_and_every_module_in_it_exists() -> None:
    _, plan = rooms()
    named = set(re.findall(r"\b(\w+\.py)\b", plan))
    modules = {
        path.name
        for folder in CODE_FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py" and path.parent.name != "demo" and not path.stem.endswith("_pb2")
    }
    assert named - modules == set(), "in the map, not in the tree"
    assert modules - named == set(), "in the tree, not in the map"


def test_modules_that_the_map_calls_pure_do_not_wait() -> None:
    _, plan = rooms()
    waiting = {"asyncio", "asyncpg", "aiosqlite", "socket", "time", "random", "websockets"}
    pure = {
        module
        for line in plan.splitlines()
        if re.search(r"\bpure\b", line)
        for module in re.findall(r"\b\w+\.py\b", line)
    }
    for path in (path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py")):
        if path.name in pure and path.parent.name not in ("client",):
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
    assert actors <= set(drawn)
    assert set(drawn) - actors == {"origin", "edge"}
