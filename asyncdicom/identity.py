"""Checks of user identities (PS3.7 D.3.3.7) for ``serve(user_identity=...)``: password files, and JSON web tokens.

Each is an object that is called with the identity, None if there is none, and the association to be; it returns a
:class:`User` or raises :class:`~asyncdicom.errors.IdentityRefused`. It can be pickled, and is not changed once it is
made: when its ``files`` have changed, ``remade()`` gives another one. User names alone (type 1) verify nothing. For
Kerberos tickets (type 3) and SAML assertions (type 4) there is nothing here: they need an infrastructure of their own,
and a coroutine function that asks it. Nothing of what a user sends is ever in a log line or an exception.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .errors import IdentityConfigurationError, IdentityRefused
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
    from concurrent.futures import Future

    from .association import Association
    from .pdu import UserIdentity

    Verifier = Callable[[UserIdentity | None, Association], Awaitable["User | bool | bytes | None"]]

__all__ = ["AnyOf", "JWTVerifier", "PasswordFile", "User", "hash_password", "set_password"]

_MOST_AT_ONCE = 2
"""Passwords that are checked at a time in a process, in threads: each may take 64 MiB and a processor."""
_MOST_WAITING = 256
"""Those that may wait for it: 5 s of two processors."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class User:
    """A user whose identity has been verified."""

    name: str
    """By which rules of an access policy, handlers and the audit trail know it."""
    response: bytes = field(default=b"", repr=False)
    """What to answer to a requestor that wants a positive response: a Kerberos server ticket or a SAML response."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a verified user has a name, got {self.name!r}")


class AnyOf:
    """Several checks in one: who passes any of them, in this order, is who it says.

    Without an identity nobody is admitted, unless it is not ``required``; then the check says yes, and names no user.
    """

    def __init__(self, *verifiers: Verifier, required: bool = True) -> None:
        self._verifiers = verifiers
        self._required = required

    @property
    def files(self) -> tuple[Path, ...]:
        """What all of them were made of."""
        return tuple(file for verifier in self._verifiers for file in getattr(verifier, "files", ()))

    def remade(self) -> AnyOf:
        """With each of them made again that can be. Raises IdentityConfigurationError."""
        several: tuple[Any, ...] = self._verifiers
        remade = (each.remade() if hasattr(each, "remade") else each for each in several)
        return AnyOf(*remade, required=self._required)

    async def __call__(self, identity: UserIdentity | None, association: Association) -> User | bool | bytes:
        """What the first check answers that does not refuse."""
        if identity is None:
            return _without_identity(required=self._required)
        refusals = []
        for verifier in self._verifiers:
            try:
                answer = await verifier(identity, association)
            except IdentityRefused as error:
                refusals.append(error)
                continue
            if answer is not None and answer is not False:
                return answer
        raise IdentityRefused(
            "; ".join(dict.fromkeys(map(str, refusals))) or "the user identity was not confirmed",
            transient=any(each.is_transient for each in refusals),
        )


def _without_identity(*, required: bool) -> bool:
    if required:
        raise IdentityRefused("no user identity was sent")
    return True


# Files and threads


def _made(source: bytes | str | os.PathLike[str], make: Callable[[bytes], _T]) -> _T:
    """What is made of bytes, or of a file's. Raises IdentityConfigurationError, which names the file."""
    where = "" if isinstance(source, bytes) else f"{source}: "
    try:
        return make(source if isinstance(source, bytes) else Path(source).read_bytes())
    except OSError as error:
        raise IdentityConfigurationError(f"{where}{error.strerror or error}") from error
    except ValueError as error:
        raise IdentityConfigurationError(f"{where}{error}") from None


class _Check(NamedTuple):
    """A verification that is to be done in a thread, and what comes of it."""

    verify: Callable[[], User]
    done: Future[User]

    def do(self) -> None:
        if self.done.set_running_or_notify_cancel():
            try:
                self.done.set_result(self.verify())
            except BaseException as error:  # noqa: BLE001 - it is raised where the check is awaited
                self.done.set_exception(error)


class _Threads:
    """The few threads in which passwords are checked, by turns of the peers' addresses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = 0
        self._waiting: Turns[_Check] = Turns()

    async def run(self, address: str, verify: Callable[[], User]) -> User:
        """What it returns; who does not wait any longer takes no turn. Raises IdentityRefused where too many wait."""
        import asyncio  # noqa: PLC0415 - the command-line tool for passwords needs none
        from concurrent.futures import Future  # noqa: PLC0415 - as above

        check = _Check(verify, Future())
        self._begin(address, check)
        try:
            return await asyncio.wrap_future(check.done)
        finally:
            with self._lock:
                self._waiting.discard(address, check)

    def _begin(self, address: str, check: _Check) -> None:
        late = None
        with self._lock:
            if self._busy < _MOST_AT_ONCE:
                thread = threading.Thread(target=self._work, args=(check,), name="asyncdicom identity")
                thread.start()  # raises RuntimeError where the system has none left
                self._busy += 1
            else:
                self._waiting.add(address, check)
                late = self._waiting.drop() if len(self._waiting) > _MOST_WAITING else None
        if late is not None and late.done.set_running_or_notify_cancel():
            late.done.set_exception(IdentityRefused(f"{_MOST_WAITING} others wait for their check", transient=True))

    def _work(self, check: _Check | None) -> None:
        while check is not None:
            check.do()
            with self._lock:
                check = self._waiting.take() if self._waiting else None
                self._busy -= check is None


@functools.cache
def _threads() -> _Threads:
    return _Threads()


# User name and passcode (type 2)

_LOG2_N, _R, _P = 14, 8, 1
"""The cost of new hashes: 16 MiB, and 40 ms of a processor of 2020."""
_MOST_MEMORY = 64 << 20
_MOST_P = 16
_SALT_SIZE, _HASH_SIZE = 16, 32
_HASH = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")


class _Hash(NamedTuple):
    """A password's scrypt hash (RFC 7914), and how it was made."""

    log2_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: bytes) -> _Hash:
        made = cls(_LOG2_N, _R, _P, os.urandom(_SALT_SIZE), bytes(_HASH_SIZE))
        return made._replace(digest=made.derived(password))

    @classmethod
    def decode(cls, text: str) -> _Hash:
        """From ``$scrypt$ln=14,r=8,p=1$salt$hash``, in Base64 without padding. Raises ValueError without quoting it."""
        if (found := _HASH.fullmatch(text)) is None:
            raise ValueError("no scrypt hash; 'asyncdicom passwd' makes one")
        log2_n, r, p = map(int, found.groups()[:3])
        if not (log2_n and r and p) or p > _MOST_P or 128 * r << log2_n > _MOST_MEMORY:
            raise ValueError(
                f"ln={log2_n},r={r},p={p} is out of range; {_MOST_MEMORY >> 20} MiB is the most that is taken"
            )
        salt, digest = (base64.b64decode(each + "=" * (-len(each) % 4)) for each in found.groups()[3:])
        if not _HASH_SIZE // 2 <= len(digest) <= 2 * _HASH_SIZE:
            raise ValueError(f"a hash of {len(digest)} bytes, {_HASH_SIZE} are usual")
        return cls(log2_n, r, p, salt, digest)

    def encode(self) -> str:
        salt, digest = (base64.b64encode(each).decode().rstrip("=") for each in (self.salt, self.digest))
        return f"$scrypt$ln={self.log2_n},r={self.r},p={self.p}${salt}${digest}"

    def derived(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=1 << self.log2_n,
            r=self.r,
            p=self.p,
            maxmem=2 * _MOST_MEMORY,
            dklen=len(self.digest),
        )


def hash_password(password: str) -> str:
    """What stands behind a user's name in a password file; 16 MiB of memory and some 40 ms are needed for it."""
    return _Hash.of(password.encode()).encode()


class PasswordFile:
    """Verifies user names with passcodes (type 2) by a file.

    It has a line ``name:hash`` for each user, as ``asyncdicom passwd FILE USER`` writes it. Empty lines, and those that
    begin with ``#``, do not count.

    A hash is derived in a thread, for unknown users too, two at a time. Others wait by turns of their addresses, the
    newest of each first. Beyond 256 that wait, the oldest of the address that has most is refused, as transient.

    Who has no identity is refused, unless it is not ``required``; then it is admitted, without a user. Raises
    IdentityConfigurationError for a file that cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], *, required: bool = True) -> None:
        self._path = Path(path)
        self._required = required
        self._hashes = _made(path, _password_lines)

    def __repr__(self) -> str:
        return f"PasswordFile({str(self._path)!r}, required={self._required})"

    @property
    def files(self) -> tuple[Path, ...]:
        """Of what it was made."""
        return (self._path,)

    def remade(self) -> PasswordFile:
        """From the file as it is now. Raises IdentityConfigurationError."""
        return PasswordFile(self._path, required=self._required)

    async def __call__(self, identity: UserIdentity | None, association: Association) -> User | bool:
        """The user; on cancellation a verification that has not begun is given up."""
        if identity is None:
            return _without_identity(required=self._required)
        if identity.type != 2:
            raise IdentityRefused(f"a user identity of type {identity.type} is no user name with a passcode")
        verify = functools.partial(self._verified, identity.primary, identity.secondary)
        return await _threads().run(association.peer_address, verify)

    def _verified(self, name: bytes, password: bytes) -> User:
        known = self._hashes.get(name)
        expected = known or _nobody()
        if hmac.compare_digest(expected.derived(password), expected.digest) and known is not None:
            return User(name.decode())
        raise IdentityRefused("unknown user name, or wrong passcode")


@functools.cache
def _nobody() -> _Hash:
    """The hash that is compared for an unknown user, so that it takes as long; nobody knows its password."""
    return _Hash(_LOG2_N, _R, _P, os.urandom(_SALT_SIZE), os.urandom(_HASH_SIZE))


def _password_lines(content: bytes) -> dict[bytes, _Hash]:
    """The hashes in a password file, by user name. Raises ValueError, which names a line but does not quote it."""
    hashes: dict[bytes, _Hash] = {}
    for number, line in enumerate(content.splitlines(), 1):
        name, _, rest = line.partition(b":")
        if not line.strip() or line.startswith(b"#"):
            continue
        try:
            _check_user(name.decode())
            if name in hashes:
                raise ValueError("this user stands in an earlier line too")
            hashes[name] = _Hash.decode(rest.decode("ascii").strip())
        except UnicodeDecodeError:
            raise ValueError(f"line {number}: not in UTF-8") from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return hashes


def _check_user(name: str) -> None:
    if not name or name != name.strip() or not name.isprintable() or ":" in name or name.startswith("#"):
        raise ValueError(
            "a user name is printable, has no colon, no space at either end, and does not begin with a number sign"
        )


def set_password(path: str | os.PathLike[str], user: str, password: str) -> bool:
    """Set a user's password in a password file, which is made if there is none; returns whether the user is new.

    The other lines stay as they are. The file is replaced as a whole, and only its owner may read it. Raises
    IdentityConfigurationError for a user name or a file that cannot be used, OSError.
    """
    file = Path(path).resolve()
    try:
        _check_user(user)
        if not password:
            raise ValueError("the password is empty")
        content = file.read_bytes() if file.exists() else b""
        known = _password_lines(content)
    except ValueError as error:
        raise IdentityConfigurationError(f"{path}: {error}") from None
    name = user.encode()
    line = b"%b:%b" % (name, hash_password(password).encode())
    lines = [line if each.partition(b":")[0] == name else each for each in content.splitlines()]
    if name not in known:
        lines.append(line)
    _replace(file, b"\n".join((*lines, b"")))
    return name not in known


def _replace(file: Path, content: bytes) -> None:
    """Write a file at once; it stays its owner's, and is for nobody else."""
    import tempfile  # noqa: PLC0415 - takes its time, and servers need none

    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123 - it is a descriptor
            if file.exists() and hasattr(os, "fchown"):
                status = file.stat()
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, status.st_uid, status.st_gid)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, file)  # noqa: PTH105 - both are here
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108 - as above
        raise


# JSON web tokens (type 5)

_KEY_TYPES = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), "oct"),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
"""The algorithms of RFC 7518 and RFC 8037 that may be allowed, and the type of key that each needs."""

_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_MOST_TOKEN = 16 << 10
"""Bytes, twice what HTTP servers take. So many hold up the event loop for 1.3 ms, usual ones for 0.05 to 0.5."""
_LEAST_RSA_BITS = 2048
"""RFC 7518 3.3; a secret is as long as the hash (3.2)."""

_WRONG_TOKENS = {
    "ExpiredSignatureError": "it has expired",
    "ImmatureSignatureError": "it is not valid yet",
    "InvalidAudienceError": "it is not for this audience",
    "InvalidIssuerError": "it is from another issuer",
    "InvalidAlgorithmError": "its algorithm is not allowed",
    "InvalidSignatureError": "its signature is wrong",
    "MissingRequiredClaimError": "it lacks a claim that is needed",
}
"""PyJWT's errors in words of our own: those of PyJWT may quote the token."""


class _Key(NamedTuple):
    """A key to verify tokens with."""

    id: str
    """Key ID, empty if it has none."""
    type: str
    key: Any
    algorithms: tuple[str, ...]
    """Those that are allowed with it."""


class JWTVerifier:
    """Verifies JSON web tokens (type 5) with PyJWT, which ``asyncdicom[jwt]`` brings.

    ``key`` is the key as bytes or the path of a file with it: a PEM public key or certificate, a JSON web key or key
    set, or the bytes of a shared secret. ``algorithms`` are those that are allowed, by their names in RFC 7518; they
    say of what type the key is, and a key is never taken for another type. ``issuer`` and ``audience`` are compared
    with the token's, None for any issuer, and for tokens without an audience. The user's name is the claim
    ``user_claim``. A token has to expire; ``leeway`` is by how many seconds clocks may differ.

    Who has no identity is refused, unless it is not ``required``; then it is admitted, without a user. Raises
    IdentityConfigurationError for keys and algorithms that cannot be used, or do not belong together.
    """

    def __init__(
        self,
        key: bytes | str | os.PathLike[str],
        *,
        algorithms: Collection[str],
        issuer: str | None,
        audience: str | None,
        user_claim: str = "sub",
        leeway: float = 0.0,
        required: bool = True,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "algorithms": algorithms,
            "issuer": issuer,
            "audience": audience,
            "user_claim": user_claim,
            "leeway": leeway,
            "required": required,
        }
        self._key = key
        self._content, self._keys = _made(key, lambda content: (content, _keys(content, algorithms=algorithms)))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_keys": ()}  # which cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With the keys that the other process has: the file may be another one by now."""
        vars(self).update(state)
        self._keys = _keys(self._content, algorithms=self._arguments["algorithms"])

    def __repr__(self) -> str:
        key = "<bytes>" if isinstance(self._key, bytes) else repr(str(self._key))
        return f"JWTVerifier({key}, {', '.join(f'{name}={each!r}' for name, each in self._arguments.items())})"

    @property
    def files(self) -> tuple[Path, ...]:
        """Of what it was made."""
        return () if isinstance(self._key, bytes) else (Path(self._key),)

    def remade(self) -> JWTVerifier:
        """From the file as it is now. Raises IdentityConfigurationError."""
        return JWTVerifier(self._key, **self._arguments)

    async def __call__(self, identity: UserIdentity | None, association: Association) -> User | bool:  # noqa: ARG002
        """The user; it is found there and then, which takes too little time for a thread."""
        if identity is None:
            return _without_identity(required=self._arguments["required"])
        if identity.type != 5:
            raise IdentityRefused(f"a user identity of type {identity.type} is no JSON web token")
        if len(identity.primary) > _MOST_TOKEN:
            raise IdentityRefused(
                f"the JSON web token is refused: it has {len(identity.primary)} bytes, {_MOST_TOKEN} are the most"
            )
        return self._verified(identity.primary.strip())  # a file that holds a token often ends its line

    def _verified(self, token: bytes) -> User:
        import jwt  # noqa: PLC0415 - an extra

        claim = self._arguments["user_claim"]
        try:
            key = _key_for(self._keys, jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                issuer=self._arguments["issuer"],
                audience=self._arguments["audience"],
                leeway=self._arguments["leeway"],
                options={"require": ["exp", claim]},
            )
        except jwt.PyJWTError as error:
            names = [each.__name__ for each in type(error).__mro__]
            words = next((_WRONG_TOKENS[name] for name in names if name in _WRONG_TOKENS), "it cannot be read")
            raise IdentityRefused(f"the JSON web token is refused: {words}") from None
        if not isinstance(name := claims[claim], str) or not name:
            raise IdentityRefused(f"the JSON web token is refused: its claim {claim!r} is no name")
        return User(name)


def _key_for(keys: Iterable[_Key], header: Mapping[str, Any]) -> _Key:
    """The one key that a token may have been signed with."""
    wanted = header.get("kid")
    allowed = [key for key in keys if header.get("alg") in key.algorithms]
    fitting = [key for key in allowed if not wanted or not key.id or key.id == wanted]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        why = f"{len(fitting)} keys fit it, and it does not say by its key ID (kid) which it is"
    elif allowed:
        why = "its key ID (kid) is of none of the keys here; the issuer may have new ones"
    else:
        algorithms = dict.fromkeys(each for key in keys for each in key.algorithms)
        why = f"it is not signed by {' or '.join(algorithms)}, which the keys here are for"
    raise IdentityRefused(f"the JSON web token is refused: {why}")


def _keys(content: bytes, *, algorithms: Collection[str]) -> tuple[_Key, ...]:
    """The keys in a file, for the algorithms that are allowed. Raises ValueError, which does not quote it."""
    _check_algorithms(algorithms)
    try:
        import jwt  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise IdentityConfigurationError("PyJWT is needed for JSON web tokens; install asyncdicom[jwt]") from None
    made: Iterable[tuple[str, str, Any, str | None]]
    if _KEY_TYPES[next(iter(algorithms))] == "oct" and not content.lstrip().startswith(b"{"):
        made = [("", "oct", _secret(content), None)]
    elif b"-----BEGIN" in content:
        made = [("", *_public_key(content), None)]
    else:
        made = tuple(_web_keys(content))
    keys = [
        _Key(key_id, kind, key, fitting)
        for key_id, kind, key, only in made
        if (fitting := tuple(each for each in algorithms if _suits(each, kind, key, only)))
    ]
    if not keys:
        kinds = ", ".join(sorted({kind for _, kind, _, _ in made}))
        raise ValueError(f"no key for {', '.join(algorithms)}; there are: {kinds or 'none'}")
    return tuple(keys)


def _check_algorithms(algorithms: Collection[str]) -> None:
    if isinstance(algorithms, str) or not algorithms:
        raise ValueError(f"algorithms={algorithms!r}: name those that are allowed, in a list")
    if unknown := [each for each in algorithms if each not in _KEY_TYPES]:
        raise ValueError(f"the algorithm {unknown[0]!r} cannot be allowed; there are {', '.join(_KEY_TYPES)}")
    if len({_KEY_TYPES[each] == "oct" for each in algorithms}) > 1:
        raise ValueError("a key is either shared or public: algorithms that begin with HS cannot go with others")


def _secret(content: bytes) -> bytes:
    if b"-----BEGIN" in content:
        raise ValueError("a PEM key is not a shared secret; allow an algorithm that begins with RS, PS, ES or Ed")
    return content.rstrip(b"\r\n")


def _public_key(content: bytes) -> tuple[str, Any]:
    """The type of a PEM key, and the key."""
    from cryptography import x509  # noqa: PLC0415 - takes its time
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    if b"PRIVATE KEY" in content:
        raise ValueError("a private key; a verifier has the public one, and nobody shall find the other here")
    is_certificate = b"BEGIN CERTIFICATE" in content
    try:
        key = x509.load_pem_x509_certificate(content).public_key() if is_certificate else load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        what = "certificate" if is_certificate else "public key"
        raise ValueError(f"no {what} in PEM that can be read: it is damaged, or of a kind that is not known") from None
    kinds = {
        rsa.RSAPublicKey: "RSA",
        ec.EllipticCurvePublicKey: "EC",
        ed25519.Ed25519PublicKey: "OKP",
        ed448.Ed448PublicKey: "OKP",
    }
    return next((kind for each, kind in kinds.items() if isinstance(key, each)), type(key).__name__), key


def _web_keys(content: bytes) -> Iterable[tuple[str, str, Any, str | None]]:
    """ID, type, key, and the only algorithm that it is for if it says so, of each JSON web key for signatures."""
    import json  # noqa: PLC0415 - for these files only

    import jwt  # noqa: PLC0415 - an extra

    try:
        read = json.loads(content)
    except ValueError:
        is_der = content.startswith(b"\x30")
        hint = "'openssl pkey -pubin -inform DER' makes PEM of DER" if is_der else "whoever issues the tokens has one"
        raise ValueError(f"no JSON web key, and no PEM key or certificate; {hint}") from None
    try:
        for each in read.get("keys", [read]):
            if each.get("use", "sig") == "sig" and each.get("alg") in {None, *_KEY_TYPES}:
                yield str(each.get("kid", "")), each["kty"], jwt.PyJWK(each).key, each.get("alg")
    except (ValueError, LookupError, TypeError, AttributeError, jwt.PyJWTError):
        raise ValueError("no JSON web key that can be read: its type (kty) or a part of it is wrong") from None


def _suits(algorithm: str, kind: str, key: Any, only: str | None) -> bool:
    """Whether an algorithm goes with a key. Raises ValueError for a key that is too short for it."""
    if _KEY_TYPES[algorithm] != kind or only not in (None, algorithm):
        return False
    if kind == "oct" and len(key) < int(algorithm[2:]) // 8:
        raise ValueError(f"the secret has {len(key)} bytes, {int(algorithm[2:]) // 8} are needed for {algorithm}")
    if kind == "RSA" and key.key_size < _LEAST_RSA_BITS:
        raise ValueError(f"the RSA key has {key.key_size} bits, {_LEAST_RSA_BITS} are needed")
    return kind != "EC" or key.curve.name == _CURVES[algorithm]
