"""TLS as PS3.15 annex B has it: its secure transport connection profiles as contexts of ``ssl``, and who the peer is.

A profile (:data:`PROFILES`) is data. :func:`server_context` and :func:`client_context` make a :class:`Context` of it,
read back what OpenSSL made of that, and refuse what is not as the profile says. A context remembers what it was made
of, and can be made again when the files have changed, or in another process.

Nothing here does network I/O or knows an association. ``cryptography`` is imported when a certificate is read.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import hashlib
import os
import re
import secrets
import ssl
from dataclasses import dataclass, field, replace
from datetime import datetime  # noqa: TC003 - a dataclass's field, for whoever asks for its type hints
from pathlib import Path
from ssl import TLSVersion
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from .errors import TLSConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from cryptography.x509 import Certificate

    FileName = str | os.PathLike[str]
    FileNames = FileName | Iterable[FileName]
    Password = str | bytes | Callable[[], str | bytes] | None

__all__ = [
    "PROFILES",
    "Context",
    "PeerCertificate",
    "Profile",
    "certificate_of",
    "check_peer",
    "client_context",
    "describe",
    "profile_of",
    "server_context",
]

# Profiles

_GCM_ECDHE: Final = (
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
)
_GCM_DHE: Final = ("TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384")
_MODIFIED: Final = (
    *_GCM_ECDHE,
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CCM",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8",
)
_TLS13: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_TLS13_CCM: Final = ("TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256")


@dataclass(frozen=True, slots=True)
class Profile:
    """A secure transport connection profile, as far as it speaks of TLS. Suites have IANA's names."""

    name: str
    """As DCMTK calls its option, without ``--profile-``; ``legacy-`` before those that protect nothing any more."""
    section: str
    """Of PS3.15; "IHE ATNA" for the one that never was in the standard."""
    title: str
    minimum: TLSVersion
    maximum: TLSVersion
    suites: tuple[str, ...]
    """Of TLS 1.2 and before, as this side prefers them: AES-128 first, which costs 6 % less CPU time than AES-256."""
    tls13_suites: tuple[str, ...]
    """Of TLS 1.3; none where the profile ends before it."""
    rsa_bits: int = 2048
    """The shortest RSA key, and the shortest Diffie-Hellman prime."""
    ec_bits: int = 224
    """The smallest elliptic curve."""
    hash_bits: int = 256
    """The shortest hash that a certificate may be signed with."""
    security_level: int = 2
    """OpenSSL's: 2 holds the peer to 112 bits in keys and hashes, 0 to nothing."""
    extensible: bool = True
    """Whether suites may be added."""
    partial_client: bool = False
    """Whether a client may do with some of the suites; a server has to have all."""
    retired: bool = False
    """Whether the standard has retired it."""


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                "8996",
                "B.12",
                "BCP 195 RFC 8996, 9325 TLS",
                TLSVersion.TLSv1_2,
                TLSVersion.TLSv1_3,
                _GCM_ECDHE,
                _TLS13,
            ),
            Profile(
                "8996-mod",
                "B.13",
                "Modified BCP 195 RFC 8996, 9325 TLS",
                TLSVersion.TLSv1_2,
                TLSVersion.TLSv1_3,
                _MODIFIED,
                (*_TLS13, *_TLS13_CCM),
                ec_bits=256,
                extensible=False,
                partial_client=True,
            ),
            Profile(
                "bcp195-nd",
                "B.10",
                "Non-Downgrading BCP 195 TLS",
                TLSVersion.TLSv1_2,
                TLSVersion.TLSv1_3,
                (*_GCM_ECDHE, *_GCM_DHE),
                _TLS13,
                retired=True,
            ),
            Profile(
                "bcp195-ex",
                "B.11",
                "Extended BCP 195 TLS",
                TLSVersion.TLSv1_2,
                TLSVersion.TLSv1_2,
                (*_GCM_ECDHE, *_GCM_DHE),
                (),
                ec_bits=256,
                extensible=False,
                retired=True,
            ),
            Profile(
                "bcp195",
                "B.9",
                "BCP 195 TLS",
                TLSVersion.TLSv1_2,  # it allows to fall back to 1.0; RFC 8996, by now a part of BCP 195, does not
                TLSVersion.TLSv1_3,
                (*_GCM_ECDHE, *_GCM_DHE, "TLS_RSA_WITH_AES_128_CBC_SHA"),
                _TLS13,
                retired=True,
            ),
            Profile(
                "legacy-aes",
                "B.3",
                "AES TLS",
                TLSVersion.TLSv1,
                TLSVersion.TLSv1_2,
                ("TLS_RSA_WITH_AES_128_CBC_SHA",),
                (),
                rsa_bits=1024,
                hash_bits=160,
                security_level=0,
                retired=True,
            ),
            Profile(
                "legacy-basic",
                "B.1",
                "Basic TLS",
                TLSVersion.TLSv1,
                TLSVersion.TLSv1_2,
                ("TLS_RSA_WITH_3DES_EDE_CBC_SHA",),
                (),
                rsa_bits=1024,
                hash_bits=160,
                security_level=0,
                retired=True,
            ),
            Profile(
                "legacy-null",
                "IHE ATNA",
                "Authenticated unencrypted communication",
                TLSVersion.TLSv1,
                TLSVersion.TLSv1_2,
                ("TLS_RSA_WITH_NULL_SHA",),
                (),
                rsa_bits=1024,
                hash_bits=160,
                security_level=0,
                retired=True,
            ),
        )
    }
)
"""The profiles of PS3.15 annex B, by name."""

_BY_SECTION: Final = {profile.section: profile for profile in PROFILES.values()}


def profile_of(name: str | Profile) -> Profile:
    """The profile of that name ("8996") or section ("B.12"). Raises TLSConfigurationError if there is none."""
    if isinstance(name, Profile):
        return name
    found = PROFILES.get(name) or _BY_SECTION.get(name)
    if found is None:
        known = ", ".join(f"{each.name} ({each.section})" for each in PROFILES.values())
        raise TLSConfigurationError(f"there is no TLS profile {name!r}; there are {known}")
    return found


# Contexts

_OPENSSL_EC_BITS: Final = 224
"""What its security level 2 holds the peer to, which also takes a hash of 224 bits."""


class _Object(ssl.SSLObject):
    """Keeps what OpenSSL has to tell the peer when a handshake fails, which asyncio and uvloop never send.

    Also which names the peer's certificate has, if it is refused for these. And looks at the certificate where the
    profile asks for more than OpenSSL does.
    """

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.alert = self.outgoing.read()  # type: ignore[attr-defined]
            self.outgoing.write(error.alert)  # type: ignore[attr-defined]
            if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _NAME_ERRORS:
                with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):  # refused anyway
                    error.names = _host_names(certificate_of(self._refused()))  # type: ignore[attr-defined]
            raise
        profile = cast(Context, self.context).profile
        if profile.ec_bits > _OPENSSL_EC_BITS and self.context.verify_mode != ssl.CERT_NONE:
            der = self.getpeercert(binary_form=True)
            try:
                why = check_peer(der, profile) if der is not None else ""
            except ValueError as error:
                why = str(error)
            if why:
                refusal = ssl.SSLCertVerificationError(1, why)
                refusal.verify_code, refusal.verify_message = 0, why
                raise refusal

    def _refused(self) -> bytes:
        """The peer's certificate, where :meth:`getpeercert` has none as the handshake has failed."""
        # what the method of that name has, which came with CPython 3.13
        return cast(bytes, cast(Any, self)._sslobj.get_unverified_chain()[0].public_bytes(_DER))


_DER: Final = 2
"""Of the module ``_ssl``, which has no name for it elsewhere."""


class Context(ssl.SSLContext):
    """A context that knows its profile and its files; :func:`server_context` and :func:`client_context` make it.

    It can be pickled, and is made again from its files where it is unpickled; a password goes with it.
    """

    profile: Profile
    files: tuple[Path, ...]
    """Everything that it was read from: certificates, keys, trusted certificates, revocation lists; folders too."""
    not_after: datetime | None
    """When the first of its own certificates expires (UTC); None if it has none."""
    unfit: tuple[Path, ...]
    """Its own certificates that are not for this side, by their extended key usage (RFC 5280 4.2.1.12)."""
    _make: functools.partial[Context]
    """How it was made."""

    sslobject_class = _Object

    def wrap_bio(  # noqa: D102 - ssl's, whose objects give errors of handshakes the alert for the peer
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, *args, **options)
        cast(_Object, made).outgoing = outgoing
        return made

    def remade(self) -> Context:
        """A new context from the same arguments, for which all files are read again. This one stays as it is.

        Raises TLSConfigurationError.
        """
        return _made(self._make)

    def __reduce__(self) -> tuple[Callable[..., Context], tuple[functools.partial[Context]]]:
        return _made, (self._make,)


def _made(make: functools.partial[Context]) -> Context:
    context = make()
    context._make = make
    return context


def server_context(
    certificate: FileName,
    key: FileName | None = None,
    *,
    password: Password = None,
    profile: str | Profile = "8996",
    trusted: FileNames = (),
    client_certificate: Literal["off", "optional", "required"] = "off",
    crls: FileNames = (),
    check_crls: Literal["off", "certificate", "chain"] | None = None,
    ciphers: Iterable[str] = (),
    groups: Iterable[str] = (),
    dh_parameters: FileName | None = None,
    server_names: Mapping[str, tuple[FileName, FileName | None]] | None = None,
    refuse_other_names: bool = False,
) -> Context:
    """A context for the side that accepts connections.

    ``certificate`` is a file with the server's certificate and after it those that lead to its CA, ``key`` its private
    key, where that is not in the same file; PEM or DER. ``password`` decrypts the key: text, bytes, or a function that
    returns them. Nobody is ever prompted for it.

    ``profile`` is a name of :data:`PROFILES`, or a section of PS3.15 ("B.12").

    ``client_certificate`` says whether clients must show a certificate ("required"), may show one, which then has to be
    good ("optional"), or are not asked. ``trusted`` are the certificates that vouch for theirs: files (PEM or DER), and
    folders, of which all ``.pem``, ``.crt``, ``.cer`` and ``.der`` files count, and those that are named by a hash.

    ``crls`` are certificate revocation lists, files and folders as above. If there are any, ``check_crls`` says whether
    the certificate alone is looked up ("certificate") or all up to the CA ("chain"); each then needs a list in force.

    ``ciphers`` are suites of TLS 1.2 to add to the profile's (IANA's names, or OpenSSL's), ``groups`` those for the key
    exchange instead of OpenSSL's own ("x25519", "secp256r1"). ``dh_parameters`` is a PEM file for the DHE suites of
    older profiles; without it they use ffdhe2048 (RFC 7919).

    ``server_names`` are further certificates and keys, by the name that a client asks for (SNI); others get the first
    one, or are refused with ``refuse_other_names``, as is who asks for none.

    Raises TLSConfigurationError for files that cannot be read, keys and certificates that the profile forbids, and for
    what this Python or its OpenSSL cannot do.
    """
    names = {name.lower(): _pair(*files) for name, files in (server_names or {}).items()}
    arguments = _Arguments(
        profile_of(profile),
        _pair(certificate, key),
        password,
        _paths(trusted),
        _paths(crls),
        check_crls,
        tuple(ciphers),
        tuple(groups),
    )
    dh_file = None if dh_parameters is None else Path(dh_parameters).absolute()
    return _made(
        functools.partial(
            _make_server, arguments, client_certificate, dh_file, names, refuse_other_names=refuse_other_names
        )
    )


def client_context(
    *,
    trusted: FileNames = (),
    certificate: FileName | None = None,
    key: FileName | None = None,
    password: Password = None,
    profile: str | Profile = "8996",
    verify: Literal["required", "off"] = "required",
    check_host_name: bool = True,
    crls: FileNames = (),
    check_crls: Literal["off", "certificate", "chain"] | None = None,
    ciphers: Iterable[str] = (),
    groups: Iterable[str] = (),
) -> Context:
    """A context for the side that opens connections; the other arguments are :func:`server_context`'s.

    ``trusted`` are the certificates that vouch for the server's; without any, those of the system. ``certificate`` is
    shown to servers that ask for one. With ``check_host_name``, the server's certificate must be for the host name or
    the address that it is reached by (subject alternative names, DNS and IP). ``verify="off"`` takes every server for
    the right one.
    """
    arguments = _Arguments(
        profile_of(profile),
        None if certificate is None else _pair(certificate, key),
        password,
        _paths(trusted),
        _paths(crls),
        check_crls,
        tuple(ciphers),
        tuple(groups),
    )
    return _made(functools.partial(_make_client, arguments, verify, check_host_name=check_host_name))


@dataclass(frozen=True, slots=True)
class _Arguments:
    """What both sides have, ready to be kept: nothing of it changes or is used up."""

    profile: Profile
    own: tuple[Path, Path] | None
    """Certificate and key."""
    password: Password = field(repr=False)
    trusted: tuple[Path, ...]
    crls: tuple[Path, ...]
    check_crls: Literal["off", "certificate", "chain"] | None
    ciphers: tuple[str, ...]
    groups: tuple[str, ...]


def _paths(names: FileNames) -> tuple[Path, ...]:
    several = (names,) if isinstance(names, (str, os.PathLike)) else names
    return tuple(Path(name).absolute() for name in several)


def _pair(certificate: FileName, key: FileName | None) -> tuple[Path, Path]:
    return Path(certificate).absolute(), Path(key or certificate).absolute()


# Making them

_CLIENT_CERTIFICATE: Final = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_VERIFY: Final = {"off": ssl.CERT_NONE, "required": ssl.CERT_REQUIRED}
_CHECK_CRLS: Final = {
    "off": ssl.VERIFY_DEFAULT,
    "certificate": ssl.VERIFY_CRL_CHECK_LEAF,
    "chain": ssl.VERIFY_CRL_CHECK_CHAIN,
}


def _make_server(
    arguments: _Arguments,
    client_certificate: str,
    dh_parameters: Path | None,
    names: Mapping[str, tuple[Path, Path]],
    *,
    refuse_other_names: bool,
) -> Context:
    context = Context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = _CLIENT_CERTIFICATE[_one_of("client_certificate", client_certificate, _CLIENT_CERTIFICATE)]
    context.num_tickets = (
        0  # none of TLS 1.3 is resumed: 1,865 handshakes in a CPU second of both ends, 1,659 with two tickets
    )
    _set_up(context, arguments)
    if context.verify_mode != ssl.CERT_NONE and not arguments.trusted:
        raise TLSConfigurationError("client certificates are asked for: name who vouches for them in trusted")
    if any("_DHE_" in suite for suite in arguments.profile.suites):
        _load_dh_parameters(context, arguments.profile, dh_parameters)
        context.files += () if dh_parameters is None else (dh_parameters,)
    elif dh_parameters is not None:
        raise TLSConfigurationError(f"{_title(arguments.profile)} has no DHE suites: leave dh_parameters out")
    others = {
        name: _make_server(replace(arguments, own=own), client_certificate, dh_parameters, {}, refuse_other_names=False)
        for name, own in names.items()
    }
    several = (context, *others.values())
    context.files = tuple(dict.fromkeys(file for each in several for file in each.files))
    context.not_after = min(each.not_after for each in several if each.not_after)
    context.unfit = tuple(dict.fromkeys(file for each in several for file in each.unfit))
    if others or refuse_other_names:
        context.sni_callback = functools.partial(_choose_certificate, others, refuse_other_names)
    return context


def _choose_certificate(
    others: Mapping[str, Context], refuse: object, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext
) -> int | None:
    """Server name indication (RFC 6066 3)."""
    context = others.get((name or "").lower())
    if context is not None:
        connection.context = context
    elif refuse:
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    return None


def _make_client(arguments: _Arguments, verify: str, *, check_host_name: bool) -> Context:
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    mode = _VERIFY[_one_of("verify", verify, _VERIFY)]
    context.check_hostname = check_host_name and mode != ssl.CERT_NONE
    context.verify_mode = mode
    _set_up(context, arguments)
    if mode != ssl.CERT_NONE and not arguments.trusted:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _set_up(context: Context, arguments: _Arguments) -> None:
    """What both sides have in common."""
    profile = context.profile = arguments.profile
    context.set_alpn_protocols(["dicom"])  # as DCMTK's requestors
    # neither renegotiation (RFC 9325 3.5) nor tickets, and the profile's order of suites
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    _set_versions(context, profile)
    _set_suites(context, profile, arguments.ciphers)
    _set_groups(context, profile, arguments.groups)
    files: list[Path] = []
    context.not_after, context.unfit = None, ()
    if arguments.own is not None:
        context.not_after = _load_own(context, *arguments.own, arguments.password, profile)
        files += arguments.own
    files += _load_trusted(context, arguments.trusted)
    files += _load_crls(context, arguments.crls, arguments.check_crls)
    context.files = tuple(dict.fromkeys(files))


def _title(profile: Profile) -> str:
    return f"TLS profile {profile.name} ({profile.section})"


def _one_of(what: str, given: str, known: Mapping[str, object]) -> str:
    if given not in known:
        raise TLSConfigurationError(f"{what} is one of {', '.join(known)}, and not {given!r}")
    return given


# Versions, suites, groups


def _set_versions(context: Context, profile: Profile) -> None:
    if profile.minimum < TLSVersion.TLSv1_2 and not ssl.HAS_TLSv1:
        raise TLSConfigurationError(f"{_title(profile)} needs TLS 1.0, which {ssl.OPENSSL_VERSION} was built without")
    # by its own name, TLS 1.0 would bring a warning; OP_NO_SSLv3 is always set
    oldest = TLSVersion.MINIMUM_SUPPORTED if profile.minimum == TLSVersion.TLSv1 else profile.minimum
    context.minimum_version, context.maximum_version = oldest, profile.maximum


def _openssl_name(suite: str) -> str:
    """What OpenSSL calls a suite of TLS 1.2 (TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: ECDHE-RSA-AES128-GCM-SHA256)."""
    exchange, _, rest = suite.removeprefix("TLS_").partition("_WITH_")
    if not rest:
        return suite
    for theirs, ours in _OPENSSL_WORDS:
        rest = rest.replace(theirs, ours)
    return ("" if exchange == "RSA" else f"{exchange}-").replace("_", "-") + rest.replace("_", "-")


_OPENSSL_WORDS: Final = (
    ("3DES_EDE_CBC", "DES-CBC3"),
    ("AES_", "AES"),
    ("CAMELLIA_", "CAMELLIA"),
    ("_CBC", ""),
    ("CCM_8", "CCM8"),
    ("POLY1305_SHA256", "POLY1305"),
)


def _set_suites(context: Context, profile: Profile, added: tuple[str, ...]) -> None:
    """Set the suites, and read back what has become of them: OpenSSL leaves out in silence what it does not know."""
    if added and not profile.extensible:
        raise TLSConfigurationError(f"{_title(profile)} permits no other suites than its own: leave ciphers out")
    names = map(_openssl_name, (*profile.suites, *added))
    with contextlib.suppress(ssl.SSLError):  # that none of them is known is seen below
        context.set_ciphers(f"{':'.join(names)}:@SECLEVEL={profile.security_level}")
    if profile.tls13_suites and (set_tls13 := getattr(context, "set_ciphersuites", None)):  # Python 3.15
        set_tls13(":".join(profile.tls13_suites))
    there = {each["name"]: each for each in context.get_ciphers()}
    for suite in added:
        if (each := there.get(_openssl_name(suite))) and (each["strength_bits"] < 112 or each["auth"] == "auth-null"):
            raise TLSConfigurationError(f"{suite} protects nothing, and no profile permits to add it")
    if profile.tls13_suites:
        tls13 = {name for name, each in there.items() if each["protocol"] == "TLSv1.3"}
        if others := tls13.difference(profile.tls13_suites):
            names_of_others = ", ".join(sorted(others))
            raise TLSConfigurationError(f"OpenSSL's configuration has {names_of_others}: {_title(profile)} forbids it")
    _check_missing(context, profile, added)


def _check_missing(context: Context, profile: Profile, added: tuple[str, ...]) -> None:
    """A server needs all suites of its profile; a client of B.13 may do with some of them, others have to have all."""
    bits = 112 if profile.security_level else 0  # OpenSSL 3.2 and later pass over CCM_8 then, which they give 64
    usable = {each["name"] for each in context.get_ciphers() if each["strength_bits"] >= bits}
    needed = (*profile.suites, *added, *profile.tls13_suites)
    missing = [suite for suite in needed if _openssl_name(suite) not in usable]
    if missing and (context.protocol == ssl.PROTOCOL_TLS_SERVER or not profile.partial_client):
        what = f"{ssl.OPENSSL_VERSION}, as it is configured here, cannot do {', '.join(missing)}"
        raise TLSConfigurationError(f"no {_title(profile)}: {what}; {_remedy(profile)}")


def _remedy(profile: Profile) -> str:
    if profile.partial_client:
        return (
            "Python 3.15 can switch suites of TLS 1.3 on, and so can Ciphersuites in OpenSSL's configuration;"
            f" profile 8996 has no suite that {profile.section} forbids"
        )
    return "use a profile of today, or a Python whose OpenSSL has it"


def _set_groups(context: Context, profile: Profile, groups: tuple[str, ...]) -> None:
    """Groups for the key exchange, where the caller has chosen some."""
    if bad := [group for group in groups if _GROUP_BITS.get(group.lower(), 0) < profile.ec_bits]:
        known = ", ".join(name for name, bits in _GROUP_BITS.items() if bits >= profile.ec_bits)
        raise TLSConfigurationError(f"{_title(profile)} has no group {', '.join(bad)}; it has {known}")
    names = [_GROUP_NAMES.get(group.lower(), group.lower()) for group in groups]
    if len(names) == 1:
        try:
            context.set_ecdh_curve(names[0])
        except (ssl.SSLError, ValueError) as error:  # 3.11.2 knows no X25519
            raise TLSConfigurationError(f"this Python's ssl cannot set the group {groups[0]}: {error}") from error
    elif names and (set_groups := getattr(context, "set_groups", None)):  # Python 3.15
        set_groups(":".join(names))
    elif names:
        raise TLSConfigurationError("before 3.15 Python can set one group only: name one, or none for OpenSSL's choice")


_GROUP_BITS: Final = {
    "x25519": 256,
    "x448": 448,
    "secp224r1": 224,
    "secp256r1": 256,
    "secp384r1": 384,
    "secp521r1": 521,
}
_GROUP_NAMES: Final = {"x25519": "X25519", "x448": "X448", "secp256r1": "prime256v1"}
"""OpenSSL's, where they differ."""


# Diffie-Hellman


def _load_dh_parameters(context: Context, profile: Profile, file: Path | None) -> None:
    """Ephemeral Diffie-Hellman takes a group, and Python's ssl has none of its own."""
    try:
        if file is not None:
            _read(file)
            context.load_dh_params(str(file))
            return
        with _as_file(_FFDHE2048) as path:
            context.load_dh_params(path)
    except ssl.SSLError as error:
        if error.reason == "DH_KEY_TOO_SMALL":
            raise TLSConfigurationError(f"{file}: {_title(profile)} has {profile.rsa_bits} bits or more") from error
        raise TLSConfigurationError(f"{file} holds no Diffie-Hellman parameters in PEM") from error


_FFDHE2048: Final = b"""-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group ffdhe2048 (RFC 7919 A.1)."""


# Files

_PEM: Final = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )??(CERTIFICATE|CRL)-----([^-]*)-----END")
_IN_FOLDERS: Final = re.compile(r".*\.(?:pem|crt|cer|der|crl|r?[0-9]+)", re.IGNORECASE)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TLSConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error


def _found(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Files and those in folders, with whether they were named."""
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        try:
            yield from ((each, False) for each in sorted(path.iterdir()) if _IN_FOLDERS.fullmatch(each.name))
        except OSError as error:
            raise TLSConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error


def _blocks(file: Path, kind: bytes) -> list[bytes]:
    """The certificates or revocation lists of a file, as DER."""
    data = _read(file)
    if not _is_pem(data):
        return [data] if data.startswith(b"\x30") else []
    try:
        return [binascii.a2b_base64(body) for found, body in _PEM.findall(data) if found == kind]
    except binascii.Error as error:
        raise TLSConfigurationError(f"{file} cannot be read: {_flaw(data, kind)}") from error


def _load_trusted(context: Context, paths: tuple[Path, ...]) -> list[Path]:
    """Trust the certificates of files and folders. Returns what is to be looked at for changes."""
    files = list(paths)
    count = 0
    for file, named in _found(paths):
        blocks = _blocks(file, b"CERTIFICATE")
        try:
            if blocks:
                context.load_verify_locations(cadata=b"".join(blocks))
        except (ssl.SSLError, ValueError) as error:
            if named:
                why = _flaw(_read(file), b"CERTIFICATE")
                raise TLSConfigurationError(f"{file} cannot be read as certificates: {why}") from error
            continue
        if named and not blocks:
            raise TLSConfigurationError(f"{file} holds no certificate: {_flaw(_read(file), b'CERTIFICATE')}")
        if blocks:
            count += len(blocks)
            files.append(file)
    if paths and not count:
        raise TLSConfigurationError(f"there is no certificate in {', '.join(map(str, paths))}")
    return files


def _load_crls(context: Context, paths: tuple[Path, ...], check: str | None) -> list[Path]:
    """Certificate revocation lists (RFC 5280 5)."""
    what = _one_of("check_crls", check or ("certificate" if paths else "off"), _CHECK_CRLS)
    if (what != "off") != bool(paths):
        raise TLSConfigurationError(f"check_crls is {what!r}, and crls names {'some' if paths else 'none'}")
    if not paths:
        return []
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415
    from cryptography.x509 import load_der_x509_crl  # noqa: PLC0415

    files = list(paths)
    pem = b""
    for file, named in _found(paths):
        try:
            blocks = _blocks(file, b"CRL")
            pem += b"".join(load_der_x509_crl(block).public_bytes(Encoding.PEM) for block in blocks)
        except ValueError as error:
            blocks = []
            if named and isinstance(error, TLSConfigurationError):
                raise
            if named:
                why = _flaw(_read(file), b"CRL")
                raise TLSConfigurationError(f"{file} cannot be read as revocation lists: {why}") from error
        if named and not blocks:
            raise TLSConfigurationError(f"{file} holds no revocation list: {_flaw(_read(file), b'CRL')}")
        if blocks:
            files.append(file)
    if not pem:
        raise TLSConfigurationError(f"there is no revocation list in {', '.join(map(str, paths))}")
    with _as_file(pem) as path:
        context.load_verify_locations(path)
    context.verify_flags |= _CHECK_CRLS[what]
    return files


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """For what Python's ssl takes from files only."""
    with TemporaryDirectory(prefix="asyncdicom-") as folder:
        path = Path(folder) / "data.pem"
        path.write_bytes(data)
        yield str(path)


# The own certificate


def _load_own(context: Context, certificate: Path, key: Path, password: Password, profile: Profile) -> datetime:
    """Load certificate and key, after a look at what they are. Returns when the certificate expires."""
    from cryptography import x509  # noqa: PLC0415

    data = _read(certificate)
    try:
        chain = x509.load_pem_x509_certificates(data) if _is_pem(data) else [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        why = _flaw(data, b"CERTIFICATE")
        hint = "; are key and certificate in the wrong order?" * why.endswith("PRIVATE KEY")
        raise TLSConfigurationError(f"{certificate} cannot be read as a certificate: {why}{hint}") from error
    for each in chain:
        if weakness := _weakness(each, profile):
            raise TLSConfigurationError(f"{certificate}: {weakness}")
    _load_pair(context, certificate, key, data, password)
    if not _is_for(chain[0], is_server=context.protocol == ssl.PROTOCOL_TLS_SERVER):
        context.unfit = (certificate,)
    return chain[0].not_valid_after_utc


def _is_for(certificate: Certificate, *, is_server: bool) -> bool:
    """Whether a certificate may be shown by this side; one that does not say, or cannot be read, may be."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID as Use  # noqa: PLC0415

    try:
        with _odd_is_value_error():
            uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return True
    return Use.ANY_EXTENDED_KEY_USAGE in uses or (Use.SERVER_AUTH if is_server else Use.CLIENT_AUTH) in uses


def _weakness(certificate: Certificate, profile: Profile) -> str:
    """What a profile does not allow in a certificate, or nothing."""
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa  # noqa: PLC0415

    key = certificate.public_key()
    wanted = _title(profile)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < profile.rsa_bits:
        return f"an RSA key of {key.key_size} bits; {wanted} has {profile.rsa_bits} or more"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < profile.ec_bits:
        return f"a key on a curve of {key.key_size} bits; {wanted} has {profile.ec_bits} or more"
    has_only_rsa = not profile.tls13_suites and not any("_ECDSA_" in suite for suite in profile.suites)
    if isinstance(key, dsa.DSAPublicKey) or (has_only_rsa and not isinstance(key, rsa.RSAPublicKey)):
        return f"no key that {wanted} can use; it takes RSA{'' if has_only_rsa else ' and elliptic curves'}"
    algorithm = certificate.signature_hash_algorithm  # none for Ed25519 and Ed448
    if algorithm is not None and certificate.issuer != certificate.subject:  # nobody looks at a root's own signature
        if algorithm.digest_size * 8 < profile.hash_bits:
            return f"signed with {algorithm.name.upper()}; {wanted} has hashes of {profile.hash_bits} bits or more"
    return ""


def _load_pair(context: Context, certificate: Path, key: Path, data: bytes, password: Password) -> None:
    """Give certificate and key to OpenSSL; it must never prompt for a password."""
    asked: list[bool] = []

    def secret() -> str | bytes:
        asked.append(True)
        if password is None:
            raise TLSConfigurationError(f"the key {key} is encrypted: give its password")
        return password() if callable(password) else password

    try:
        with contextlib.ExitStack() as stack:
            certificate_pem, key_pem, give = str(certificate), str(key), secret
            if not _is_pem(data):
                certificate_pem = stack.enter_context(_as_file(ssl.DER_cert_to_PEM_cert(data).encode()))
            if not _is_pem(key_data := _read(key)):
                token = secrets.token_hex(32)
                key_pem = stack.enter_context(_as_file(_der_key_as_pem(key_data, secret, token)))
                give = functools.partial(str, token)
            context.load_cert_chain(certificate_pem, key_pem, give)
    except (ssl.SSLError, ValueError, TypeError) as error:
        if isinstance(error, TLSConfigurationError):
            raise
        raise TLSConfigurationError(_why_not_loaded(error, certificate, key, asked=bool(asked))) from error


def _is_pem(data: bytes) -> bool:
    return b"-----BEGIN" in data


_PKCS12: Final = b"\x02\x01\x03"
"""What its outermost sequence begins with (RFC 7292 4)."""


def _flaw(data: bytes, kind: bytes) -> str:
    """Why nothing of this kind (its label in PEM) can be read from a file, where that has failed."""
    if not data.strip():
        return "it is empty"
    labels = [label.decode() for label in re.findall(rb"-----BEGIN ([A-Z0-9 ]+)-----", data)]
    if labels and not any(label.endswith(kind.decode()) for label in labels):
        return f"it holds {'an' if labels[0][0] in 'EIORX' else 'a'} {labels[0]}"
    if not labels and not data.startswith(b"\x30"):
        return "it is neither PEM nor DER"
    if _PKCS12 in data[2:9]:
        return "it looks like PKCS #12; 'openssl pkcs12 -in FILE' makes PEM of it"
    return "it is damaged, or of a kind that is not known"


def _der_key_as_pem(data: bytes, secret: Callable[[], str | bytes], token: str) -> bytes:
    """A key as PEM, encrypted with a password of the moment: no key is ever written as it is."""
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415

    try:
        key = s.load_der_private_key(data, None)
    except TypeError:  # it is encrypted
        given = secret()
        key = s.load_der_private_key(data, given.encode() if isinstance(given, str) else given)
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(token.encode()))


def _why_not_loaded(error: Exception, certificate: Path, key: Path, *, asked: bool) -> str:
    reason = getattr(error, "reason", None)
    if reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return f"the key {key} is not the one of the certificate {certificate}"
    if asked:
        return f"the key {key} cannot be decrypted: the password is wrong"
    if reason and reason.endswith(("_TOO_SMALL", "_TOO_WEAK")):
        return f"certificate {certificate} and key {key} cannot be loaded: {reason.replace('_', ' ').lower()}"
    flaw = _flaw(_read(key), b"PRIVATE KEY")
    hint = "; name the file that has the key" * flaw.endswith("CERTIFICATE")
    return f"{key} cannot be read as a private key: {flaw}{hint}"


# Who the peer is


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A certificate (RFC 5280) in words. Whether it was verified is for whoever has the connection to know."""

    subject: str
    """Its distinguished name (RFC 4514)."""
    issuer: str
    """Its CA's distinguished name (RFC 4514)."""
    common_name: str
    """Of the subject; "" unless it has exactly one."""
    common_names: tuple[str, ...]
    """All of them."""
    serial_number: int
    dns_names: tuple[str, ...]
    """The subject alternative names, by kind."""
    ip_addresses: tuple[str, ...]
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    not_before: datetime
    """UTC, as ``not_after``."""
    not_after: datetime
    sha256: str
    """Its fingerprint: lower-case hexadecimal digits without colons."""
    der: bytes


def certificate_of(der: bytes) -> PeerCertificate:
    """What a certificate says, given as DER, as from ``SSLObject.getpeercert(binary_form=True)``.

    Raises ValueError if it cannot be read.
    """
    from cryptography import x509  # noqa: PLC0415

    with _odd_is_value_error():
        return _read_certificate(x509.load_der_x509_certificate(der), der)


def check_peer(der: bytes, profile: str | Profile) -> str:
    """What a profile forbids in a peer's certificate, in words; "" if nothing.

    OpenSSL holds verified peers to 112 bits of security, not to all that B.13 has (a hash of 256 bits), and unverified
    ones to nothing. Raises ValueError if the certificate cannot be read.
    """
    from cryptography import x509  # noqa: PLC0415

    with _odd_is_value_error():
        return _weakness(x509.load_der_x509_certificate(der), profile_of(profile))


@contextlib.contextmanager
def _odd_is_value_error() -> Iterator[None]:
    """For what ``cryptography`` says of certificates with unusual content."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.utils import CryptographyDeprecationWarning  # noqa: PLC0415

    odd = (x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm)
    try:
        yield
    except (*odd, CryptographyDeprecationWarning, TypeError) as error:  # a warning where warnings are errors
        raise ValueError(f"the certificate cannot be read: {error}") from error


def _read_certificate(certificate: Certificate, der: bytes) -> PeerCertificate:
    from cryptography import x509  # noqa: PLC0415

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    common_names = tuple(str(each.value) for each in found)
    return PeerCertificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        common_name=common_names[0] if len(common_names) == 1 else "",
        common_names=common_names,
        serial_number=certificate.serial_number,
        dns_names=tuple(names.get_values_for_type(x509.DNSName)),
        ip_addresses=tuple(map(str, names.get_values_for_type(x509.IPAddress))),
        uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        emails=tuple(names.get_values_for_type(x509.RFC822Name)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        sha256=hashlib.sha256(der).hexdigest(),
        der=der,
    )


# What went wrong

_VERIFY_ERRORS: Final = {
    3: "there is no revocation list of its CA; give one in crls",
    9: "it is not yet valid; compare the clocks of both sides",
    10: "it has expired; the peer needs a new one",
    11: "the revocation list of its CA is not yet valid; compare the clocks of both sides",
    12: "the revocation list of its CA is out of date; fetch a new one",
    18: "it is self-signed, and not among the trusted certificates",
    19: "it leads to a CA that is not among the trusted certificates",
    20: "its CA is not among the trusted certificates",
    21: "its CA is not among the trusted certificates",
    22: "its chain is too long",
    23: "it has been revoked",
    24: "it was issued by a certificate that is no CA's",
    26: "it is not meant for this purpose (extended key usage)",
    66: "its key is too short for the TLS profile",
    67: "the key of a CA above it is too short for the TLS profile",
    68: "it, or a CA above it, was signed with a hash that is too weak for the TLS profile",
    79: "it was issued by a certificate that is no CA's",
}
"""X509_V_ERR_*: what is wrong with the peer's certificate."""

_NAME_ERRORS: Final = frozenset((62, 64))
"""Of host name and address: OpenSSL's own words name them."""

_NO_TLS: Final = "the peer does not speak TLS (plain DICOM?); check the port"
_NO_SHARED: Final = "no TLS version or cipher suite that both sides permit; compare the TLS profiles"
_CLOSED: Final = (
    "the peer closed the connection during the TLS handshake: it does not speak TLS, or it refused; its log may say why"
)
_SLOW: Final = "the peer does not speak TLS, or does nothing"

_REASONS: Final = {
    "HTTP_REQUEST": "the peer speaks HTTP, not TLS; check the port",
    "HTTPS_PROXY_REQUEST": "the peer speaks HTTP, not TLS; check the port",
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "NO_SHARED_CIPHER": "no cipher suite that both sides permit; compare the TLS profiles",
    "NO_CIPHERS_AVAILABLE": _NO_SHARED,
    "NO_PROTOCOLS_AVAILABLE": _NO_SHARED,
    "UNSUPPORTED_PROTOCOL": "the peer has no TLS version that is permitted here; compare the TLS profiles",
    "VERSION_TOO_LOW": "the peer has no TLS version that is permitted here; compare the TLS profiles",
    "NO_SUITABLE_KEY_SHARE": "no group for the key exchange that both sides permit",
    "NO_SUITABLE_GROUPS": "no group for the key exchange that both sides permit",
    "NO_SHARED_GROUPS": "no group for the key exchange that both sides permit",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no signature algorithm that both sides permit",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "no signature algorithm that both sides permit",
    "WRONG_SIGNATURE_TYPE": "the peer signs with an algorithm that is not permitted here",
    "WRONG_CURVE": "the peer's key is on a curve that is not permitted here",
    "DH_KEY_TOO_SMALL": "the peer's Diffie-Hellman key is too short for the TLS profile",
    "EE_KEY_TOO_SMALL": "the peer's key is too short for the TLS profile",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate, and one is required",
    "UNEXPECTED_EOF_WHILE_READING": _CLOSED,
    "CALLBACK_FAILED": "the client asked for a host name that is not served here",
}
"""OpenSSL's reasons, as this side finds them."""

_ALERTS: Final = {
    "HANDSHAKE_FAILURE": "it found no TLS version or cipher suite that both sides permit, or misses a certificate",
    "PROTOCOL_VERSION": "it permits no TLS version that is permitted here; compare the TLS profiles",
    "INSUFFICIENT_SECURITY": "it demands better cipher suites; compare the TLS profiles",
    "INAPPROPRIATE_FALLBACK": "it takes this for a downgrade",
    "CERTIFICATE_REQUIRED": "it requires a certificate, and none was sent",
    "NO_CERTIFICATE": "it requires a certificate, and none was sent",
    "UNKNOWN_CA": "it does not trust the CA of this side's certificate",
    "CERTIFICATE_EXPIRED": "this side's certificate has expired",
    "CERTIFICATE_REVOKED": "this side's certificate has been revoked",
    "BAD_CERTIFICATE": "it takes this side's certificate for bad (name, dates, signature)",
    "CERTIFICATE_UNKNOWN": "it does not accept this side's certificate",
    "UNSUPPORTED_CERTIFICATE": "it cannot use this side's certificate (kind of key, purpose)",
    "ACCESS_DENIED": "it does not let this side's certificate in",
    "UNRECOGNIZED_NAME": "it does not serve the host name that was asked for",
    "NO_APPLICATION_PROTOCOL": "it does not take the application protocol dicom (ALPN)",
    "DECRYPT_ERROR": "it could not verify a signature or a key; certificate and key may not belong together",
    "DECODE_ERROR": "it could not read what this side sent",
    "ILLEGAL_PARAMETER": "it could not accept what this side sent",
    "UNEXPECTED_MESSAGE": "it did not expect what this side sent",
    "BAD_RECORD_MAC": "what arrived there had been changed on the way",
    "INTERNAL_ERROR": "it has a problem of its own; its log may say which",
    "USER_CANCELLED": "it was cancelled there",
}
"""What the peer says (RFC 8446 6.2)."""

_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(.+)")


def describe(error: ssl.SSLError | OSError) -> str:
    """Why a TLS connection could not be made or went wrong, in words, and what to try."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _VERIFY_ERRORS.get(error.verify_code, error.verify_message)
        if error.verify_code in _NAME_ERRORS and (names := getattr(error, "names", "")):
            why = f"{why.rstrip('.')}; {names}"
        return f"the peer's certificate was not accepted: {why}"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):  # the latter before CPython 3.11.4
        return _CLOSED
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or _reason_in(str(error))
        if words := _REASONS.get(reason):
            return words
        if (alert := _ALERT.fullmatch(reason)) and (words := _ALERTS.get(alert[1])):
            return f"the peer refused: {words}"
        return f"TLS failed: {reason.replace('_', ' ').lower()}"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return _CLOSED
    if isinstance(error, ConnectionAbortedError):  # asyncio's, whose words leave the peer out
        return f"{error}; {_SLOW}"
    return error.strerror or str(error) or type(error).__name__


_MOST_NAMES, _LONGEST_NAME = 5, 80


def _host_names(certificate: PeerCertificate) -> str:
    """For which hosts a certificate is, as its sender says: some of them, and printable."""
    names = [*(certificate.dns_names or certificate.common_names), *certificate.ip_addresses]
    shown = ", ".join(ascii(name[:_LONGEST_NAME])[1:-1] for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" * (len(names) > _MOST_NAMES)
    return f"it is for {shown}{more}" if names else "it names no host"


def _reason_in(message: str) -> str:
    """The reason, where Python knows no name for it: ``[SSL] tlsv1 alert no application protocol (_ssl.c:1006)``."""
    return re.sub(r"\[SSL\] | \(_ssl.*", "", message).replace(" ", "_").upper()
