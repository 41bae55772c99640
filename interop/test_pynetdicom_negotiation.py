"""pynetdicom as the peer of SOP class extended negotiation and role selection, in both roles."""

import asyncio
import contextlib

import pytest
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

import asyncdicom
from asyncdicom import Context
from asyncdicom.services.query_retrieve import QueryOptions, StorageOptions
from asyncdicom.uids import PATIENT_ROOT_GET, STUDY_ROOT_FIND, VERIFICATION

CT = "1.2.840.10008.5.1.4.1.1.2"
WANTED = QueryOptions(relational=True, combined_datetime=True, fuzzy_names=True)
SUPPORTED = QueryOptions(relational=True, fuzzy_names=True, timezone=True)
AGREED = QueryOptions(relational=True, fuzzy_names=True)


@contextlib.contextmanager
def their_server(answer, *roles):
    """An acceptor that answers extensions with a function, and accepts both roles of the classes that are named."""
    ae = AE("THEIRS")
    for uid in (VERIFICATION, STUDY_ROOT_FIND, CT):
        ae.add_supported_context(uid, scu_role=uid in roles or None, scp_role=uid in roles or None)
    handlers = [(evt.EVT_SOP_EXTENDED, lambda event: answer(event.app_info))]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


async def test_pynetdicom_reads_what_we_propose_and_we_read_its_answer():
    asked = {}

    def answer(extensions):
        asked.update(extensions)
        return {STUDY_ROOT_FIND: bytes(map(min, extensions[STUDY_ROOT_FIND], SUPPORTED.encode()))}

    contexts = [Context(STUDY_ROOT_FIND, extended=WANTED.encode()), CT]
    with their_server(answer) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=contexts) as association:
            agreed = association.extended
    assert asked == {STUDY_ROOT_FIND: WANTED.encode()}
    assert {uid: QueryOptions.decode(information) for uid, information in agreed.items()} == {STUDY_ROOT_FIND: AGREED}


async def test_an_extension_that_pynetdicom_does_not_answer_is_not_agreed():
    contexts = [Context(STUDY_ROOT_FIND, extended=WANTED.encode())]
    with their_server(lambda extensions: {}) as port:
        async with asyncdicom.connect("127.0.0.1", port, contexts=contexts) as association:
            assert association.extended == {}


def associate(port, extensions, contexts):
    """What our side answers to the extensions that pynetdicom proposes."""
    items = []
    for uid, information in extensions.items():
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = uid, information
        items.append(item)
    association = AE("THEIRS").associate("127.0.0.1", port, contexts=contexts, ext_neg=items, ae_title="OURS")
    assert association.is_established
    answered = {str(uid): information for uid, information in association.acceptor.sop_class_extended.items()}
    association.release()
    return answered


async def test_pynetdicom_reads_what_we_answer():
    storage = StorageOptions(level=2, coercion=1)
    contexts = [
        Context(STUDY_ROOT_FIND, extended=SUPPORTED.encode()),
        Context(CT, extended=storage.answer),
        VERIFICATION,
    ]
    proposed = {
        STUDY_ROOT_FIND: WANTED.encode(),
        CT: StorageOptions().encode(),
        VERIFICATION: b"\1",
        PATIENT_ROOT_GET: b"\1",
    }
    async with asyncdicom.serve("127.0.0.1", 0, contexts=contexts) as server:
        theirs = [build_context(uid) for uid in proposed]
        answered = await asyncio.to_thread(associate, server.port, proposed, theirs)
    assert QueryOptions.decode(answered.pop(STUDY_ROOT_FIND)) == AGREED
    assert StorageOptions.decode(answered.pop(CT)) == storage
    assert answered == {}


@pytest.mark.parametrize(("scu", "scp"), [(True, True), (False, True), (True, False)])
async def test_pynetdicom_grants_the_roles_that_we_propose(scu, scp):
    with their_server(lambda extensions: {}, CT) as port:
        context = Context(CT, scu=scu, scp=scp)
        async with asyncdicom.connect("127.0.0.1", port, contexts=context) as association:
            (accepted,) = association.contexts.values()
    assert (accepted.scu, accepted.scp) == (scu, scp)


@pytest.mark.parametrize(("scu", "scp"), [(True, True), (False, True)])
async def test_we_grant_the_roles_that_pynetdicom_proposes(scu, scp):
    def their_roles(port):
        association = AE("THEIRS").associate(
            "127.0.0.1", port, contexts=[build_context(CT)], ext_neg=[build_role(CT, scu, scp)], ae_title="OURS"
        )
        (accepted,) = association.accepted_contexts
        association.release()
        return accepted.as_scu, accepted.as_scp

    async with asyncdicom.serve("127.0.0.1", 0, contexts=[Context(CT, scu=True, scp=True)]) as server:
        assert await asyncio.to_thread(their_roles, server.port) == (scu, scp)
