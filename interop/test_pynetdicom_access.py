"""pynetdicom as a requestor with user identities of types 1, 2 and 5."""

import asyncio
import time

import jwt
import pytest
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import UserIdentityNegotiation

import asyncdicom
from asyncdicom import AccessPolicy, JWTVerifier, PasswordFile, Rule, User, UserIdentity
from asyncdicom.identity import AnyOf, set_password
from asyncdicom.uids import VERIFICATION

SECRET = b"0123456789abcdef0123456789abcdef"


def token(user):
    return jwt.encode({"sub": user, "exp": time.time() + 3600}, SECRET, "HS256").encode()


async def known_by_name(identity, association):
    """User names alone, from one that is trusted: what a site may want, and has to write down itself."""
    return User(identity.primary.decode()) if identity.type == 1 and association.calling_ae_title == "TRUSTED" else None


def associate(port, identity, title):
    """What pynetdicom makes of our answer: the status of a C-ECHO, or the rejection; and the response to the user."""
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field, item.secondary_field = identity[:3]
    item.positive_response_requested = identity.positive_response_requested
    for _ in range(10):
        peer = AE(title).associate("127.0.0.1", port, contexts=[build_context(VERIFICATION)], ext_neg=[item])
        if peer.acceptor.primitive is not None:
            break  # else the rejection came, and its socket was closed, before it had looked whether it is connected
    if not peer.is_established:
        answer = peer.acceptor.primitive
        return (answer.result, answer.result_source, answer.diagnostic), None
    response = peer.acceptor.user_identity
    status = peer.send_c_echo().Status
    peer.release()
    return status, response and response.server_response


@pytest.mark.parametrize(
    ("identity", "title", "expected"),
    [
        (UserIdentity(1, b"alice"), "TRUSTED", (0, None)),
        (UserIdentity(1, b"alice"), "OTHER", ((1, 2, 1), None)),
        (UserIdentity.of_user("alice", "wonderland"), "OTHER", (0, None)),
        (UserIdentity.of_user("alice", "wonderland", positive_response_requested=True), "OTHER", (0, b"")),
        (UserIdentity.of_user("alice", "wrong", positive_response_requested=True), "OTHER", ((1, 2, 1), None)),
        (UserIdentity(5, token("alice")), "OTHER", (0, None)),
        (UserIdentity(5, token("alice"), b"", True), "OTHER", (0, b"")),
        (UserIdentity(5, token("mallory")), "OTHER", ((1, 1, 1), None)),
        (UserIdentity(5, token("alice")[:-3] + b"abc"), "OTHER", ((1, 2, 1), None)),
    ],
)
async def test_pynetdicom_is_known_by_each_type_of_identity(identity, title, expected, tmp_path):
    set_password(tmp_path / "users", "alice", "wonderland")
    tokens = JWTVerifier(SECRET, algorithms=["HS256"], issuer=None, audience=None)
    check = AnyOf(PasswordFile(tmp_path / "users"), tokens, known_by_name)
    policy = AccessPolicy((Rule(name="alice", users="alice"),))
    async with asyncdicom.serve("127.0.0.1", 0, user_identity=check, access=policy) as server:
        assert await asyncio.to_thread(associate, server.port, identity, title) == expected
