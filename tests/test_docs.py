"""What docs/security.md shows can be done as it stands there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_processes import ENVIRONMENT, run

pytest.importorskip("jwt")
pytest.importorskip("opentelemetry.sdk")

GUIDE = (Path(__file__).parent.parent / "docs" / "security.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def make_lab(folder):
    lab = next(line.split()[1:] for line in blocks("sh")[0].splitlines() if " certs init " in line)
    lab[lab.index("lab")] = str(folder / "lab")
    assert run(*lab).returncode == 0


def output(name, folder):
    """What a program of the guide prints, by the comment in its first line."""
    (program,) = (each for each in blocks("python") if each.startswith(f"# {name}.py\n"))
    options = {"cwd": folder, "env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 60}
    result = subprocess.run([sys.executable, "-c", program], check=False, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_guides_program_runs(tmp_path):
    make_lab(tmp_path)
    assert run("passwd", tmp_path / "users", "alice", input="secret\n").returncode == 0
    (tmp_path / "access.toml").write_text("".join(blocks("toml")))
    assert output("two_sides", tmp_path).endswith("CN=server 0000H Success (success)\n")
    assert "Application Stop" in (tmp_path / "audit.xml").read_text()


def test_the_guides_metrics_are_exported_and_all_of_them_are_in_its_table(tmp_path):
    make_lab(tmp_path)
    exported = json.loads(output("metrics", tmp_path))["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    names = {each["name"] for each in exported}
    table = GUIDE.partition("| `dicom.server.` |")[2].partition("\n\n")[0]
    assert names | {"dicom.server.audit.lost"} == {
        f"dicom.server.{name}" for name in re.findall(r"^\| `(\S+)`", table, re.MULTILINE)
    }
