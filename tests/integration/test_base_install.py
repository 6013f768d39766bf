"""The base install is the device library; the command says what it lacks to be the service."""

from __future__ import annotations

import subprocess
import sys

# A finder that hides the server's packages stands for an environment that never had them.
HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "typer rich asyncpg msgpack jwt dotenv scramp uvloop cryptography".split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HIDDEN + code], capture_output=True, text=True, check=False)


def test_the_device_library_needs_nothing_of_the_server() -> None:
    done = run("import syncline.client; print(syncline.client.open_db.__name__)")
    assert (done.returncode, done.stdout) == (0, "open_db\n"), done.stderr


def test_the_command_says_what_to_install() -> None:
    done = run("from syncline.actors.command import main; main()")
    assert done.returncode == 1
    assert "pip install 'syncline[server]'" in done.stderr
    assert "Traceback" not in done.stderr
