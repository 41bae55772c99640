"""What the tools have in common that listen: the listening; and of those that do nothing else, options and end.

On SIGTERM and SIGINT no association is taken any more, and those that run have time to end; a second signal ends them.
On SIGHUP, files are read again that say who may do what.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import secrets
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asyncdicom import __version__
from asyncdicom.access import AccessPolicy
from asyncdicom.errors import DicomError
from asyncdicom.identity import AnyOf, JWTVerifier, PasswordFile
from asyncdicom.pdu import check_ae_title
from asyncdicom.server import serve

from .console import log, say
from .exit_codes import ExitCode, ToolError
from .options import Effect, Group, Option, UsageError, flag, value
from .peer import split_host_port
from .shared import ADDRESS_FAMILIES, TIMEOUTS, NetworkOptions, delay, number, seconds

if TYPE_CHECKING:
    from asyncdicom.audit import AuditTrail
    from asyncdicom.server import Server

__all__ = [
    "ACCESS",
    "DRAIN",
    "LISTENING",
    "ListeningOptions",
    "Signals",
    "listen",
    "listening_port",
    "run_server",
]


@dataclass(frozen=True, kw_only=True)
class ListeningOptions(NetworkOptions):
    """Of every tool that does nothing but listen."""

    aet: str = ""
    require_called_aet: bool = False
    max_associations: int = 1000
    drain: float = 30.0
    port_file: str = ""
    metrics: int = 0
    access_policy: str = ""
    password_file: str = ""
    jwt_key: str = ""
    jwt_algorithms: tuple[str, ...] = ()
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    users_optional: bool = False
    proxies: tuple[str, ...] = ()
    audit_file: str = ""
    audit_syslog: tuple[tuple[str, str, int], ...] = ()
    audit_associations: bool = False
    reload_interval: float = 60.0

    def check(self) -> None:
        """Also read what TLS needs."""
        super().check()
        if self.jwt_key and not self.jwt_algorithms:
            raise UsageError("--jwt-key needs --jwt-algorithm as well: by which algorithm tokens may be signed with it")
        about_tokens = (*self.jwt_algorithms, self.jwt_issuer, self.jwt_audience)
        if not self.jwt_key and any(each is not None for each in about_tokens):
            raise UsageError("options that begin with --jwt say something of --jwt-key, which is missing")
        if self.users_optional and not self._has_users:
            raise UsageError("--users-optional says something of --password-file or --jwt-key, and both are missing")
        if self.audit_associations and not (self.audit_file or self.audit_syslog):
            raise UsageError("--audit-associations says something of --audit-file or --audit-syslog, which are missing")
        _ = self.acceptor_tls

    @property
    def acceptance(self) -> dict[str, Any]:
        """Whose associations are accepted, as :func:`~asyncdicom.serve` takes it.

        Raises AccessPolicyError and IdentityConfigurationError for files that cannot be used.
        """
        return {
            "ae_title": self.aet if self.require_called_aet else None,
            "max_associations": self.max_associations,
            "proxies": self.proxies,
            "access": self._policy(),
            "user_identity": self._users(),
            "audit": self._audit_trail(),
            "reload_interval": self.reload_interval,
        }

    def _policy(self) -> AccessPolicy | None:
        """The access policy; the log says which of its rules can fit nobody."""
        if not self.access_policy:
            return None
        policy = AccessPolicy.from_toml(self.access_policy)
        for rule in policy.rules:
            if rule.certificates and (self.tls is None or self.verify == "off"):
                log.warning(
                    "rule %r fits nobody: certificates are verified with +tls only, and not with -ic", rule.name
                )
            if rule.users and not self._has_users:
                log.warning("rule %r fits nobody: users are verified with --password-file or --jwt-key only", rule.name)
        return policy

    @property
    def _has_users(self) -> bool:
        return bool(self.password_file or self.jwt_key)

    def _users(self) -> AnyOf | None:
        if not self._has_users:
            return None
        checks: list[PasswordFile | JWTVerifier] = [PasswordFile(self.password_file)] if self.password_file else []
        if self.jwt_key:
            issuer, audience = self.jwt_issuer, self.jwt_audience
            checks.append(JWTVerifier(self.jwt_key, algorithms=self.jwt_algorithms, issuer=issuer, audience=audience))
        return AnyOf(*checks, required=not self.users_optional)

    def _audit_trail(self) -> AuditTrail | None:
        if not (self.audit_file or self.audit_syslog):
            return None
        from asyncdicom.audit import AuditTrail, FileSink, Sink, SyslogSink  # noqa: PLC0415 - seldom needed

        if self.audit_file and (hint := _why_not_written(Path(self.audit_file))):
            raise ToolError(ExitCode.CANNOT_WRITE, f"the audit file {self.audit_file} cannot be written", hint)
        sinks: list[Sink] = [FileSink(self.audit_file)] if self.audit_file else []
        for transport, host, port in self.audit_syslog:
            ssl = self.collector_tls if transport == "tls" else None
            sinks.append(SyslogSink(host, port, transport=transport, ssl=ssl))
        return AuditTrail(self.aet, sinks, associations=self.audit_associations)

    @property
    def has_files(self) -> bool:
        """Whether there is anything that could be read again."""
        return bool(self.tls or self.access_policy or self._has_users)


def _why_not_written(file: Path) -> str:
    """Why a file cannot be appended to, or made, and what to do; nothing if it can."""
    if file.is_dir():
        return "it is a folder: name a file in it"
    if not file.parent.is_dir():
        return f"make its folder {file.parent} before"
    denied = not os.access(file if file.exists() else file.parent, os.W_OK)
    return "who runs this may not write there" if denied else ""


LISTENING: Final = (
    value(
        "-aet --aetitle --ae-title",
        "aet",
        "TITLE",
        "own AE title (any is answered without the next flag)",
        check_ae_title,
    ),
    flag("--require-called-aet", "require_called_aet", "reject those who call by another AE title than -aet"),
    value("-ba --bind-address", "bind_address", "ADDRESS", "listen on this local address only"),
    *ADDRESS_FAMILIES,
    value(
        "--max-associations",
        "max_associations",
        "NUMBER",
        "associations at a time; more are rejected as a local limit",
        number(1, 1_000_000),
    ),
    *TIMEOUTS,
    value(
        "--network-timeout",
        "idle_timeout",
        "SECONDS",
        "how long an association may be without any message",
        seconds,
    ),
    value("--port-file", "port_file", "FILE", "write the port into this file once it listens"),
    value(
        "--metrics",
        "metrics",
        "PORT",
        "serve what it counts to Prometheus, at http://127.0.0.1:PORT/metrics",
        number(1, 65535),
    ),
    value(
        "--drain",
        "drain",
        "SECONDS",
        "on SIGTERM or SIGINT, how long associations may go on (0: abort them)",
        delay,
    ),
)


def _collector(text: str) -> tuple[str, str, int]:
    transport, _, where = text.partition(":")
    if transport not in _SYSLOG_PORTS or not where:
        raise ValueError("tls:HOST:PORT, tcp:HOST:PORT or udp:HOST:PORT is the form of it")
    return transport, *split_host_port(where, _SYSLOG_PORTS[transport])


_SYSLOG_PORTS: Final = {"tls": 6514, "tcp": 601, "udp": 514}
"""What may be left out (RFC 5425, 3195, 5426)."""


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


ACCESS: Final = Group(
    "access and audit",
    (
        value("--access-policy", "access_policy", "FILE", "who may do what: the rules in this TOML file"),
        value(
            "--password-file",
            "password_file",
            "FILE",
            "take only users who are in this file, with their passwords; 'asyncdicom passwd' writes it",
        ),
        value(
            "--jwt-key",
            "jwt_key",
            "FILE",
            "take only users with a JSON web token that this key verifies (PEM public key or certificate, JSON web "
            "keys, or a shared secret); beside --password-file, those with either",
        ),
        Option(
            ("--jwt-algorithm",),
            "by which tokens may be signed, such as RS256, ES256 or HS256; may be repeated",
            "jwt_algorithms",
            ("NAME",),
            effect=Effect.APPEND,
        ),
        value("--jwt-issuer", "jwt_issuer", "TEXT", "who has to have issued them (anybody without it)"),
        value("--jwt-audience", "jwt_audience", "TEXT", "for whom they have to be (without it, they may not say)"),
        flag(
            "--users-optional",
            "users_optional",
            "also take those who send no user identity, as modalities do; rules of --access-policy can tell them apart",
        ),
        Option(
            ("--proxy",),
            "proxies in this network (10.0.0.0/8, 10.0.0.1) say for whom they connect (PROXY protocol)",
            "proxies",
            ("NETWORK",),
            read=_network,
            effect=Effect.APPEND,
        ),
        value("--audit-file", "audit_file", "FILE", "append audit messages (PS3.15 A.5) to this file"),
        Option(
            ("--audit-syslog",),
            "send them to this collector: tls:HOST:PORT, tcp:HOST:PORT or udp:HOST:PORT; over TLS, it is trusted as "
            "+cf and +cd say, or as the system does without TLS for associations",
            "audit_syslog",
            ("TRANSPORT:HOST:PORT",),
            read=_collector,
            effect=Effect.APPEND,
        ),
        flag("--audit-associations", "audit_associations", "have accepted associations reported too"),
        value(
            "--reload-interval",
            "reload_interval",
            "SECONDS",
            "how often to look whether certificates, access policy, passwords and keys of tokens have changed (0: on "
            "SIGHUP only)",
            delay,
        ),
    ),
)


def listening_port(words: list[str]) -> int:
    """The only word of the command line. Raises UsageError for another one."""
    if not words:
        raise UsageError("the port to listen on is missing (0 for any free one)")
    if len(words) > 1:
        raise UsageError(f"one word too many: {words[1]}")
    try:
        return number(0, 65535)(words[0])
    except ValueError as error:
        raise UsageError(f"port {words[0]}: {error}") from None


DRAIN: Final = 1.0
"""Seconds that, when a tool ends, an association may go on that the peer has opened, and keeps for later."""


async def listen(options: NetworkOptions, port: int, **more: Any) -> Server:
    """A server that listens as the options say; what more there is goes to :func:`~asyncdicom.serve`.

    Raises ToolError when the port cannot be listened on.
    """
    host = options.bind_address or _ANY_ADDRESS.get(options.family)
    if host is None and not port:
        host = "0.0.0.0"  # noqa: S104 - a free port is one of one address family
    try:
        return await serve(
            host,
            port,
            ssl=options.acceptor_tls,
            timeouts=options.timeouts,
            max_pdu_length=options.max_pdu,
            max_send_pdu_length=options.max_send_pdu,
            **more,
        )
    except OSError as error:
        where = f"{host or 'any address'} port {port}"
        message = f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"
        hint = "is another one running? port 0 takes a free port" if error.errno == errno.EADDRINUSE else _RIGHTS
        raise ToolError(ExitCode.LISTEN, message, hint) from error


_RIGHTS: Final = "port 0 takes a free one; ports below 1024 may need rights"
_ANY_ADDRESS: Final[dict[int, str]] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - what a server is for


async def run_server(server: Server, options: ListeningOptions, signals: Signals) -> None:
    """Say where the server listens, and serve until a signal comes and the associations have ended."""
    serving = asyncio.ensure_future(server.serve_forever())
    serving.add_done_callback(signals.end)
    try:
        if options.metrics:
            _serve_metrics(server, options.metrics)
        _announce(options, server)
        _warn(options)
        if options.has_files:
            with contextlib.suppress(NotImplementedError, AttributeError):  # Windows
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, server)
        await signals.first()
        if serving.done():
            await serving
        log.info("ending: %d associations have %g s to end", server.statistics.associations, options.drain)
        await _drain(server, options, signals)
    except RuntimeError as error:
        raise ToolError(ExitCode.INTERNAL, str(error)) from error
    finally:
        await server.close(0)
        await asyncio.gather(serving, return_exceptions=True)


def _serve_metrics(server: Server, port: int) -> None:
    """In a thread that ends with the process, beside what Prometheus's library tells of this one."""
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from prometheus_client import start_http_server  # noqa: PLC0415
    except ImportError as error:
        message = f"--metrics needs opentelemetry-exporter-prometheus ({error})"
        raise ToolError(ExitCode.CONFIGURATION, message, "install asyncdicom[prometheus]") from error
    from asyncdicom.metrics import observe  # noqa: PLC0415

    provider = MeterProvider([PrometheusMetricReader()], shutdown_on_exit=False)
    observe(server, provider.get_meter("asyncdicom", __version__))
    try:
        start_http_server(port, "127.0.0.1")
    except OSError as error:
        message = f"cannot serve metrics on 127.0.0.1 port {port}: {error.strerror or error}"
        raise ToolError(ExitCode.LISTEN, message, "give --metrics another port") from error


def _reload(server: Server) -> None:
    try:
        server.reload()
    except (DicomError, ToolError, OSError) as error:
        log.error("nothing is read again: %s", error)
    else:
        log.info("certificates, access policy, passwords and keys of tokens were read again")


def _warn(options: ListeningOptions) -> None:
    """Of what protects less than it seems to."""
    sent = " and ".join(
        what for what, file in (("passwords", options.password_file), ("tokens", options.jwt_key)) if file
    )
    if sent and options.tls is None and not options.proxies:
        log.warning("without +tls, the %s cross the network in the clear", sent)
    if options.tls is not None and options.profile == "legacy-null":
        log.warning("--profile-null encrypts nothing: all crosses the network in the clear")


def _announce(options: ListeningOptions, server: Server) -> None:
    for host, port in dict.fromkeys(server.addresses):
        if not options.quiet:
            say(f"listening on {host} port {port}")
    if options.port_file:
        target = Path(options.port_file).absolute()
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            part.write_text(f"{server.port}\n")
            part.replace(target)
        except OSError as error:
            message = f"the port file {target} cannot be written: {error.strerror}"
            raise ToolError(ExitCode.CANNOT_WRITE, message) from error


class Signals:
    """SIGTERM and SIGINT, counted; where the loop knows no signals (Windows) Ctrl-C cancels the tool's task."""

    def __init__(self) -> None:
        self._came = asyncio.Event()
        self._came_again = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number_ in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number_, self._take)
            except NotImplementedError:  # Windows
                return

    def _take(self) -> None:
        (self._came_again if self._came.is_set() else self._came).set()

    async def first(self) -> None:
        """Wait for the first one."""
        try:
            await self._came.wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.uncancel():
                return
            raise

    def end(self, _: object) -> None:
        """Do as if one had come."""
        self._came.set()

    async def second(self) -> None:
        """Wait for another one."""
        await self._came_again.wait()


async def _drain(server: Server, options: ListeningOptions, signals: Signals) -> None:
    """Give the running associations their time, unless a second signal comes."""
    closing = asyncio.ensure_future(server.close(options.drain))
    again = asyncio.ensure_future(signals.second())
    try:
        await asyncio.wait((closing, again), return_when=asyncio.FIRST_COMPLETED)
        await server.close(0)  # in order, that is: a closing that is cancelled kills workers, and what they counted
    finally:
        for task in (closing, again):
            task.cancel()
        await asyncio.gather(closing, again, return_exceptions=True)
