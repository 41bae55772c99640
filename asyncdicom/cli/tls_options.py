"""TLS in the tools: DCMTK's options for it, and the contexts that they stand for (PS3.15 annex B)."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from asyncdicom.association import Timeouts

from .exit_codes import ExitCode, ToolError
from .options import Effect, Group, Option, UsageError, flag, nothing_to_do, refused, value

if TYPE_CHECKING:
    from asyncdicom.tls import Context

__all__ = ["ACCEPTOR_TLS", "BOTH_TLS", "REQUESTOR_TLS", "KeyPassword", "TLSOptions", "list_ciphers", "list_profiles"]


class KeyPassword:
    """Asks for the password of a private key, once, if the key has one; remembers it for when the key is read again.

    Where there is a file with it in the first line, that is read, each time.
    """

    def __init__(self, key: str, file: str = "") -> None:
        self._key = key
        self._file = file
        self._password: str | None = None

    def __call__(self) -> str:
        """The password. Raises ToolError where nobody can be asked, or the file cannot be read."""
        if self._file:
            return self._read()
        if self._password is None:
            if sys.stdin is None or not sys.stdin.isatty():
                message = f"the private key {self._key} has a password, and there is no terminal to ask for it"
                raise ToolError(ExitCode.TLS, message, "--key-password-file FILE gives it")
            self._password = getpass.getpass(f"password of the private key {self._key}: ")
        return self._password

    def _read(self) -> str:
        try:
            return Path(self._file).read_text(encoding="utf-8").partition("\n")[0].removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", "") or "it is not in UTF-8"
            message = f"the file {self._file} with the password of the key {self._key} cannot be read: {why}"
            raise ToolError(ExitCode.TLS, message) from None


@dataclass(frozen=True, kw_only=True)
class TLSOptions:
    """What a command line says of TLS."""

    tls: tuple[str, ...] | None = None
    """Private key and certificate; empty for TLS without a certificate, None for none."""
    key_password: str | None = field(default=None, repr=False)
    """None: it is asked for."""
    key_password_file: str = ""
    trusted: tuple[str, ...] = ()
    crls: tuple[str, ...] = ()
    check_crls: str = ""
    profile: str = "8996"
    ciphers: tuple[str, ...] = ()
    dh_parameters: str = ""
    verify: Literal["off", "optional", "required"] = "required"
    check_host_name: bool = False
    sni: str | None = None
    """The name to ask for; empty for none, None for the host's."""
    expected_sni: tuple[str, ...] = ()
    tls_timeout: float = Timeouts().tls

    def check(self) -> None:
        """Raise UsageError for options that do not go together."""
        given = [each.name for each in fields(TLSOptions) if getattr(self, each.name) != each.default]
        if self.tls is None:
            if given:
                raise UsageError("options of TLS need +tls KEY CERTIFICATE, or +tla where a certificate is not needed")
            return
        if self.verify != "off" and not self.trusted:
            raise UsageError(
                "whose certificates are trusted? +cf FILE or +cd FOLDER says it; -ic looks at none: any peer is taken"
            )
        if self.key_password_file and self.key_password is not None:
            raise UsageError("--key-password-file does not go with +pw and -pw")
        if self.check_crls and not self.crls:
            raise UsageError("+crv and +cra look certificates up in revocation lists: +crl FILE names one")
        if self.check_host_name and (self.sni == "" or self.verify == "off"):
            raise UsageError("--check-host-name does not go with --no-sni and -ic")

    @cached_property
    def requestor_tls(self) -> Context | None:
        """The context to connect with, if there is TLS. Raises TLSConfigurationError and ToolError."""
        if self.tls is None:
            return None
        from asyncdicom.tls import client_context  # noqa: PLC0415 - only with TLS

        verify: Literal["off", "required"] = "off" if self.verify == "off" else "required"  # a server always has one
        return client_context(**self._both, verify=verify, check_host_name=self.check_host_name)

    @property
    def collector_tls(self) -> Context | None:
        """The context for a collector of audit messages, which has to have its name; None for the system's trust."""
        if self.tls is None or not self.trusted:
            return None
        from asyncdicom.tls import client_context  # noqa: PLC0415 - only with TLS

        return client_context(**self._both)

    def server_name(self, host: str) -> str | None:
        """Which name to ask the server of that host for; empty for none."""
        return None if self.tls is None else host if self.sni is None else self.sni

    @cached_property
    def acceptor_tls(self) -> Context | None:
        """The context to listen with, if there is TLS. Raises UsageError, TLSConfigurationError and ToolError."""
        if self.tls is None:
            return None
        if not self.tls:
            raise UsageError("who listens needs a certificate: +tls KEY CERTIFICATE instead of +tla")
        from asyncdicom.tls import profile_of, server_context  # noqa: PLC0415 - only with TLS

        has_dhe = any("_DHE_" in suite for suite in profile_of(self.profile).suites)
        return server_context(
            **self._both,
            client_certificate=self.verify,
            dh_parameters=self.dh_parameters if self.dh_parameters and has_dhe else None,
            server_names=dict.fromkeys(self.expected_sni, (self.tls[1], self.tls[0])),
            refuse_other_names=bool(self.expected_sni),
        )

    @cached_property
    def _both(self) -> dict[str, Any]:
        """What both sides' contexts take."""
        own: dict[str, Any] = {}
        if self.tls:
            key, certificate = self.tls
            password = KeyPassword(key, self.key_password_file) if self.key_password is None else self.key_password
            own = {"certificate": certificate, "key": key, "password": password}
        return own | {
            "profile": self.profile,
            "trusted": self.trusted,
            "crls": self.crls,
            "check_crls": self.check_crls or None,
            "ciphers": self.ciphers,
        }

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: other processes have their contexts from elsewhere."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _added(names: str, field: str, name: str, text: str) -> Option:
    return Option(tuple(names.split()), text, field, (name,), effect=Effect.APPEND)


def _two(key: str, certificate: str) -> tuple[str, str]:
    return key, certificate


_EITHER: Final = "PEM and DER are told apart"
_NO_SEED: Final = "random numbers are the system's"
_OFFLINE: Final = "'openssl verify' does it"

_STACK: Final = (
    flag("-tls --disable-tls", "tls", "connections without TLS (default)", None),
    value(
        "+tls --enable-tls --tls",
        "tls",
        "KEY CERTIFICATE",
        "TLS, with this private key and this certificate (and those between it and its CA)",
        _two,
    ),
)
_ANONYMOUS: Final = flag("+tla --anonymous-tls", "tls", "TLS without a certificate of one's own", ())
_NOT_ANONYMOUS: Final = refused("+tla --anonymous-tls", "who listens needs a certificate: +tls KEY CERTIFICATE")
_KEYS: Final = (
    flag("+ps --std-passwd", "key_password", "ask for the key's password, if it has one (default)", None),
    value(
        "+pw --use-passwd",
        "key_password",
        "PASSWORD",
        "the key's password (other users can see it in the process list)",
    ),
    flag("-pw --null-passwd", "key_password", "the key's password is empty", ""),
    value("--key-password-file", "key_password_file", "FILE", "the key's password is the first line of this file"),
    nothing_to_do("-pem --pem-keys", _EITHER),
    nothing_to_do("-der --der-keys", _EITHER),
)
_TRUST: Final = (
    _added("+cf --add-cert-file", "trusted", "FILE", "trust the certificates in this file"),
    _added("+cd --add-cert-dir", "trusted", "FOLDER", "trust the certificates in the files of this folder"),
    _added("+crl --add-crl-file", "crls", "FILE", "refuse certificates that this list revokes; implies +crv"),
    flag("+crv --enable-crl-vfy", "check_crls", "look for the peer's certificate in the lists", "certificate"),
    flag("+cra --enable-crl-all", "check_crls", "look for every certificate of its chain in the lists", "chain"),
)
_PROFILES: Final = (
    flag("+ph --list-profiles", "profiles", "list the profiles and exit", effect=Effect.STOP),
    flag("+pg --profile-8996", "profile", "BCP 195 RFC 8996, 9325 TLS profile (B.12; default)", "8996"),
    flag("+pm --profile-8996-mod", "profile", "modified BCP 195 RFC 8996, 9325 TLS profile (B.13)", "8996-mod"),
    flag("+py --profile-bcp195-nd", "profile", "non-downgrading BCP 195 TLS profile (B.10, retired)", "bcp195-nd"),
    flag("+px --profile-bcp195", "profile", "BCP 195 TLS profile (B.9, retired)", "bcp195"),
    flag("+pz --profile-bcp195-ex", "profile", "extended BCP 195 TLS profile (B.11, retired)", "bcp195-ex"),
    flag("+pa --profile-aes", "profile", "AES TLS profile (B.3, retired; for old peers only)", "legacy-aes"),
    flag("+pb --profile-basic", "profile", "basic TLS profile (B.1, retired; for old peers only)", "legacy-basic"),
    flag("+pn --profile-null", "profile", "authenticated, not encrypted (retired, of IHE ATNA)", "legacy-null"),
    flag("+cc --list-ciphers", "ciphers", "list the cipher suites and exit", effect=Effect.STOP),
    _added("+cs --cipher", "ciphers", "NAME", "add this cipher suite to the profile's"),
)
_DH: Final = value(
    "+dp --dhparam", "dh_parameters", "FILE", "Diffie-Hellman parameters, as PEM, for profiles with DHE suites"
)
_NO_DH: Final = nothing_to_do("+dp --dhparam", "a client takes the server's parameters", "FILE")
_SEED: Final = (
    nothing_to_do("+rs --seed", _NO_SEED, "FILE"),
    nothing_to_do("+ws --write-seed", _NO_SEED),
    nothing_to_do("+wf --write-seed-file", _NO_SEED, "FILE"),
)
_CALLING: Final = (
    value("--request-sni", "sni", "NAME", "ask the server for its certificate of this name (default: the host's)"),
    flag(
        "--check-host-name",
        "check_host_name",
        "fail unless the server's certificate is for the host, or for the name that --request-sni has",
    ),
    flag(
        "--no-host-name-check",
        "check_host_name",
        "any certificate of a trusted CA will do, whatever its name (default, as in DCMTK)",
        constant=False,
    ),
)
_NO_SNI: Final = flag("--no-sni", "sni", "ask the server for no name", "")
_LISTENING: Final = _added("--expect-sni", "expected_sni", "NAME", "refuse clients that ask for another name")
_NO_SNI_EXPECTED: Final = flag("--no-sni", "expected_sni", "take clients whatever name they ask for (default)", ())
_VERIFYING: Final = (
    flag("-rc --require-peer-cert", "verify", "the peer needs a certificate, and it is verified (default)", "required"),
    flag("-vc --verify-peer-cert", "verify", "a client needs no certificate; one that it has is verified", "optional"),
    flag("-ic --ignore-peer-cert", "verify", "no certificate of a peer is looked at: it may be anybody", "off"),
)
_VERIFYING_OFFLINE: Final = (
    refused("+vc --verify-cert", _OFFLINE, "FILE"),
    refused("+rc --is-root-cert", _OFFLINE, "FILE"),
)


def _group(*roles: Option, anonymous: Option, dh: Option) -> Group:
    rows = (*_STACK, anonymous, *_KEYS, *_TRUST, *_PROFILES, dh, *_SEED, *roles, *_VERIFYING, *_VERIFYING_OFFLINE)
    return Group("transport layer security", rows)


REQUESTOR_TLS: Final = _group(*_CALLING, _NO_SNI, anonymous=_ANONYMOUS, dh=_NO_DH)
"""Of a tool that only calls."""
ACCEPTOR_TLS: Final = _group(_LISTENING, _NO_SNI_EXPECTED, anonymous=_NOT_ANONYMOUS, dh=_DH)
"""Of a tool that only listens."""
BOTH_TLS: Final = _group(*_CALLING, _NO_SNI, _LISTENING, anonymous=_ANONYMOUS, dh=_DH)
"""Of a tool that does both, with the same certificate."""


# Lists


def list_profiles() -> str:
    """The profiles, with their options."""
    from asyncdicom.tls import PROFILES  # noqa: PLC0415 - needed for this only

    options = {option.constant: option.names for option in _PROFILES if option.field == "profile"}
    rows = [(*options[name], each.section, each.title, each.retired) for name, each in PROFILES.items()]
    return "\n".join(
        f"{short} {long:20} {section:8} {title}{' (retired)' if retired else ''}"
        for short, long, section, title, retired in rows
    )


def list_ciphers() -> str:
    """The cipher suites of the profiles, and those that ``+cs`` may add."""
    import ssl  # noqa: PLC0415 - needed for this only

    from asyncdicom.tls import PROFILES  # noqa: PLC0415

    own = dict.fromkeys(suite for each in PROFILES.values() for suite in (*each.tls13_suites, *each.suites))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:!aNULL:!eNULL")
    more = [each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    return "\n".join(("of the profiles:", *own, "", "those that +cs adds, by OpenSSL's names:", *more))
