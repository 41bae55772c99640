"""Certificates for tests: CAs, servers, clients and what can be wrong with them, made once a session."""

import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER
SHA256 = hashes.SHA256()
SHA256_WITH_RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
SHA1_WITH_RSA = bytes.fromhex("300d06092a864886f70d0101050500")
SHA256_WITH_ECDSA = bytes.fromhex("300a06082a8648ce3d040302")
PASSWORD = "correct horse"

KEYS = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "p192": lambda: ec.generate_private_key(ec.SECP192R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
}


class Pair(NamedTuple):
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A CA that makes files in a folder."""

    def __init__(self, folder, name="Test CA", *, parent=None, kind="ec"):
        self.folder = folder
        self.key = KEYS[kind]()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = parent or self
        self.certificate = (
            _builder(self.name, issuer, self.key, -30 * DAY, 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )
        self.file = _write(folder / f"{name.lower().replace(' ', '-')}.pem", self.certificate.public_bytes(PEM))

    def issue(
        self,
        name,
        *,
        kind="ec",
        dns=("localhost",),
        ip=("127.0.0.1",),
        valid=(-DAY, DAY),
        uses=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        digest=SHA256,
        chain=(),
        extra=(),
        key=None,
    ):
        """A certificate and its key, in two PEM files."""
        key = key or KEYS[kind]()
        names = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(each)) for each in ip), *extra]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, self, key, *valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, digest)
        data = b"".join(each.public_bytes(PEM) for each in (certificate, *(ca.certificate for ca in chain)))
        return Pair(_write(self.folder / f"{name}.pem", data), write_key(self.folder / f"{name}.key", key))

    def issue_with_sha1(self, name):
        """As it was done once, which no library does any more. For a CA with an RSA key."""
        pair = self.issue(name)
        tbs = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).tbs_certificate_bytes
        tbs = tbs.replace(SHA256_WITH_RSA, SHA1_WITH_RSA)
        return _signed_again(pair, tbs, SHA1_WITH_RSA, self.key.sign(tbs, padding.PKCS1v15(), hashes.SHA1()))

    def issue_unreadable(self, name):
        """OpenSSL verifies it, and cryptography cannot read it: a name is an X.400 address. For a CA with an EC key."""
        pair = self.issue(name, dns=("odd.example",))
        tbs = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).tbs_certificate_bytes
        tbs = tbs.replace(b"\x82\x0bodd.example", b"\xa3\x0bodd.example")
        return _signed_again(pair, tbs, SHA256_WITH_ECDSA, self.key.sign(tbs, ec.ECDSA(hashes.SHA256())))

    def revoke(self, *pairs, valid=(-DAY, DAY), name="revoked.crl", encoding=PEM):
        """A revocation list with these certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(NOW + valid[0])
            .next_update(NOW + valid[1])
        )
        for pair in pairs:
            serial = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
            builder = builder.add_revoked_certificate(revoked)
        return _write(self.folder / name, builder.sign(self.key, hashes.SHA256()).public_bytes(encoding))


def write_key(path, key, password=None, encoding=PEM):
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return _write(path, key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption))


def load_key(pair):
    return serialization.load_pem_private_key(pair.key.read_bytes(), None)


def _write(path, data):
    path.write_bytes(data)
    return path


def _signed_again(pair, tbs, algorithm, signature):
    """With another body, and the CA's signature of it."""
    der = _der(0x30, tbs + algorithm + _der(0x03, b"\0" + signature))
    pair.certificate.write_text(ssl.DER_cert_to_PEM_cert(der))
    return pair


def _der(tag, content):
    size = len(content)
    return bytes((tag, size) if size < 128 else (tag, 0x82, *divmod(size, 256))) + content


def _builder(subject, issuer, key, begins, ends):
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + ends)
    )


def _usage(*, sign):
    return x509.KeyUsage(
        digital_signature=sign,
        key_encipherment=sign,
        key_cert_sign=not sign,
        crl_sign=not sign,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class Certificates:
    """What the tests share. Names say what is special; ``rsa`` keys only where RSA is the point."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = Authority(folder)
        self.other_ca = Authority(folder, "Other CA")
        self.intermediate = Authority(folder, "Intermediate CA", parent=self.ca)
        self.server = self.ca.issue("server")
        self.rsa = self.ca.issue("rsa", kind="rsa")
        self.client = self.ca.issue("client", dns=(), ip=())
        self.chained = self.intermediate.issue("chained", chain=[self.intermediate])
        self.expired = self.ca.issue("expired", valid=(-3 * DAY, -DAY))
        self.not_yet = self.ca.issue("not-yet", valid=(DAY, 3 * DAY))
        self.elsewhere = self.ca.issue("elsewhere", dns=("pacs.example",), ip=("192.0.2.1",))
        self.stranger = self.other_ca.issue("stranger")
        self.revoked = self.ca.issue("revoked")
        self.client_only = self.ca.issue("client-only", uses=[ExtendedKeyUsageOID.CLIENT_AUTH])
        self.crl = self.ca.revoke(self.revoked)

    def trusting(self, *authorities):
        """The files to trust for these CAs; the ordinary one without any."""
        return [each.file for each in authorities or (self.ca,)]
