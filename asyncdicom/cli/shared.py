"""What the tools have in common: groups of options, the event loop, making an association, and how a tool ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asyncdicom import __version__
from asyncdicom.association import Association, Timeouts
from asyncdicom.client import DEFAULT_MAX_PDU_LENGTH, DEFAULT_MAX_SEND_PDU_LENGTH, connect
from asyncdicom.errors import AssociationError, DicomError
from asyncdicom.pdu import UserIdentity, check_ae_title
from asyncdicom.quirks import Quirks
from asyncdicom.uids import name_of

from .console import LEVELS, log, set_up_logging, to_stderr
from .exit_codes import ExitCode, ToolError, explain, explain_connecting
from .keys import tag
from .options import Effect, Group, Option, UsageError, flag, help_text, nothing_to_do, parse, refused, value
from .peer import Peer, parse_at_form
from .tls_options import TLSOptions, list_ciphers, list_profiles

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from asyncdicom.presentation import Context
    from asyncdicom.requests import CStoreHandler, Service

    from .options import Tool

__all__ = [
    "ADDRESS_FAMILIES",
    "LOGGING",
    "LOOP",
    "PEER",
    "TIMEOUTS",
    "CommonOptions",
    "NetworkOptions",
    "RequestorOptions",
    "associate",
    "delay",
    "finish",
    "number",
    "one_of",
    "run_tool",
    "seconds",
]

_TIMEOUTS: Final = Timeouts()


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Of every tool."""

    log_level: str = "warn"
    loop: str = ""
    verbose_contexts: bool = False

    def check(self) -> None:
        """Look at them together, before anything is begun, while the terminal may be asked for what is missing.

        Raises UsageError for options that do not go together, and ToolError.
        """

    @property
    def quiet(self) -> bool:
        """Whether nothing is to be said."""
        return self.log_level == "fatal"

    @property
    def verbose(self) -> bool:
        """Whether more is to be said."""
        return self.log_level in ("info", "debug", "trace")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(TLSOptions, CommonOptions):
    """Of every tool that has a peer."""

    acse_timeout: float = _TIMEOUTS.acse
    dimse_timeout: float = _TIMEOUTS.dimse
    idle_timeout: float = _TIMEOUTS.idle
    connect_timeout: float = _TIMEOUTS.connect
    max_pdu: int = DEFAULT_MAX_PDU_LENGTH
    max_send_pdu: int = DEFAULT_MAX_SEND_PDU_LENGTH
    family: int = socket.AF_UNSPEC
    bind_address: str = ""

    @property
    def timeouts(self) -> Timeouts:
        """As the library takes them."""
        return Timeouts(
            self.connect_timeout, self.acse_timeout, self.dimse_timeout, self.idle_timeout, self.tls_timeout
        )


@dataclass(frozen=True, kw_only=True)
class RequestorOptions(NetworkOptions):
    """Of a tool that asks for associations."""

    aet: str = ""
    aec: str = ""
    connect: Peer | None = None
    abort: bool = False
    repeat: int = 1
    user: str = ""
    password: str | None = None
    token: tuple[int, bytes] | None = None
    positive_response: bool = False
    quirks: tuple[str, ...] = ()
    omit_keys: tuple[int, ...] = ()

    @property
    def peer_quirks(self) -> Quirks:
        """As the library takes them."""
        return Quirks(**dict.fromkeys(self.quirks, True), omit_keys=self.omit_keys)

    def check(self) -> None:
        """Also read what TLS needs."""
        super().check()
        for file in self.requestor_tls.unfit if self.requestor_tls is not None else ():
            log.warning(
                "the certificate %s is not for clients (extended key usage): servers that ask for it will refuse it; "
                "have one issued for clientAuth",
                file,
            )

    def user_identity(self) -> UserIdentity | None:
        """What the options say of the user. Raises UsageError for a password without a user."""
        if self.token is not None:
            kind, text = self.token
            return UserIdentity(kind, text, positive_response_requested=self.positive_response)
        if not self.user:
            if self.password is not None or self.positive_response:
                raise UsageError("-pwd, -epw and -rsp need a user (-usr)")
            return None
        secret = b"" if self.password is None else self.password.encode()
        kind = 1 if self.password is None else 2
        return UserIdentity(kind, self.user.encode(), secret, self.positive_response)


# Values


def number(low: int, high: int, *also: int) -> Callable[[str], int]:
    """Reads an integer of a range, or one of the others."""

    def read(text: str) -> int:
        wanted = f"a number from {low} to {high}" + "".join(f", or {each}" for each in also)
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"{wanted} is expected")
        if not low <= int(text) <= high and int(text) not in also:
            raise ValueError(f"{wanted} is expected")
        return int(text)

    return read


def seconds(text: str) -> float:
    """Reads how long to wait; DCMTK takes no 0 either."""
    if not (time := _time(text)) > 0:
        raise ValueError("a number of seconds above 0 is expected, or inf for no limit")
    return time


def delay(text: str) -> float:
    """Reads a time that may be 0."""
    if not 0 <= (time := _time(text)) < math.inf:
        raise ValueError("a number of seconds is expected, 0 or more")
    return time


def _time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def one_of(*words: str) -> Callable[[str], str]:
    """Reads one of a few words."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"one of {', '.join(words)} is expected")
        return text.lower()

    return read


QUIRKS: Final = tuple(name.replace("_", "-") for name, kind in Quirks.__annotations__.items() if kind == "bool")


def _quirk(text: str) -> str:
    return one_of(*QUIRKS)(text).replace("-", "_")


def _token(kind: int) -> Callable[[str], tuple[int, bytes]]:
    def read(text: str) -> tuple[int, bytes]:
        try:
            return kind, Path(text).read_bytes()
        except OSError as error:
            raise ValueError(error.strerror or str(error)) from None

    return read


# Options

LOGGING: Final = Group(
    "output",
    (
        flag("-q --quiet", "log_level", "print nothing", "fatal"),
        flag("-v --verbose", "log_level", "print processing details", "info"),
        flag("-d --debug", "log_level", "print the dialogue with the peer, and tracebacks", "debug"),
        value("-ll --log-level", "log_level", "LEVEL", f"one of {', '.join(LEVELS)}", one_of(*LEVELS)),
        refused("-lc --log-config", "log files are configured by the shell here; see -v, -d, -ll", "FILE"),
    ),
)

LOOP: Final = Group(
    "process",
    (
        value(
            "--loop",
            "loop",
            "NAME",
            "asyncio or uvloop; uvloop where it is installed",
            one_of("asyncio", "uvloop"),
        ),
    ),
)

_PDU = number(4096, 0xFFFFFFFF, 0)

TIMEOUTS: Final = (
    value(
        "-ta --acse-timeout",
        "acse_timeout",
        "SECONDS",
        "how long to wait for an association request or its answer, and for a release",
        seconds,
    ),
    value(
        "-td --dimse-timeout",
        "dimse_timeout",
        "SECONDS",
        "how long to wait for a response, for the rest of a message, and for the peer to take what is sent",
        seconds,
    ),
    value("--tls-timeout", "tls_timeout", "SECONDS", "how long a TLS handshake may take, once it has begun", seconds),
    nothing_to_do("-ts --socket-timeout", "every wait for the peer has its bound: see the other timeouts", "SECONDS"),
    value(
        "-pdu --max-pdu",
        "max_pdu",
        "BYTES",
        "longest PDU to receive, from 4096; 0 for any length",
        _PDU,
    ),
    value(
        "--max-send-pdu",
        "max_send_pdu",
        "BYTES",
        "longest PDU to send, also to peers that take longer ones",
        number(4096, 0xFFFFFFFF),
    ),
)

ADDRESS_FAMILIES: Final = (
    flag("-i4 --ipv4", "family", "use IPv4 only", socket.AF_INET),
    flag("-i6 --ipv6", "family", "use IPv6 only", socket.AF_INET6),
    flag("-i0 --ip-auto", "family", "use either", socket.AF_UNSPEC),
)

PEER: Final = Group(
    "network",
    (
        value(
            "-aet --aetitle --calling-aet", "aet", "TITLE", "own AE title (default: the tool's name)", check_ae_title
        ),
        value("-aec --call --called-aet", "aec", "TITLE", "the peer's AE title (default: ANY-SCP)", check_ae_title),
        value("-c --connect", "connect", "TITLE@HOST:PORT", "the peer, as dcm4che's tools name it", parse_at_form),
        value(
            "-to --timeout --connection-timeout",
            "connect_timeout",
            "SECONDS",
            "how long to wait for the connection",
            seconds,
        ),
        *TIMEOUTS,
        value(
            "-tn --network-timeout",
            "idle_timeout",
            "SECONDS",
            "how long an association may be without any message",
            seconds,
        ),
        *ADDRESS_FAMILIES,
        value("-ba --bind-address", "bind_address", "ADDRESS", "the local address to connect from, and to listen on"),
        value("--repeat", "repeat", "NUMBER", "do it so many times", number(1, 1 << 31)),
        flag("+v --verbose-pc", "verbose_contexts", "show the presentation contexts, with -v"),
        flag("--abort", "abort", "abort the association in the end, instead of releasing it"),
        value("-usr --user", "user", "NAME", "authenticate as this user"),
        value("-pwd --password", "password", "TEXT", "with this password (other users can see it in the process list)"),
        flag("-epw --empty-password", "password", "with an empty password", ""),
        value("-kt --kerberos", "token", "FILE", "authenticate with the Kerberos ticket in this file", _token(3)),
        value("--saml", "token", "FILE", "authenticate with the SAML assertion in this file", _token(4)),
        value("--jwt", "token", "FILE", "authenticate with the JSON web token in this file", _token(5)),
        flag("-rsp --pos-response", "positive_response", "fail unless the peer confirms the user"),
        Option(
            ("--quirk",),
            f"what this peer does otherwise than the standard has it, one of {', '.join(QUIRKS)}; may be repeated",
            "quirks",
            ("QUIRK",),
            read=_quirk,
            effect=Effect.APPEND,
        ),
        Option(
            ("--omit-key",),
            "a key that this peer must not see in a query, at any level of it; may be repeated",
            "omit_keys",
            ("TAG",),
            read=tag,
            effect=Effect.APPEND,
        ),
    ),
)


# Associations


async def associate(
    peer: Peer,
    options: RequestorOptions,
    title: str,
    contexts: Sequence[Context],
    c_store: CStoreHandler | None = None,
    *,
    services: Sequence[Service] = (),
) -> Association:
    """An association with the peer; ``title`` is the tool's own when the command line names none.

    ``c_store`` gets what the peer sends on it, ``services`` what else it asks for. Raises ToolError for what can go
    wrong with that.
    """
    host = peer.host
    try:
        if options.family != socket.AF_UNSPEC:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, peer.port, family=options.family, type=socket.SOCK_STREAM
            )
            host = str(found[0][4][0])
        association = await connect(
            host,
            peer.port,
            ssl=options.requestor_tls,
            server_hostname=options.server_name(peer.host),
            called_ae_title=options.aec or peer.called or "ANY-SCP",
            calling_ae_title=options.aet or peer.calling or title,
            contexts=contexts,
            c_store=c_store,
            services=services,
            user_identity=options.user_identity(),
            quirks=options.peer_quirks,
            timeouts=options.timeouts,
            max_pdu_length=options.max_pdu,
            max_send_pdu_length=options.max_send_pdu,
            local_address=(options.bind_address, 0) if options.bind_address else None,
        )
    except (DicomError, OSError) as error:
        failure = explain_connecting(error, over_tls=options.requestor_tls is not None)
        if isinstance(error, OSError) and not isinstance(error, DicomError):
            message = f"no connection to {peer.host} port {peer.port}: {error.strerror or error}"
            raise ToolError(ExitCode.NETWORK, message, "check the host name") from error
        raise ToolError(*failure) from error
    await _check_user_identity(association, options)
    _show_tls(association, options)
    _show_contexts(association, contexts, options)
    return association


async def finish(association: Association, *, abort: bool) -> None:
    """End an association on which everything is done; that the peer ends it badly changes nothing of that."""
    if abort:
        await association.abort()
        return
    try:
        await association.release()
    except AssociationError as error:
        log.warning("the association did not end in the ordinary way: %s", error)


async def _check_user_identity(association: Association, options: RequestorOptions) -> None:
    """A positive response was asked for (PS3.7 D.3.3.7.1): without one the peer may not have checked anything."""
    information = association.peer_information
    if options.positive_response and (information is None or information.user_identity_response is None):
        await association.abort()
        raise ToolError(ExitCode.NEGOTIATION, "the peer did not confirm the user", "without -rsp that is no condition")


def _show_tls(association: Association, options: CommonOptions) -> None:
    if not options.verbose or association.tls is None:
        return
    found = association.peer_certificate
    whose = f"{found.subject}, good until {found.not_after.date()}" if found else "a certificate that was not verified"
    log.info("%s, %s; the peer: %s", *association.tls, whose)


def _show_contexts(association: Association, contexts: Sequence[Context], options: CommonOptions) -> None:
    if not (options.verbose and options.verbose_contexts):
        return
    for index, proposed in enumerate(contexts):
        accepted = association.contexts.get(2 * index + 1)
        answer = name_of(accepted.transfer_syntax) if accepted else "refused"
        log.info("context %d, %s: %s", 2 * index + 1, name_of(proposed.abstract_syntax), answer)


# The life of a tool


def run_tool(tool: Tool, body: Callable[[Any, list[str]], Coroutine[Any, Any, int]], argv: Sequence[str]) -> int:
    """Read the command line, run the tool in an event loop, and say in a line or two what went wrong.

    ``body`` takes the options and the words that are none. Returns the exit code.
    """
    level = "warn"
    try:
        parsed = parse(tool, argv)
        if parsed.stop:
            print(_ANSWERS[parsed.stop](tool))
            return ExitCode.OK
        options: CommonOptions = tool.options_type(**parsed.fields)
        level = options.log_level
        set_up_logging(level)
        options.check()
        with asyncio.Runner(loop_factory=_loop_factory(options.loop)) as runner:
            return int(runner.run(_until_terminated(body(options, parsed.words))))
    except asyncio.CancelledError:
        return ExitCode.INTERRUPTED
    except UsageError as error:
        to_stderr(f"asyncdicom {tool.name}: {error}", f"'asyncdicom {tool.name} --help' lists the options")
        return ExitCode.SYNTAX
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the tool ends; the traceback is for who wants it
        failure = explain(error)
        if level != "fatal":
            to_stderr(f"asyncdicom {tool.name}: {failure.message}", failure.hint)
        if level in ("debug", "trace"):
            traceback.print_exception(error)
        return failure.code


_ANSWERS: Final[dict[str, Callable[[Tool], str]]] = {
    "help": help_text,
    "version": lambda _: f"asyncdicom {__version__}",
    "profiles": lambda _: list_profiles(),
    "ciphers": lambda _: list_ciphers(),
}
"""What is printed for an option that is answered instead of running the tool."""


async def _until_terminated(body: Coroutine[Any, Any, int]) -> int:
    """Have SIGTERM end the tool as Ctrl-C does: with what it has to say in the end."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await body


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The maker of event loops: uvloop's where it is installed, unless another was asked for."""
    if name == "asyncio" or (not name and sys.platform == "win32"):
        return None
    try:
        import uvloop  # noqa: PLC0415 - only where it runs
    except ImportError:
        if name:
            raise UsageError("uvloop is not installed; --loop asyncio runs without it") from None
        return None
    return uvloop.new_event_loop
