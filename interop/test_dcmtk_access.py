"""DCMTK's tools refused by an access policy, and by checks of users: they say the right words."""

import time

import jwt
import pytest
from peers import corpus, run

import asyncdicom
from asyncdicom import AccessPolicy, JWTVerifier, PasswordFile, Rule, Status
from asyncdicom.identity import AnyOf, set_password
from asyncdicom.uids import EXPLICIT_VR_LITTLE_ENDIAN

pytestmark = pytest.mark.usefixtures("dcmtk")

SECRET = b"0123456789abcdef0123456789abcdef"
CT = next(
    each
    for each in corpus()
    if each.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2" and each.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN
)


async def drop(request):
    return Status.SUCCESS


def serving(*rules, **options):
    return asyncdicom.serve("127.0.0.1", 0, c_store=drop, access=AccessPolicy(rules), **options)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "Received Echo Response (Success)"),
        ({"calling_ae_titles": "FRIEND"}, "Reason: Calling AE Title Not Recognized"),
        ({"called_ae_titles": "ARCHIVE"}, "Reason: Called AE Title Not Recognized"),
        ({"networks": "192.0.2.0/24"}, "Result: Rejected Permanent, Source: Service User"),
        ({"allow": False}, "Reason: Calling AE Title Not Recognized"),
        ({"sop_classes": "storage"}, "No Acceptable Presentation Contexts"),
        ({"services": "C-STORE"}, "Received Echo Response (Unknown Status: 0x122)"),
    ],
)
async def test_echoscu_says_why_it_is_refused(rule, words):
    async with serving(Rule(name="only", **rule)) as server:
        _, output = await run("echoscu", "-v", "-aet", "THEIRS", "-aec", "OURS", "127.0.0.1", server.port)
    assert words in output, output


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_associations": 1}, "Reason: Local Limit Exceeded"),
        ({"associations_per_second": 0.01}, "Reason: Temporary Congestion"),
    ],
)
async def test_echoscu_says_that_it_is_too_much(limit, words):
    async with serving(Rule(name="only", **limit)) as server:
        async with asyncdicom.connect("127.0.0.1", server.port):
            code, output = await run("echoscu", "-v", "127.0.0.1", server.port)
    assert code != 0
    assert "Rejected Transient" in output
    assert words in output


@pytest.mark.parametrize(
    ("rule", "code_is_0", "words"),
    [
        ({"sop_classes": "storage"}, True, "Received Store Response (Success)"),
        ({"sop_classes": "verification"}, False, "No Acceptable Presentation Contexts"),
        ({"services": "C-ECHO"}, False, "Unknown Status: 0x124"),
    ],
)
async def test_storescu_says_why_it_is_refused(rule, code_is_0, words):
    async with serving(Rule(name="only", **rule)) as server:
        code, output = await run("storescu", "-v", "-R", "127.0.0.1", server.port, CT.path)
    assert (code == 0) is code_is_0, output
    assert words in output, output


def token(key=SECRET, algorithm="HS256", **more):
    claims = {"sub": "carol", "iss": "id", "aud": "archive", "exp": time.time() + 3600}
    return jwt.encode(claims | more, key, algorithm)


async def test_storescu_is_known_by_its_password_or_its_token(tmp_path):
    set_password(tmp_path / "users", "alice", "wonderland")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "good").write_text(token())
    (tmp_path / "late").write_text(token(exp=time.time() - 3600))
    (tmp_path / "unsigned").write_text(token(None, "none"))
    tokens = JWTVerifier(tmp_path / "secret", algorithms=["HS256"], issuer="id", audience="archive")
    check = AnyOf(PasswordFile(tmp_path / "users"), tokens)
    users = []

    async def store(request):
        users.append(request.user)
        return Status.SUCCESS

    async with asyncdicom.serve("127.0.0.1", 0, c_store=store, user_identity=check) as server:
        for words, accepted in (
            (("-usr", "alice", "-pwd", "wonderland"), True),
            (("-usr", "alice", "-pwd", "wonderland", "-rsp"), True),
            (("--jwt", tmp_path / "good", "-rsp"), True),
            (("-usr", "alice", "-pwd", "wrong"), False),
            (("-usr", "alice"), False),
            (("--jwt", tmp_path / "late"), False),
            (("--jwt", tmp_path / "unsigned"), False),
            ((), False),
        ):
            code, output = await run("storescu", "-v", *words, "127.0.0.1", server.port, CT.path)
            assert (code == 0) is accepted, output
            assert accepted or "Rejected Permanent" in output
    assert users == ["alice", "alice", "carol"]
