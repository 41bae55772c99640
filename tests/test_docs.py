"""What docs/security.md shows can be done as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_processes import ENVIRONMENT, run

pytest.importorskip("jwt")

GUIDE = (Path(__file__).parent.parent / "docs" / "security.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def test_the_guides_program_runs(tmp_path):
    lab = next(line.split()[1:] for line in blocks("sh")[0].splitlines() if " certs init " in line)
    lab[lab.index("lab")] = str(tmp_path / "lab")
    assert run(*lab).returncode == 0
    assert run("passwd", tmp_path / "users", "alice", input="secret\n").returncode == 0
    (tmp_path / "access.toml").write_text("".join(blocks("toml")))
    (program,) = blocks("python")
    options = {"cwd": tmp_path, "env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 60}
    result = subprocess.run([sys.executable, "-c", program], check=False, **options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("CN=server 0000H Success (success)\n")
    assert "Application Stop" in (tmp_path / "audit.xml").read_text()
