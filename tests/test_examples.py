"""The programs in examples/ do what they say."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def running(name, folder):
    """An example that serves; gives its port."""
    command = [sys.executable, str(EXAMPLES / name), "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=folder)
    try:
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.communicate()


def run(name, *arguments):
    """An example to its end; gives what it prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=True).stdout


def test_a_modality_has_its_day_in_the_hospital(tmp_path):
    with running("hospital.py", tmp_path) as port:
        said = run("modality.py", "127.0.0.1", port).splitlines()
    assert said[0] == "to do: Head"
    assert [line.split(":")[0] for line in said] == ["to do", "begun", "stored", "stored", "stored", "done", "safe"]
    assert all("0000H" in line for line in said[1:-1])
    assert said[-1] == "safe: 3 lost: 0"
    assert len(list((tmp_path / "hospital").iterdir())) == 3


def test_a_film_is_printed():
    said = run("printer.py").splitlines()
    assert said[0] == "the printer is NORMAL"
    assert [line for line in said if line.startswith("printing image")] != []
    assert said[-1] == "the job is DONE"
