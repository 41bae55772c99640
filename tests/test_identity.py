"""Who users are: password files, JSON web tokens, and that nothing of it is ever told."""

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import json
import logging
import os
import pickle
import re
import stat
import threading
import types

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.x509.oid import NameOID
from raw_peer import CT, raw_client, request

import asyncdicom
from asyncdicom import (
    AccessPolicy,
    IdentityConfigurationError,
    IdentityRefused,
    JWTVerifier,
    PasswordFile,
    Rule,
    User,
    UserIdentity,
)
from asyncdicom.identity import AnyOf, _Hash, _threads, hash_password, set_password

ALICE = UserIdentity.of_user("alice", "wonderland")
SECRET = b"a secret of just as many bytes as SHA-512 has, which is more than 63"


async def verified(verifier, identity, address="192.0.2.1"):
    """The user's name, or why there is none."""
    try:
        user = await verifier(identity, types.SimpleNamespace(peer_address=address))
    except IdentityRefused as error:
        return f"refused{' for now' * error.is_transient}: {error}"
    return user.name if isinstance(user, User) else user


@pytest.fixture(scope="module")
def password_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("users") / "users"
    path.write_bytes(b"# who may look\n\n")
    for name, password in (("alice", "wonderland"), ("b\u00f6b", "p\u00e4ss:word "), ("carol", "x" * 1000)):
        set_password(path, name, password)
    return path


# Users


@pytest.mark.parametrize("name", ["", None, b"alice"])
def test_a_user_has_a_name(name):
    with pytest.raises(ValueError, match="has a name"):
        User(name)


def test_a_ticket_is_not_shown():
    assert repr(User("alice", b"ticket")) == "User(name='alice')"


# Password files


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (ALICE, "alice"),
        (UserIdentity.of_user("b\u00f6b", "p\u00e4ss:word "), "b\u00f6b"),
        (UserIdentity.of_user("carol", "x" * 1000), "carol"),
        (UserIdentity.of_user("alice", "Wonderland"), "refused: unknown user name, or wrong passcode"),
        (UserIdentity.of_user("alice", ""), "refused: unknown user name, or wrong passcode"),
        (UserIdentity.of_user("mallory", "wonderland"), "refused: unknown user name, or wrong passcode"),
        (UserIdentity(2, b"# who may look", b""), "refused: unknown user name, or wrong passcode"),
        (UserIdentity(2, b"\xff", b"\xff"), "refused: unknown user name, or wrong passcode"),
        (UserIdentity.of_user("alice"), "refused: a user identity of type 1 is no user name with a passcode"),
        (None, "refused: no user identity was sent"),
    ],
)
async def test_a_password_file_knows_its_users(password_file, identity, expected):
    assert await verified(PasswordFile(password_file), identity) == expected


async def test_who_says_nothing_may_be_let_in_without_a_name(password_file):
    assert await PasswordFile(password_file, required=False)(None, None) is True


def test_hashes_are_those_of_rfc_7914():
    # RFC 7914 12, its third test vector, cut to 32 bytes: scrypt's last step gives the first ones whatever the length
    digest = bytes.fromhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
    salt, hashed = (base64.b64encode(each).decode().rstrip("=") for each in (b"SodiumChloride", digest))
    assert _Hash.decode(f"$scrypt$ln=14,r=8,p=1${salt}${hashed}").derived(b"pleaseletmein") == digest


def test_another_library_finds_the_hash_right():
    made = _Hash.decode(hash_password("wonderland"))
    Scrypt(made.salt, len(made.digest), 1 << made.log2_n, made.r, made.p).verify(b"wonderland", made.digest)
    assert hash_password("wonderland") != hash_password("wonderland")


def test_unknown_users_cost_as_much_as_known_ones(password_file, monkeypatch):
    seen = []
    derive = hashlib.scrypt
    monkeypatch.setattr(hashlib, "scrypt", lambda *words, **how: seen.append(how) or derive(*words, **how))
    verifier = PasswordFile(password_file)
    for name in (b"alice", b"mallory"):
        with pytest.raises(IdentityRefused):
            verifier._verified(name, b"wrong")
    known, unknown = ({key: each[key] for key in each if key != "salt"} for each in seen)
    assert known == unknown


async def test_two_hashes_are_derived_at_a_time_and_not_in_the_loop(password_file, monkeypatch):
    running, most, threads = 0, 0, set()
    lock = threading.Lock()
    derive = _Hash.derived

    def counted(self, password):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            threads.add(threading.current_thread())
        try:
            return derive(self, password)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(_Hash, "derived", counted)
    verifier = PasswordFile(password_file)
    assert await asyncio.gather(*(verified(verifier, ALICE) for _ in range(6))) == ["alice"] * 6
    assert most <= 2
    assert threading.main_thread() not in threads


class Held:
    """A password file whose checks take until ``go_on`` is set, and what it was asked for."""

    def __init__(self, password_file, monkeypatch):
        self.go_on, self.derived = threading.Event(), []
        self._begun = threading.Semaphore(0)
        self._verifier = PasswordFile(password_file)
        monkeypatch.setattr(_Hash, "derived", lambda _, password: self._wait(password))

    def _wait(self, password):
        self.derived.append(password)
        self._begun.release()
        self.go_on.wait(10)
        return b""

    def ask(self, password, address="192.0.2.1"):
        return asyncio.create_task(verified(self._verifier, UserIdentity(2, b"x", password), address))

    async def begun(self, count):
        """Wait until so many have begun."""
        await asyncio.to_thread(lambda: [self._begun.acquire(timeout=10) for _ in range(count)])


@pytest.fixture
def held(password_file, monkeypatch):
    held = Held(password_file, monkeypatch)
    yield held
    held.go_on.set()


async def test_who_does_not_wait_any_longer_costs_nothing(held):
    tasks = [held.ask(b"%d" % n) for n in range(5)]
    await held.begun(2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not _threads()._waiting
    held.go_on.set()
    await asyncio.gather(*(held.ask(b"last") for _ in range(2)))
    assert sorted(held.derived) == [b"0", b"1", b"last", b"last"]


async def test_a_thread_that_cannot_be_started_is_not_counted_as_busy(held, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                await held.ask(b"early")
    held.go_on.set()
    await held.ask(b"good")
    assert held.derived == [b"good"]


async def test_checks_wait_by_turns_of_addresses_the_newest_of_each_first(held, monkeypatch):
    monkeypatch.setattr(asyncdicom.identity, "_MOST_AT_ONCE", 1)
    tasks = [held.ask(b"%d" % n, "192.0.2.1") for n in range(4)]
    await held.begun(1)
    tasks += [held.ask(b"good", "192.0.2.2"), held.ask(b"newest", "192.0.2.1")]
    await asyncio.sleep(0)
    held.go_on.set()
    await asyncio.gather(*tasks)
    assert held.derived == [b"0", b"newest", b"good", b"3", b"2", b"1"]


async def test_of_too_many_checks_the_oldest_of_the_busiest_address_is_refused_for_now(held, monkeypatch):
    monkeypatch.setattr(asyncdicom.identity, "_MOST_WAITING", 3)
    tasks = [held.ask(b"%d" % n) for n in range(2)]
    await held.begun(2)
    tasks += [held.ask(b"good", "192.0.2.2"), *(held.ask(b"%d" % n) for n in range(2, 7))]
    assert [await task for task in tasks[3:6]] == ["refused for now: 3 others wait for their check"] * 3
    assert len(_threads()._waiting) == 3
    held.go_on.set()
    await asyncio.gather(*tasks)
    assert sorted(held.derived) == [b"0", b"1", b"5", b"6", b"good"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("alice:wonderland", "line 1: no scrypt hash; 'asyncdicom passwd' makes one"),
        ("alice", "line 1: no scrypt hash"),
        ("#\nalice:$scrypt$ln=30,r=8,p=1$YWJj$YWJj", "line 2: ln=30,r=8,p=1 is out of range"),
        ("alice:$scrypt$ln=14,r=0,p=1$YWJj$YWJj", "line 1: ln=14,r=0,p=1 is out of range"),
        ("alice:$scrypt$ln=14,r=8,p=99$YWJj$YWJj", "line 1: ln=14,r=8,p=99 is out of range"),
        ("alice:$scrypt$ln=14,r=8,p=1$YWJj$YWJj", "line 1: a hash of 3 bytes"),
        ("alice:$scrypt$ln=14,r=8,p=1$YWJjd$YWJj", "line 1: Invalid base64"),
        (" alice:x", "line 1: a user name is printable"),
        (":x", "line 1: a user name is printable"),
        (b"\xff:x", "line 1: not in UTF-8"),
    ],
)
def test_a_line_without_a_hash_is_named_and_not_shown(content, words, tmp_path):
    path = tmp_path / "users"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(IdentityConfigurationError) as caught:
        PasswordFile(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "wonderland" not in str(caught.value)


def test_a_user_that_stands_twice_is_an_error(tmp_path):
    path = tmp_path / "users"
    path.write_text(f"a:{hash_password('x')}\na:{hash_password('y')}\n")
    with pytest.raises(IdentityConfigurationError, match="line 2: this user stands in an earlier line"):
        PasswordFile(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(IdentityConfigurationError, match="users: No such file"):
        PasswordFile(tmp_path / "users")


async def test_a_changed_file_gives_another_verifier_and_leaves_the_first_as_it_is(tmp_path):
    path = tmp_path / "users"
    set_password(path, "alice", "first")
    verifier = PasswordFile(path)
    set_password(path, "alice", "second")
    first, second = UserIdentity.of_user("alice", "first"), UserIdentity.of_user("alice", "second")
    again = verifier.remade()
    assert [await verified(each, first) for each in (verifier, again)] == ["alice", await verified(again, first)]
    assert await verified(again, second) == "alice"
    assert (again.files, repr(again)) == ((path,), f"PasswordFile({str(path)!r}, required=True)")


async def test_a_password_file_can_be_sent_to_a_worker(password_file):
    assert await verified(pickle.loads(pickle.dumps(PasswordFile(password_file))), ALICE) == "alice"


# Setting passwords


def test_other_lines_stay_as_they_are_and_only_the_owner_reads_them(tmp_path):
    path = tmp_path / "users"
    others = ["# a comment", f"bob:{hash_password('x')}", "", f"carol:{hash_password('y')}"]
    path.write_text("\n".join(others))
    path.chmod(0o644)
    assert set_password(path, "alice", "one") is True
    assert set_password(path, "bob", "two") is False
    lines = path.read_text().splitlines()
    assert [line for line in lines if not line.startswith(("alice:", "bob:"))] == [others[0], *others[2:]]
    assert [line.partition(":")[0] for line in lines] == ["# a comment", "bob", "", "carol", "alice"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["users"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to("real")
    set_password(tmp_path / "link", "alice", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().startswith("alice:")


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        ("", "x", "user name"),
        ("a:b", "x", "user name"),
        ("a\nb", "x", "user name"),
        ("#a", "x", "user name"),
        ("a ", "x", "user name"),
        ("a", "", "the password is empty"),
    ],
)
def test_what_the_file_cannot_hold_is_refused(user, password, words, tmp_path):
    with pytest.raises(IdentityConfigurationError, match=words):
        set_password(tmp_path / "users", user, password)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_none_is_not_overwritten(tmp_path):
    path = tmp_path / "users"
    path.write_text("important")
    with pytest.raises(IdentityConfigurationError, match="line 1"):
        set_password(path, "alice", "x")
    assert path.read_text() == "important"


def test_nothing_is_left_when_the_file_cannot_be_replaced(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(5, "no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        set_password(tmp_path / "users", "alice", "x")
    assert os.listdir(tmp_path) == []


# JSON web tokens

SOON = dt.timedelta(hours=1)


def claims(**more):
    return {"sub": "alice", "iss": "https://id.example", "aud": "archive", "exp": dt.datetime.now(dt.UTC) + SOON} | more


def token(key, algorithm, headers=None, **more):
    payload = {name: value for name, value in claims(**more).items() if value is not None}
    return UserIdentity(5, jwt.encode(payload, key, algorithm, headers).encode())


def verifier(key, *algorithms, **more):
    return JWTVerifier(key, **{"algorithms": algorithms, "issuer": "https://id.example", "audience": "archive"} | more)


def pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def keys():
    """Private keys by the algorithms that they are for."""
    rsa_key = rsa.generate_private_key(65537, 2048)
    return {
        "RS256": rsa_key,
        "PS512": rsa_key,
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }


def web_key(key, algorithm, **more):
    kind = {"R": jwt.algorithms.RSAAlgorithm, "E": jwt.algorithms.ECAlgorithm}[algorithm[0]]
    return json.loads(kind.to_jwk(key.public_key())) | more


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
async def test_a_token_is_verified_with_a_public_key(keys, algorithm):
    its = verifier(pem(keys[algorithm]), algorithm)
    assert await verified(its, token(keys[algorithm], algorithm)) == "alice"


async def test_a_token_may_come_from_a_file_with_a_line_end():
    sent = token(SECRET, "HS256")
    assert await verified(verifier(SECRET, "HS256"), UserIdentity(5, sent.primary + b"\r\n")) == "alice"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_token_is_verified_with_a_shared_secret(algorithm, tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    for key in (SECRET, path, str(path)):
        assert await verified(verifier(key, algorithm), token(SECRET, algorithm)) == "alice"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "alice"),
        ({"exp": dt.datetime.now(dt.UTC) - SOON}, "it has expired"),
        ({"exp": None}, "it lacks a claim"),
        ({"nbf": dt.datetime.now(dt.UTC) + SOON}, "it is not valid yet"),
        ({"aud": "other"}, "it is not for this audience"),
        ({"aud": None}, "it lacks a claim"),
        ({"aud": ["other", "archive"]}, "alice"),
        ({"iss": "https://evil.example"}, "it is from another issuer"),
        ({"iss": None}, "it lacks a claim"),
        ({"sub": None}, "it lacks a claim"),
        ({"sub": ""}, "its claim 'sub' is no name"),
    ],
)
async def test_what_a_token_says_is_looked_at(more, expected):
    found = await verified(verifier(SECRET, "HS256"), token(SECRET, "HS256", **more))
    assert found == expected if expected == "alice" else found.startswith("refused: ") and expected in found


async def test_a_token_for_others_is_refused_where_no_audience_is_named():
    its = verifier(SECRET, "HS256", issuer=None, audience=None)
    assert "audience" in await verified(its, token(SECRET, "HS256"))
    assert await verified(its, token(SECRET, "HS256", aud=None, iss="anybody")) == "alice"


async def test_the_user_s_name_may_be_another_claim():
    its = verifier(SECRET, "HS256", user_claim="email")
    assert await verified(its, token(SECRET, "HS256", email="alice@example")) == "alice@example"
    assert "is no name" in await verified(its, token(SECRET, "HS256", email=["alice"]))


async def test_clocks_may_differ_by_the_leeway():
    late = token(SECRET, "HS256", exp=dt.datetime.now(dt.UTC) - SOON)
    assert await verified(verifier(SECRET, "HS256", leeway=2 * SOON.total_seconds()), late) == "alice"


async def test_no_algorithm_counts_but_those_that_are_allowed(keys):
    its = verifier(pem(keys["RS256"]), "RS256")
    unsigned = UserIdentity(5, jwt.encode(claims(), None, "none").encode())
    header, _, rest = token(SECRET, "HS256").primary.partition(b".")
    # Signed with the text of the public key as if that were a secret: what PyJWT itself refuses to sign
    body = rest.rpartition(b".")[0]
    signature = base64.urlsafe_b64encode(hmac.digest(pem(keys["RS256"]), header + b"." + body, "sha256")).rstrip(b"=")
    confused = UserIdentity(5, header + b"." + body + b"." + signature)
    for each in (unsigned, confused, token(keys["PS512"], "PS512"), token(keys["ES256"], "ES256")):
        assert "it is not signed by RS256, which the keys here are for" in await verified(its, each)
    assert await verified(its, token(keys["RS256"], "RS256")) == "alice"


@pytest.mark.parametrize(
    "text", [b"", b"token", b"a.b.c", b"\xff.\xff.\xff", b"." * 60_000, b"eyJhbGciOiJIUzI1NiJ9..", b"e30.e30."]
)
async def test_what_is_no_token_is_refused(text):
    assert (await verified(verifier(SECRET, "HS256"), UserIdentity(5, text))).startswith("refused: the JSON web token")


async def test_a_wrong_signature_is_refused(keys):
    other = ec.generate_private_key(ec.SECP256R1())
    found = await verified(verifier(pem(keys["ES256"]), "ES256"), token(other, "ES256"))
    assert found == "refused: the JSON web token is refused: its signature is wrong"


async def test_a_token_that_is_too_long_is_not_looked_at():
    found = await verified(verifier(SECRET, "HS256"), token(SECRET, "HS256", more="x" * 16_000))
    assert re.fullmatch("refused: the JSON web token is refused: it has [0-9]{5} bytes, 16384 are the most", found)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [(ALICE, "refused: a user identity of type 2 is no JSON web token"), (None, "refused: no user identity was sent")],
)
async def test_other_identities_are_no_tokens(identity, expected):
    assert await verified(verifier(SECRET, "HS256"), identity) == expected
    assert await verifier(SECRET, "HS256", required=False)(None, None) is True


async def test_of_a_key_set_the_key_counts_that_the_token_names(keys, tmp_path):
    other = rsa.generate_private_key(65537, 2048)
    path = tmp_path / "keys.json"
    path.write_text(
        json.dumps(
            {
                "keys": [
                    web_key(keys["RS256"], "RS256", kid="one", use="sig"),
                    web_key(other, "RS256", kid="two", alg="RS256"),
                    web_key(keys["ES256"], "ES256", kid="three"),
                    web_key(other, "RS256", kid="four", alg="RSA-OAEP"),
                    web_key(other, "RS256", kid="five", use="enc"),
                ]
            }
        )
    )
    its = verifier(path, "RS256", "ES256")
    assert await verified(its, token(keys["RS256"], "RS256", {"kid": "one"})) == "alice"
    assert await verified(its, token(other, "RS256", {"kid": "two"})) == "alice"
    assert await verified(its, token(keys["ES256"], "ES256", {"kid": "three"})) == "alice"
    assert await verified(its, token(keys["ES256"], "ES256")) == "alice"
    assert "its signature is wrong" in await verified(its, token(other, "RS256", {"kid": "one"}))
    assert "its key ID (kid) is of none of the keys here" in await verified(its, token(other, "RS256", {"kid": "four"}))
    assert "2 keys fit" in await verified(its, token(other, "RS256"))


async def test_a_certificate_has_a_public_key_too(keys):
    key, name = keys["ES256"], x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = dt.datetime.now(dt.UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + SOON).sign(key, hashes.SHA256())
    its = verifier(certificate.public_bytes(serialization.Encoding.PEM), "ES256")
    assert await verified(its, token(key, "ES256")) == "alice"


def private(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("make", "algorithms", "words"),
    [
        (lambda keys: SECRET, (), "name those that are allowed"),
        (lambda keys: SECRET, "HS256", "name those that are allowed"),
        (lambda keys: SECRET, ("none",), "the algorithm 'none' cannot be allowed"),
        (lambda keys: SECRET, ("HS256", "none"), "the algorithm 'none' cannot be allowed"),
        (lambda keys: SECRET, ("HS256", "RS256"), "either shared or public"),
        (lambda keys: SECRET[:31], ("HS256",), "the secret has 31 bytes, 32 are needed"),
        (lambda keys: SECRET[:32], ("HS512",), "the secret has 32 bytes, 64 are needed"),
        (lambda keys: pem(keys["RS256"]), ("HS256",), "a PEM key is not a shared secret"),
        (lambda keys: pem(keys["RS256"]), ("ES256",), "no key for ES256; there are: RSA"),
        (lambda keys: pem(keys["ES384"]), ("ES256",), "no key for ES256; there are: EC"),
        (lambda keys: private(keys["ES256"]), ("ES256",), "a private key"),
        (lambda keys: pem(rsa.generate_private_key(65537, 1024)), ("RS256",), "the RSA key has 1024 bits"),
        (lambda keys: SECRET, ("RS256",), "no JSON web key, and no PEM key"),
        (lambda keys: b"-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----", ("RS256",), "no public key in PEM"),
        (lambda keys: b"-----BEGIN CERTIFICATE-----\nabc", ("RS256",), "no certificate in PEM that can be read"),
        (lambda keys: b"\x30\x82\xff\xff", ("RS256",), "'openssl pkey -pubin -inform DER' makes PEM"),
        (lambda keys: b"{}", ("RS256",), "no JSON web key"),
        (lambda keys: b"[]", ("RS256",), "no JSON web key"),
        (lambda keys: b'{"keys": []}', ("RS256",), "no key for RS256; there are: none"),
        (lambda keys: b'{"keys": [{"kty": "RSA"}]}', ("RS256",), "no JSON web key"),
        (lambda keys: b'{"kty": "oct", "k": "AAAA"}', ("HS256",), "the secret has 3 bytes"),
    ],
)
def test_keys_and_algorithms_that_do_not_go_together_are_refused(keys, make, algorithms, words, tmp_path):
    content = make(keys)
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(IdentityConfigurationError) as caught:
        JWTVerifier(tmp_path / "key", algorithms=algorithms, issuer=None, audience=None)
    assert words in str(caught.value)
    assert str(tmp_path / "key") in str(caught.value)
    assert not any(raw in str(caught.value) for raw in ("Error", "Details", "https:", "codec"))
    assert len(content) < 40 or content.decode()[8:40] not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(IdentityConfigurationError, match="key: No such file"):
        verifier(tmp_path / "key", "HS256")


def test_without_pyjwt_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jwt", None)
    with pytest.raises(IdentityConfigurationError, match=r"install asyncdicom\[jwt\]"):
        verifier(SECRET, "HS256")


async def test_a_verifier_of_tokens_can_be_sent_and_made_again(keys, tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(pem(keys["ES256"]))
    sent = pickle.dumps(verifier(path, "ES256"))
    path.write_bytes(b"half a")  # key, as it is being written
    its = pickle.loads(sent)
    assert await verified(its, token(keys["ES256"], "ES256")) == "alice"
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(pem(other))
    assert await verified(its.remade(), token(other, "ES256")) == "alice"
    assert (its.files, verifier(SECRET, "HS256").files) == ((path,), ())
    assert "secret" not in repr(verifier(SECRET, "HS256"))


# Several


async def test_any_of_several_checks_will_do(password_file, tmp_path):
    async def kerberos(identity, association):
        return User("carol@REALM", b"ticket") if identity.type == 3 else None

    (tmp_path / "secret").write_bytes(SECRET)
    its = AnyOf(PasswordFile(password_file), verifier(tmp_path / "secret", "HS256"), kerberos)
    for each in (its, its.remade()):
        assert await verified(each, ALICE) == "alice"
        assert await verified(each, token(SECRET, "HS256")) == "alice"
        assert await verified(each, UserIdentity(3, b"ticket")) == "carol@REALM"
        assert await verified(each, None) == "refused: no user identity was sent"
        assert "is no user name" in await verified(each, UserIdentity(1, b"alice"))
    assert its.files == (password_file, tmp_path / "secret")
    assert await AnyOf(kerberos, required=False)(None, None) is True
    assert await verified(AnyOf(kerberos), ALICE) == "refused: the user identity was not confirmed"


async def test_what_may_pass_later_is_refused_for_now_by_several_checks_too():
    async def busy(identity, association):
        raise IdentityRefused("ask again", transient=True)

    its = AnyOf(busy, verifier(SECRET, "HS256"))
    assert await verified(its, ALICE) == "refused for now: ask again; a user identity of type 2 is no JSON web token"
    assert await verified(its, token(SECRET, "HS256")) == "alice"


# With a server


async def associate(server, identity):
    try:
        async with asyncdicom.connect("127.0.0.1", server.port, user_identity=identity) as association:
            await association.c_echo()
            return "accepted"
    except asyncdicom.AssociationRejected as error:
        return error.result, error.source, error.reason


async def test_nothing_that_is_secret_is_logged_on_either_side(password_file, caplog):
    caplog.set_level(logging.DEBUG)
    sent = [
        UserIdentity.of_user("alice", "wonderland", positive_response_requested=True),
        UserIdentity.of_user("alice", "not-it"),
        token(SECRET, "HS256"),
        token(SECRET, "HS256", exp=dt.datetime.now(dt.UTC) - SOON),
        UserIdentity(5, b"broken-token-text"),
        UserIdentity(3, b"kerberos-ticket", b"", True),
        UserIdentity(4, b"saml-assertion"),
    ]

    async def others(identity, association):
        if identity.type == 4:
            raise RuntimeError("the identity provider is down")
        return User("bob", b"server-ticket") if identity.type == 3 else False

    check = AnyOf(PasswordFile(password_file), verifier(SECRET, "HS256"), others)
    async with asyncdicom.serve("127.0.0.1", 0, user_identity=check) as server:
        found = [await associate(server, each) for each in sent]
    no = (1, 2, 1)
    assert found == ["accepted", no, "accepted", no, no, "accepted", no]
    shown = caplog.text + repr(sent) + str(sent) + repr([f"{each}" for each in sent])
    assert "A-ASSOCIATE-RJ" in shown
    assert "AssociateRQ(" in shown  # the whole request is logged, both ways
    for secret in (b"wonderland", b"not-it", *(each.primary for each in sent[2:]), b"server-ticket", SECRET):
        assert secret.decode() not in shown
        assert len(secret) < 40 or secret[8:24].decode() not in shown
    assert "it has expired" in shown
    assert "wrong passcode" in shown


async def test_who_cannot_be_checked_now_may_come_again():
    async def check(identity, association):
        raise IdentityRefused("too many", transient=identity == ALICE)

    async with asyncdicom.serve("127.0.0.1", 0, user_identity=check) as server:
        assert await associate(server, ALICE) == (2, 3, 1)
        assert await associate(server, UserIdentity.of_user("bob", "x")) == (1, 2, 1)


async def test_a_flood_of_wrong_passwords_does_not_hold_up_another_address(password_file):
    wrong = request(user_identity=UserIdentity.of_user("alice", "wrong"))
    async with (
        asyncdicom.serve("127.0.0.1", 0, user_identity=PasswordFile(password_file)) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(40):
            peer = await stack.enter_async_context(raw_client(server.port, local_addr=("127.0.0.2", 0)))
            peer.send(wrong)
        assert await associate(server, ALICE) == "accepted"
        assert len(_threads()._waiting) > 20


async def test_a_user_of_the_file_is_known_to_rules_and_handlers(password_file):
    users = []

    async def store(request):
        users.append(request.user)
        return asyncdicom.Status.SUCCESS

    policy = AccessPolicy((Rule(name="alice", users="alice"),))
    check = PasswordFile(password_file)
    async with asyncdicom.serve("127.0.0.1", 0, c_store=store, user_identity=check, access=policy) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[CT], user_identity=ALICE) as association:
            await association.c_store(asyncdicom.Instance(CT, "1.2", "1.2.840.10008.1.2.1", length=2, data=b"ab"))
        assert await associate(server, UserIdentity.of_user("carol", "x" * 1000)) == (1, 1, 1)
    assert users == ["alice"]


async def test_workers_have_the_password_file_too(password_file):
    check = PasswordFile(password_file)
    async with asyncdicom.serve("127.0.0.1", 0, user_identity=check, workers=2) as server:
        assert await associate(server, ALICE) == "accepted"
        assert await associate(server, UserIdentity.of_user("alice", "no")) == (1, 2, 1)
