"""``asyncdicom echoscu``: verify that a peer answers (C-ECHO, PS3.4 annex A)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, Context
from asyncdicom.uids import TRANSFER_SYNTAXES, VERIFICATION

from .console import say
from .exit_codes import ExitCode, ToolError
from .options import Group, Tool, UsageError, value
from .peer import parse_peer
from .shared import LOGGING, LOOP, PEER, RequestorOptions, associate, finish, number, run_tool
from .syntaxes import PROPOSED_UNCOMPRESSED
from .tls_options import REQUESTOR_TLS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TOOL", "EchoOptions", "main"]


@dataclass(frozen=True, kw_only=True)
class EchoOptions(RequestorOptions):
    """What echoscu's command line sets."""

    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    syntaxes: int = 0
    contexts: int = 1


TOOL: Final = Tool(
    "echoscu",
    "verify that a peer answers (C-ECHO)",
    ("[OPTION]... HOST PORT", "[OPTION]... dicom://CALLING@HOST:PORT/CALLED", "[OPTION]... -c CALLED@HOST:PORT"),
    EchoOptions,
    (
        LOGGING,
        PEER,
        Group(
            "negotiation",
            (
                *PROPOSED_UNCOMPRESSED,
                value("-pts --propose-ts", "syntaxes", "NUMBER", "propose so many transfer syntaxes", number(1, 38)),
                value("-ppc --propose-pc", "contexts", "NUMBER", "propose so many contexts", number(1, 128)),
            ),
        ),
        LOOP,
        REQUESTOR_TLS,
    ),
    "Options may stand anywhere on the command line. Exit codes: 0 the peer answered, 1 wrong command line, 60 no "
    "connection, 61 rejected, 62 a failure status, 65 verification was not accepted, 70 aborted, lost or timed out, "
    "71 TLS failed.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _echo, argv)


async def _echo(options: EchoOptions, words: list[str]) -> int:
    peer, rest = parse_peer(words, options.connect)
    if rest:
        raise UsageError(f"one word too many: {rest[0]}")
    syntaxes = tuple(TRANSFER_SYNTAXES)[: options.syntaxes] if options.syntaxes else options.uncompressed
    contexts = [Context(VERIFICATION, syntaxes)] * options.contexts
    association = await associate(peer, options, "ECHOSCU", contexts)
    where = f"{association.called_ae_title} at {peer.host} port {peer.port}"
    try:
        for _ in range(options.repeat):
            start = time.perf_counter()
            status = await association.c_echo()
            if status.is_failure:
                raise ToolError(ExitCode.SEND, f"{where} answered {status}")
            if not options.quiet:
                say(f"{where} answered in {(time.perf_counter() - start) * 1000:.1f} ms")
    except BaseException:
        await association.abort()
        raise
    await finish(association, abort=options.abort)
    return ExitCode.OK
