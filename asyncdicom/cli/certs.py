"""``asyncdicom certs``: certificates for tests and labs, enough for TLS with mutual authentication.

A hospital has a CA of its own. This one keeps its key beside everything else, and forgets what it has signed.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .console import say
from .exit_codes import ExitCode, ToolError
from .options import Effect, Group, Option, Tool, UsageError, flag, value
from .shared import LOGGING, CommonOptions, number, one_of, run_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate, CertificateBuilder, GeneralName

__all__ = ["TOOL", "CertsOptions", "main"]

_HOST_NAME: Final = re.compile(r"(?:\*\.)?[\w-]+(?:\.[\w-]+)*", re.ASCII)
"""Or a pattern of them, as certificates may have it (RFC 9525 6.3)."""
_HERE: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class CertsOptions(CommonOptions):
    """What certs' command line sets."""

    hosts: tuple[str, ...] = ()
    ca_name: str = "asyncdicom test CA"
    server_name: str = "server"
    client_name: str = "client"
    days: int = 365
    key_type: str = "ec"
    overwrite: bool = False


def _name(text: str) -> str:
    """Reads a common name (X.520: 64 characters at most)."""
    if not 0 < len(text) <= 64 or not text.isprintable():
        raise ValueError("1 to 64 printable characters are expected")
    return text


def _host(text: str) -> str:
    """Reads a host name or an address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        name = text.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _HOST_NAME.fullmatch(name):
        raise ValueError("a host name or an IP address is expected")
    return name


TOOL: Final = Tool(
    "certs",
    "make a CA, a server's and a client's certificate for tests and labs",
    ("init [OPTION]... FOLDER",),
    CertsOptions,
    (
        Group(
            "what to make",
            (
                Option(
                    ("--host",),
                    f"the server is reached by this name or address; may be repeated (default: {', '.join(_HERE)})",
                    "hosts",
                    ("HOST",),
                    read=_host,
                    effect=Effect.APPEND,
                ),
                value("--ca-name", "ca_name", "TEXT", "the CA's common name", _name),
                value("--server-name", "server_name", "TEXT", "the server's common name", _name),
                value("--client-name", "client_name", "TEXT", "the client's common name", _name),
                value(
                    "--days", "days", "NUMBER", "how long they are valid; the CA's ten times as long", number(1, 3650)
                ),
                value("--key-type", "key_type", "KIND", "ec (P-256) or rsa (3072 bits)", one_of("ec", "rsa")),
                flag(
                    "--overwrite", "overwrite", "replace files that are there; certificates of the old CA end with it"
                ),
            ),
        ),
        LOGGING,
    ),
    "It writes ca.pem, server.pem and client.pem, and the keys ca.key, server.key and client.key, which only their "
    "owner can read. The server's certificate is good for opening connections too, as archives do."
    "\n\n"
    "Exit codes: 0 all was written, 40 it could not be, 45 the folder cannot be made.",
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; returns its exit code."""
    return run_tool(TOOL, _certs, argv)


async def _certs(options: CertsOptions, words: list[str]) -> int:
    if words[:1] != ["init"] or len(words) != 2:
        raise UsageError("'init' and a folder are expected")
    folder = Path(words[1])
    files = _files(options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(ExitCode.OUTPUT_FOLDER, f"the folder {folder} cannot be made: {error.strerror}") from error
    if not options.overwrite and (there := [name for name in files if (folder / name).exists()]):
        raise ToolError(
            ExitCode.CANNOT_WRITE,
            f"{folder} has {', '.join(there)} already",
            "--overwrite replaces them, or name another",
        )
    for name, data in files.items():
        try:
            _write(folder / name, data, 0o600 if name.endswith(".key") else 0o644)
        except OSError as error:
            raise ToolError(ExitCode.CANNOT_WRITE, f"{folder / name} cannot be written: {error.strerror}") from error
    if not options.quiet:
        for name in files:
            say(str(folder / name))
    return ExitCode.OK


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file that nobody else can read meanwhile; what was there goes as a whole."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def _files(options: CertsOptions) -> dict[str, bytes]:
    """All files by their names."""
    from cryptography import x509  # noqa: PLC0415 - not for the help
    from cryptography.x509.oid import ExtendedKeyUsageOID as Use  # noqa: PLC0415

    ca_key = _new_key(options.key_type)
    ca = _builder(options.ca_name, options.ca_name, ca_key, options.days * 10)
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    authority = _signed(ca.add_extension(_key_usage(of_ca=True), critical=True), ca_key, ca_key)
    files = _pair("ca", authority, ca_key)
    for file, name, hosts, uses in (
        ("server", options.server_name, options.hosts or _HERE, [Use.SERVER_AUTH, Use.CLIENT_AUTH]),
        ("client", options.client_name, (), [Use.CLIENT_AUTH]),
    ):
        key = _new_key(options.key_type)
        builder = _builder(name, options.ca_name, key, options.days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(of_ca=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName(map(_general_name, hosts))
            builder = builder.add_extension(names, critical=False)
        files |= _pair(file, _signed(builder, key, ca_key), key)
    return files


def _new_key(kind: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415

    return ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 3072)


def _builder(name: str, issuer: str, key: Any, days: int) -> CertificateBuilder:
    """A certificate (RFC 5280) without what tells CAs from others."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415

    from cryptography import x509  # noqa: PLC0415

    now = datetime.now(UTC)

    def common_name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(common_name(name))
        .issuer_name(common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # other clocks may be late
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, of_ca: bool) -> Any:
    from cryptography import x509  # noqa: PLC0415

    return x509.KeyUsage(
        digital_signature=not of_ca,
        key_encipherment=not of_ca,
        key_cert_sign=of_ca,
        crl_sign=of_ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> GeneralName:
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _signed(builder: CertificateBuilder, key: Any, ca_key: Any) -> Certificate:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    if key is not ca_key:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        builder = builder.add_extension(issuer, critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _pair(name: str, certificate: Certificate, key: Any) -> dict[str, bytes]:
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415

    return {
        f"{name}.pem": certificate.public_bytes(s.Encoding.PEM),
        f"{name}.key": key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()),
    }
