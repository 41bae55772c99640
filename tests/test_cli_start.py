import subprocess
import sys

import pytest
from cli_processes import ENVIRONMENT, Receiver

SCRIPT = """
import sys
from asyncdicom.cli import main
code = main(sys.argv[1:])
print(*sys.modules)
raise SystemExit(code)
"""
SLOW = {"pydicom", "rich", "numpy", "cryptography", "difflib"}


def modules_of(*words):
    """What a tool's run has imported."""
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT, timeout=60)
    return set(done.stdout.split())


def test_an_echo_imports_neither_pydicom_nor_rich(tmp_path):
    with Receiver(tmp_path / "received") as receiver:
        assert modules_of("echoscu", *receiver.peer) & SLOW == set()


@pytest.mark.parametrize("name", ["echoscu", "storescu", "storescp", "demo"])
def test_only_the_tool_that_runs_is_imported(name):
    tools = {f"asyncdicom.cli.{each}" for each in ("echoscu", "storescu", "storescp", "demo")}
    imported = modules_of(name, "--help")
    assert imported & tools == {f"asyncdicom.cli.{name}"}
    assert imported & SLOW == set()


def test_uvloop_is_not_imported_when_asyncio_is_asked_for(tmp_path):
    with Receiver(tmp_path / "received") as receiver:
        assert "uvloop" not in modules_of("echoscu", *receiver.peer, "--loop", "asyncio")
