"""What a server has read from files, and reads again while it runs: its TLS context, who may do what, who users are.

Each of these is one object that is replaced as a whole: what has begun keeps the old one. What cannot be read again
leaves the old one in its place.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from .audit import AuditTrail

__all__ = ["RELOADED", "Reloadable"]

_log = logging.getLogger("asyncdicom")

RELOADED = {
    "_ssl": "the TLS context",
    "_access": "the access policy",
    "_check_identity": "the check of user identities",
}
"""By attribute. Objects with ``remade()``, which returns a new one of the same kind, and ``files``."""

_DAY = 86400.0
_EXPIRY_NOTICE = dt.timedelta(days=30)


class Reloadable:
    """The part of a server that reads its files again."""

    def __init__(self, *, ssl: ssl_module.SSLContext | Callable[[], ssl_module.SSLContext] | None) -> None:
        self._make_ssl = ssl if callable(ssl) else None
        self._ssl = _made_by(ssl) if callable(ssl) else ssl
        self._access: Any = None
        self._check_identity: Any = None
        self._audit: AuditTrail | None = None
        self._keeps_tls = False
        """Whether the event loop has the TLS context, for good."""
        self._reloading: asyncio.Task[None] | None = None
        self._seen: dict[str, _State] = {}
        """How files were when they were looked at last, by attribute."""

    @property
    def certificate_not_after(self) -> dt.datetime | None:
        """When the server's certificate expires; None without TLS, and for a context that does not say."""
        return getattr(self._ssl, "not_after", None)

    def reload_tls(self) -> None:
        """Give new connections a TLS context that is made again, from its files or by the function that makes it.

        Running ones keep theirs. A plain ``ssl.SSLContext`` stays as it is. What the making raises is raised, and the
        old one is kept: :class:`~asyncdicom.errors.TLSConfigurationError` for a certificate that cannot be used.
        NotImplementedError is raised on an event loop that cannot watch sockets: the usual one of Windows.
        """
        self._read_again("_ssl")

    def reload(self) -> None:
        """Read again all that was read from files: for TLS, the access policy, the check of user identities.

        All of it or nothing, then the reason is raised. Running associations keep what they have begun with.
        """
        self._read_again(*RELOADED)

    def _read_again(self, *names: str) -> None:
        fresh: dict[str, Any] = {}
        seen: dict[str, _State] = {}
        for name in names:
            seen[name] = _state_of(self._files(name))
            try:
                fresh[name] = self._made_again(name)
            except Exception as error:
                self._seen[name] = seen[name]  # it is told, once
                self._audit_change(name, str(error) or repr(error))
                raise
        self._replace(fresh)
        self._seen |= seen

    def _made_again(self, name: str) -> Any:
        if name == "_ssl" and self._keeps_tls:
            raise NotImplementedError(
                "the TLS context is the event loop's for good; not so on Windows's SelectorEventLoop"
            )
        if name == "_ssl" and self._make_ssl is not None:
            return _made_by(self._make_ssl)
        current = getattr(self, name)
        return current.remade() if hasattr(current, "remade") else current

    def _replace(self, fresh: dict[str, Any]) -> None:
        for name, each in fresh.items():
            if each is not getattr(self, name):
                setattr(self, name, each)
                self._tell_change(name)
        self._warn_of_certificates()

    def _tell_change(self, name: str) -> None:
        _log.info("= read again: %s", RELOADED[name])
        self._audit_change(name)

    def _audit_change(self, name: str, error: str = "") -> None:
        """To the audit trail: that something was replaced, or could not be."""
        if self._audit is not None:
            self._audit.configuration_changed(*self._files(name) or (RELOADED[name],), error=error)

    # By itself

    def _begin_reloading(self, interval: float) -> None:
        """Look after files and the certificate's end until :meth:`_end_reloading`; ``interval`` in seconds, or 0."""
        self._warn_of_certificates()
        if self.certificate_not_after is not None or (interval and any(map(self._files, RELOADED))):
            self._seen = {name: _state_of(self._files(name)) for name in RELOADED}
            self._reloading = asyncio.ensure_future(self._watch(interval or math.inf))

    def _end_reloading(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()

    async def _watch(self, interval: float) -> None:
        slept = 0.0
        while True:
            await asyncio.sleep(min(interval, _DAY))
            slept += min(interval, _DAY)
            if slept >= _DAY:
                slept = 0.0
                self._warn_of_certificates()
            for name in RELOADED if interval < math.inf else ():
                state = await asyncio.to_thread(_state_of, self._files(name))
                if state != self._seen[name]:
                    self._seen[name] = state
                    await self._reload_changed(name)

    async def _reload_changed(self, name: str) -> None:
        try:
            self._replace({name: await asyncio.to_thread(self._made_again, name)})
        except Exception as error:  # noqa: BLE001 - what a user's function raises
            _log.error("= %s cannot be read again, and stays as it is: %s", RELOADED[name], error)
            self._audit_change(name, str(error) or repr(error))

    def _files(self, name: str) -> tuple[Path, ...]:
        return getattr(getattr(self, name), "files", ())

    def _warn_of_certificates(self) -> None:
        """Of those that clients will refuse, now or soon."""
        for file in getattr(self._ssl, "unfit", ()):
            _log.warning(
                "= the certificate %s is not for servers (extended key usage): clients that verify it will refuse it; "
                "have one issued for serverAuth",
                file,
            )
        if (end := self.certificate_not_after) is None:
            return
        left = end - dt.datetime.now(dt.UTC)
        if left < dt.timedelta(0):
            _log.error("= the server's certificate has expired on %s: nobody will trust it", end.date())
        elif left < _EXPIRY_NOTICE:
            _log.warning("= the server's certificate expires in %d days, on %s", left.days, end.date())


def _made_by(make: Callable[[], ssl_module.SSLContext]) -> ssl_module.SSLContext:
    """What a user's function makes: None would be no TLS at all."""
    import ssl  # noqa: PLC0415 - only with TLS

    if not isinstance(context := make(), ssl.SSLContext):
        raise TypeError(f"ssl: the function returned {context!r}, and no ssl.SSLContext")
    return context


_State = list[tuple[int, ...] | None]


def _state_of(files: Iterable[Path]) -> _State:
    """What changes when a file is replaced or written, of a folder also its files."""
    state: _State = []
    for each in files:
        try:
            paths = (each, *sorted(each.iterdir())) if each.is_dir() else (each,)
        except OSError:
            paths = (each,)
        for path in paths:
            try:
                stat = path.stat()
            except OSError:
                state.append(None)
            else:
                state.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return state
