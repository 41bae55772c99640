"""``asyncdicom passwd``: set a user's password in a password file, for ``serve(user_identity=PasswordFile(...))``.

The one tool without an event loop: Ctrl-C ends it while it asks.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Final

from asyncdicom import __version__
from asyncdicom.errors import IdentityConfigurationError
from asyncdicom.identity import set_password

from .console import say, to_stderr
from .exit_codes import ExitCode, ToolError
from .options import Tool, UsageError, help_text, parse
from .shared import CommonOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TOOL", "main"]

TOOL: Final = Tool(
    "passwd",
    "set a user's password in a password file",
    ("FILE USER",),
    CommonOptions,
    (),
    "The password is asked for on a terminal, and otherwise read from standard input: its first line. The file is made "
    "if there is none; it holds scrypt hashes, and only its owner may read it. To remove a user, delete the line. Exit "
    "codes: 0 done, 1 wrong command line, 22 the file, the user's name or the password cannot be used, 40 the file "
    "cannot be read or written.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    try:
        parsed = parse(TOOL, argv)
        if parsed.stop:
            print(help_text(TOOL) if parsed.stop == "help" else f"asyncdicom {__version__}")
            return ExitCode.OK
        return _set(parsed.words)
    except UsageError as error:
        to_stderr(f"asyncdicom passwd: {error}", "'asyncdicom passwd --help' lists the options")
        return ExitCode.SYNTAX
    except ToolError as error:
        to_stderr(f"asyncdicom passwd: {error}", error.hint)
        return error.code


def _set(words: Sequence[str]) -> int:
    if len(words) != 2:
        raise UsageError("a file and a user are needed, and no more: the password is asked for")
    file, user = words
    password = _password(user)
    try:
        is_new = set_password(file, user, password)
    except IdentityConfigurationError as error:
        raise ToolError(ExitCode.INVALID_INPUT, str(error)) from None
    except OSError as error:
        raise ToolError(ExitCode.CANNOT_WRITE, f"{file}: {error.strerror or error}") from None
    say(f"user {user} is {'new' if is_new else 'changed'}")
    return ExitCode.OK


def _password(user: str) -> str:
    """Twice from a terminal, or once from what stands in its place."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"password of {user}: ")
    if getpass.getpass("again: ") != password:
        raise ToolError(ExitCode.INVALID_INPUT, "the two passwords are not the same", "nothing was changed")
    return password
