"""The command-line tools: which there are, and how one is started.

Only the tool that runs is imported, and a tool imports pydicom, rich and uvloop when it needs them: a C-ECHO shall not
wait for a progress bar to load.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["TOOLS", "main", "run"]

TOOLS: Final = {
    "echoscu": "verify that a peer answers (C-ECHO)",
    "storescu": "send DICOM files and folders to a peer (C-STORE)",
    "storescp": "receive DICOM instances into a folder (C-STORE, C-ECHO)",
    "findscu": "look up what a peer has, or is to do (C-FIND)",
    "getscu": "retrieve instances on the association that asks for them (C-GET)",
    "movescu": "have a peer send instances to another, or to this tool (C-MOVE)",
    "printscu": "print images on films, or show a printer's status (print management)",
    "upsscu": "create, perform, look up and watch unified procedure steps",
    "qrscp": "keep an archive in a folder (C-STORE, C-FIND, C-MOVE, C-GET), with a worklist",
    "wlmscu": "ask for a modality's worklist (C-FIND)",
    "mppsscu": "report the steps that a modality performs (N-CREATE, N-SET)",
    "stgcmtscu": "ask whether instances are safe, and wait for the report (N-ACTION)",
    "certs": "make a CA, a server's and a client's certificate for tests and labs",
    "passwd": "set a user's password in a password file",
    "demo": "send real and large files to a server of its own, and compare what arrives",
}
"""The tools, each in a module of its name with a function ``main(argv) -> exit code``."""

_HELP_HINT = "'asyncdicom --help' lists the tools"


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """The entry point: runs a tool with the process's arguments and exits with its exit code."""
    raise SystemExit(main(sys.argv[1:] if argv is None else argv))


def main(argv: Sequence[str]) -> int:
    """Run the tool that the first argument names; returns the exit code."""
    _open_standard_streams()
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone; let nothing more be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell says of a program that SIGPIPE has ended
    except KeyboardInterrupt:
        return 130
    return code


def _open_standard_streams() -> None:
    """Put the null device where a standard stream is closed: a socket must not take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so the one that was closed
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _dispatch(argv: Sequence[str]) -> int:
    name = argv[0] if argv else ""
    if name in TOOLS:
        return int(import_module(f"{__name__}.{name}").main(list(argv[1:])))
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name == "--version":
        from asyncdicom import __version__  # noqa: PLC0415 - the package's own module, loaded already

        print(f"asyncdicom {__version__}")
        return 0
    print(f"asyncdicom: {_what_is_wrong(name)}; {_HELP_HINT}", file=sys.stderr)
    return 1


def _overview() -> str:
    width = max(map(len, TOOLS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in TOOLS.items()]
    return "\n".join(("usage: asyncdicom TOOL [options] ...", "", *lines, "", "'asyncdicom TOOL --help' says more."))


def _what_is_wrong(name: str) -> str:
    if not name:
        return "no tool was named"
    from difflib import get_close_matches  # noqa: PLC0415 - needed for this message only

    close = get_close_matches(name.lower(), TOOLS, 1)
    return f"there is no tool {name!r}" + (f", did you mean {close[0]!r}?" if close else "")
