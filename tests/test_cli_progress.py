import contextlib
import io

import pytest

from asyncdicom.cli import progress
from asyncdicom.cli.progress import counting


class Terminal(io.StringIO):
    def isatty(self):
        return True


def said(output, **options):
    with contextlib.redirect_stderr(output), counting(**options) as shown:
        shown.update(1, 3, 2_000_000)
        shown.update(2, None, 0)
    return output.getvalue()


def test_without_a_terminal_the_count_is_a_line_now_and_then(monkeypatch):
    assert said(io.StringIO(), quiet=False, lines_only=False) == ""
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.0)
    expected = "1 of 3 instances, 2.0 MB\n2 instances\n"
    assert said(io.StringIO(), quiet=False, lines_only=False) == expected
    assert said(Terminal(), quiet=False, lines_only=True) == expected


def test_quiet_counts_nothing(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.0)
    assert said(Terminal(), quiet=True, lines_only=False) == ""


def test_on_a_terminal_the_count_stands_before_a_bar(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    assert "2 instances" in said(Terminal(), quiet=False, lines_only=False)
