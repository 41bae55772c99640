"""The requestor: a peer that is not there, refuses, stalls, lies or resets gives a typed error in time."""

import asyncio
import math
import pathlib
import socket
import ssl

import pytest
from raw_peer import CT, DEADLINE, SYNTAX, accept, data_set, raw_server, request, response

import asyncdicom
from asyncdicom import Context, Status, Timeouts
from asyncdicom.command import CommandField
from asyncdicom.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, ReleaseRP, ReleaseRQ, UserInformation
from asyncdicom.presentation import ContextResult, RoleSelection
from asyncdicom.tls import client_context, server_context


async def test_the_request_says_what_was_asked_for():
    seen = []

    async def script(peer):
        seen.append(await accept(peer))
        await peer.receive()
        peer.send(ReleaseRP())

    identity = asyncdicom.UserIdentity(2, b"user", b"secret", positive_response_requested=True)
    contexts = [Context(CT, ("1.2.840.10008.1.2",), scu=True, scp=True)]
    options = {"called_ae_title": " THEM ", "calling_ae_title": "US", "user_identity": identity, "max_pdu_length": 4096}
    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port, contexts=contexts, **options):
        pass
    (asked,) = seen
    assert (asked.called_ae_title, asked.calling_ae_title) == ("THEM", "US")
    assert asked.user_information.roles == (RoleSelection(CT, scu=True, scp=True),)
    assert asked.user_information.maximum_length == 4096
    assert asked.user_information.user_identity == identity
    assert "secret" not in repr(asked)


async def test_nobody_listening_is_a_lost_association_that_says_where():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(asyncdicom.NoConnection, match=f"127.0.0.1 port {port}"):
            await asyncdicom.connect("127.0.0.1", port)


@pytest.mark.parametrize(
    ("rejection", "words", "transient"),
    [
        (AssociateRJ(1, 1, 7), "called AE title not recognized", False),
        (AssociateRJ(2, 3, 2), "local limit exceeded", True),
        (AssociateRJ(9, 8, 7), "undefined result 9, undefined source 8, undefined reason 7", False),
    ],
)
async def test_a_rejection_is_an_exception_with_the_peers_numbers_and_their_words(rejection, words, transient):
    async def script(peer):
        await peer.receive()
        peer.send(rejection)
        assert await peer.receive() is None

    async with raw_server(script) as port:
        with pytest.raises(asyncdicom.AssociationRejected, match=words) as caught:
            await asyncdicom.connect("127.0.0.1", port)
    error = caught.value
    assert (error.result, error.source, error.reason) == (rejection.result, rejection.source, rejection.reason)
    assert error.is_transient is transient


async def test_no_answer_in_time_is_aborted_and_said():
    async def script(peer):
        await peer.receive()
        assert await peer.receive() == Abort(0, 0)

    async with raw_server(script) as port:
        with pytest.raises(asyncdicom.AssociationTimeout, match="association request"):
            await asyncdicom.connect("127.0.0.1", port, timeouts=Timeouts(acse=0.05))


@pytest.mark.parametrize(
    ("sent", "sent_back"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Abort(2, 1)),
        (b"\2\0\0\x10\0\1", Abort(2, 6)),
        (ReleaseRQ().encode(), Abort(2, 2)),
        (request().encode(), Abort(2, 2)),
    ],
    ids=["HTTP", "an answer above 1 MiB", "a release", "a request"],
)
async def test_an_answer_that_is_none_is_aborted(sent, sent_back):
    async def script(peer):
        await peer.receive()
        peer.send(sent)
        assert await peer.receive() == sent_back

    async with raw_server(script) as port:
        with pytest.raises(asyncdicom.AssociationAborted) as caught:
            await asyncdicom.connect("127.0.0.1", port)
    assert not caught.value.by_peer


async def test_contexts_that_were_not_proposed_and_syntaxes_that_were_not_offered_are_not_used():
    async def script(peer):
        await peer.receive()
        results = (ContextResult(1, 0, "1.2.840.10008.1.2.4.50"), ContextResult(99, 0, "1.2.840.10008.1.2"))
        peer.send(AssociateAC(results, UserInformation(maximum_length=16384)))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port) as association:
        assert association.contexts == {}
        with pytest.raises(asyncdicom.NoAcceptedContext, match="Verification"):
            await association.c_echo()


async def test_an_answer_and_the_first_message_in_one_segment_are_both_taken():
    async def script(peer):
        await peer.receive()
        peer.send(
            AssociateAC((ContextResult(1, 0, "1.2.840.10008.1.2"),), UserInformation(maximum_length=16384)),
            ReleaseRQ(),
        )
        assert await peer.receive() == ReleaseRP()

    async with raw_server(script) as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        assert isinstance(await association.wait_closed(), asyncdicom.AssociationReleased)


@pytest.mark.parametrize("contexts", [[], [Context(CT)] * 129, [Context(CT, ())]], ids=["none", "129", "no syntax"])
def test_contexts_that_cannot_be_proposed_are_refused_at_once(contexts):
    with pytest.raises(asyncdicom.LocalProtocolError):
        asyncdicom.connect("127.0.0.1", contexts=contexts)


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "Ä", "A\\B", "A\nB"])
def test_ae_titles_that_the_standard_does_not_allow_are_refused_at_once(title):
    with pytest.raises(ValueError, match="AE title"):
        asyncdicom.connect("127.0.0.1", called_ae_title=title)


async def test_an_exception_in_the_block_aborts():
    seen = []

    async def script(peer):
        await accept(peer)
        seen.append(await peer.receive())

    async with raw_server(script) as port:
        with pytest.raises(ZeroDivisionError):
            async with asyncdicom.connect("127.0.0.1", port):
                _ = 1 / 0
    assert seen == [Abort(0, 0)]


async def test_cancelling_a_connect_that_waits_for_its_answer_leaves_nothing():
    async def script(peer):
        await peer.receive()
        connecting.cancel()
        while await peer.receive() is not None:
            pass

    async with raw_server(script) as port:
        connecting = asyncio.ensure_future(asyncdicom.connect("127.0.0.1", port)._connect())
        with pytest.raises(asyncio.CancelledError):
            await connecting


async def test_a_server_that_ends_at_every_byte_of_its_answers_gives_a_typed_error():
    answers = AssociateAC((ContextResult(1, 0, "1.2.840.10008.1.2.1"),), UserInformation(maximum_length=16384)).encode()
    answers += response(CommandField.C_STORE_RSP, 1)
    instance = asyncdicom.Instance(CT, "1.2", "1.2.840.10008.1.2.1", length=200, data=data_set(200))
    for cut in range(len(answers)):

        async def script(peer, cut=cut):
            peer.send(answers[:cut])
            if cut % 2:
                await peer.writer.drain()
                peer.reset()

        async with raw_server(script) as port:
            with pytest.raises(asyncdicom.AssociationError):
                async with asyncdicom.connect("127.0.0.1", port, contexts=[Context(CT)]) as association:
                    await association.c_store(instance)


async def test_a_server_that_stalls_at_any_byte_of_its_answers_is_left_in_time():
    answers = AssociateAC((ContextResult(1, 0, "1.2.840.10008.1.2.1"),), UserInformation(maximum_length=16384)).encode()
    answers += response(CommandField.C_ECHO_RSP, 1)
    timeouts = Timeouts(acse=0.01, dimse=0.01)
    for cut in range(0, len(answers), 7):

        async def script(peer, cut=cut):
            peer.send(answers[:cut])
            await peer.receive_all()

        async with raw_server(script) as port:
            with pytest.raises(asyncdicom.AssociationTimeout):
                await echo(port, timeouts)


async def echo(port, timeouts):
    async with asyncdicom.connect("127.0.0.1", port, timeouts=timeouts) as association:
        return await association.c_echo()


async def test_over_tls_an_instance_arrives_whole(tls_contexts):
    received = []

    async def handler(store_request):
        received.append(await store_request.data_set.read())
        return Status.SUCCESS

    data = data_set(3_000_000)
    instance = asyncdicom.Instance(CT, "1.2.3.4", "1.2.840.10008.1.2.1", length=len(data), data=data)
    server_side, client_side = tls_contexts
    async with asyncdicom.serve("127.0.0.1", 0, c_store=handler, ssl=server_side) as server:
        options = {"contexts": [Context(CT)], "ssl": client_side, "server_hostname": "localhost"}
        async with asyncdicom.connect("127.0.0.1", server.port, **options) as association:
            for _ in range(3):
                assert await association.c_store(instance) == Status.SUCCESS
    assert received == [data] * 3


async def test_a_file_over_tls_arrives_whole(tls_contexts, tmp_path):
    received = []

    async def handler(store_request):
        await store_request.data_set.save_as(tmp_path / "received")
        received.append((tmp_path / "received").read_bytes()[-3_000_000:])
        return Status.SUCCESS

    data = data_set(3_000_000)
    (tmp_path / "sent").write_bytes(data)
    instance = asyncdicom.Instance(CT, "1.2", "1.2.840.10008.1.2.1", path=str(tmp_path / "sent"), length=len(data))
    server_side, client_side = tls_contexts
    async with asyncdicom.serve("127.0.0.1", 0, c_store=handler, ssl=server_side) as server:
        options = {"contexts": [Context(CT)], "ssl": client_side, "server_hostname": "localhost"}
        async with asyncdicom.connect("127.0.0.1", server.port, **options) as association:
            assert await association.c_store(instance) == Status.SUCCESS
    assert received == [data]


async def test_a_certificate_that_is_not_trusted_is_an_error_that_says_so(tls_contexts):
    context = ssl.create_default_context()
    async with asyncdicom.serve("127.0.0.1", 0, ssl=tls_contexts[0]) as server:
        with pytest.raises(asyncdicom.NoConnection, match="certificate"):
            await asyncdicom.connect("127.0.0.1", server.port, ssl=context, server_hostname="localhost")


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("expired", "has expired"),
        ("stranger", "its CA is not among the trusted certificates"),
        ("elsewhere", "IP address mismatch"),
    ],
)
async def test_what_is_wrong_with_the_servers_certificate_is_said_in_words(shown, words, certificates):
    server_side = server_context(*getattr(certificates, shown))
    client_side = client_context(trusted=certificates.ca.file)
    async with asyncdicom.serve("127.0.0.1", 0, ssl=server_side) as server:
        with pytest.raises(asyncdicom.NoConnection, match=f"^no connection to 127.0.0.1 port .*{words}"):
            await asyncdicom.connect("127.0.0.1", server.port, ssl=client_side)


async def test_a_peer_that_does_not_speak_tls_is_an_error_that_says_so(certificates):
    async with asyncdicom.serve("127.0.0.1", 0) as server:
        with pytest.raises(asyncdicom.TLSFailed, match="the peer does not speak TLS"):
            await asyncdicom.connect("127.0.0.1", server.port, ssl=client_context(trusted=certificates.ca.file))


async def test_a_peer_that_says_nothing_to_a_client_hello_is_left_in_time_and_the_error_says_so(certificates):
    async def script(peer):
        assert await peer.reader.read(1) == b"\x16"
        assert await peer.reader.read() != b""

    timeouts = Timeouts(connect=math.inf, tls=0.1)
    async with raw_server(script) as port:
        with pytest.raises(asyncdicom.TLSFailed, match="SSL handshake is taking longer than"):
            await asyncdicom.connect(
                "127.0.0.1", port, ssl=client_context(trusted=certificates.ca.file), timeouts=timeouts
            )


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_client_hears_that_it_needs_a_certificate_or_a_better_one(version, certificates):
    trusted = certificates.ca.file
    server_side = server_context(*certificates.server, trusted=trusted, client_certificate="required")
    server_side.maximum_version = ssl.TLSVersion[version]
    refusals = {None: "it requires a certificate|misses a certificate", "stranger": "does not trust the CA"}
    async with asyncdicom.serve("127.0.0.1", 0, ssl=server_side) as server:
        for shown, words in refusals.items():
            pair = getattr(certificates, shown) if shown else (None, None)
            client_side = client_context(trusted=trusted, certificate=pair[0], key=pair[1])
            with pytest.raises(asyncdicom.TLSFailed, match=f"the peer refused: .*({words})"):
                await asyncdicom.connect("127.0.0.1", server.port, ssl=client_side)


async def test_a_server_that_ends_without_a_word_after_the_handshake_may_want_a_certificate(tls_contexts):
    async def script(reader, writer):
        await reader.read(1)
        writer.transport.abort()

    listener = await asyncio.start_server(script, "127.0.0.1", 0, ssl=tls_contexts[0])
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(asyncdicom.AssociationLost, match="a server that requires a certificate of this side"):
        await asyncdicom.connect("127.0.0.1", port, ssl=tls_contexts[1], server_hostname="localhost")
    listener.close()


async def test_both_sides_know_how_tls_was_agreed_and_whose_certificate_was_verified(certificates, caplog):
    caplog.set_level("DEBUG", "asyncdicom")
    trusted = certificates.ca.file
    server_side = server_context(*certificates.server, trusted=trusted, client_certificate="required")
    pair = certificates.client
    client_side = client_context(trusted=trusted, certificate=pair.certificate, key=pair.key)
    seen = []

    async def handler(request):
        seen.append(request.peer_certificate)
        return asyncdicom.Status.SUCCESS

    async with asyncdicom.serve("127.0.0.1", 0, ssl=server_side, n_action=handler, contexts=[CT]) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, ssl=client_side, contexts=[CT]) as association:
            await association.n_action(CT, "1.2.3", 1)
            assert association.tls == server.associations[0].tls
            assert association.tls.version == "TLSv1.3"
            assert association.peer_certificate.common_name == "server"
    assert seen[0].subject == "CN=client"
    assert f"(127.0.0.1, 'CN=client', SHA-256 {seen[0].sha256})" in caplog.text


@pytest.mark.parametrize("asked", ["off", "optional"])
async def test_a_certificate_that_was_not_verified_is_none(asked, certificates):
    trusted = certificates.ca.file if asked == "optional" else ()
    server_side = server_context(*certificates.server, trusted=trusted, client_certificate=asked)
    client_side = client_context(verify="off")
    async with asyncdicom.serve("127.0.0.1", 0, ssl=server_side) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, ssl=client_side) as association:
            assert association.peer_certificate is None
            assert server.associations[0].peer_certificate is None
            assert server.associations[0].tls is not None


async def test_without_tls_there_is_neither_certificate_nor_cipher():
    async with asyncdicom.serve("127.0.0.1", 0) as server:
        async with asyncdicom.connect("127.0.0.1", server.port) as association:
            assert (association.tls, association.peer_certificate) == (None, None)


async def test_tls_clients_that_never_shake_hands_leave_nothing_after_artim(tls_contexts):
    async with asyncdicom.serve("127.0.0.1", 0, ssl=tls_contexts[0], timeouts=Timeouts(acse=0.05)) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(10):
            while not server._pending:
                await asyncio.sleep(0)
            while server._pending:
                await asyncio.sleep(0.001)
        writer.close()


def test_a_request_decodes_to_what_was_encoded():
    asked = request()
    assert AssociateRQ.decode(asked.encode()[6:]) == asked


async def test_the_dialogue_of_the_negotiation_is_in_the_debug_log_without_credentials(caplog):
    caplog.set_level("DEBUG", "asyncdicom")
    identity = asyncdicom.UserIdentity(2, b"user", b"secret")
    async with asyncdicom.serve("127.0.0.1", 0) as server:
        async with asyncdicom.connect("127.0.0.1", server.port, user_identity=identity) as association:
            await association.c_echo()
    lines = [record.getMessage() for record in caplog.records]
    for begin in ("> AssociateRQ", "< AssociateRQ", "> AssociateAC", "< AssociateAC", "> Command(C-ECHO-RQ"):
        assert any(line.startswith(begin) for line in lines)
    assert "secret" not in "".join(lines)


async def test_what_is_to_be_sent_may_be_proposed(tmp_path):
    from pydicom.data import get_testdata_file

    path = pathlib.Path(get_testdata_file("CT_small.dcm"))
    instance = asyncdicom.read_instance(path)
    seen = []

    async def script(peer):
        seen.append(await accept(peer))
        await peer.receive()
        peer.send(ReleaseRP())

    for contexts in (path, [path, "verification"], instance):
        async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port, contexts=contexts):
            pass
    proposed = [{each.abstract_syntax for each in asked.presentation_contexts} for asked in seen]
    assert proposed == [{CT}, {CT, "1.2.840.10008.1.1"}, {CT}]


async def test_services_bring_their_contexts():
    class Steps:
        contexts = ("modality performed procedure step",)
        handlers = {}  # noqa: RUF012

    seen = []

    async def script(peer):
        seen.append(await accept(peer))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port, services=[Steps()]):
        pass
    assert "1.2.840.10008.3.1.2.3.3" in {each.abstract_syntax for each in seen[0].presentation_contexts}


async def test_extensions_are_offered_and_what_was_agreed_is_known():
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    supported = [Context(find, extended=b"\1\0\1")]
    async with asyncdicom.serve("127.0.0.1", 0, contexts=supported) as server:
        contexts = [Context(find, extended=b"\1\1\1\1")]
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=contexts) as association:
            assert association.extended == {find: b"\1\0\1"}
            assert server.associations[0].extended == association.extended


async def test_roles_that_were_not_answered_may_be_assumed():
    async def script(peer):
        await accept(peer)
        await peer.receive()
        peer.send(ReleaseRP())

    contexts = [Context(CT, scp=True)]
    for assumed in (False, True):
        quirks = asyncdicom.Quirks(assume_roles=assumed)
        async with raw_server(script) as port:
            async with asyncdicom.connect("127.0.0.1", port, contexts=contexts, quirks=quirks) as association:
                assert association.contexts[1].scp is assumed


@pytest.mark.parametrize(
    ("result", "words"),
    [(3, "which the peer does not support"), (4, "none of the proposed transfer syntaxes"), (1, "has rejected it")],
)
async def test_a_context_that_was_refused_is_named_with_the_reason(result, words):
    async def script(peer):
        asked = await peer.receive()
        answers = [ContextResult(each.id, result, each.transfer_syntaxes[0]) for each in asked.presentation_contexts]
        peer.send(AssociateAC(tuple(answers), UserInformation(maximum_length=16384)))
        await peer.receive()
        peer.send(ReleaseRP())

    async with raw_server(script) as port, asyncdicom.connect("127.0.0.1", port) as association:
        with pytest.raises(asyncdicom.NoAcceptedContext, match=words):
            await association.c_echo()


async def test_a_get_needs_contexts_in_which_to_take_instances():
    async with asyncdicom.serve("127.0.0.1", 0, c_get=print) as server:
        model = "StudyRootQueryRetrieveInformationModelGet"
        async with asyncdicom.connect("127.0.0.1", server.port, contexts=[model]) as association:
            with pytest.raises(asyncdicom.NoAcceptedContext, match="retrieval_contexts"):
                association.c_get(b"1234", model=model)


async def test_a_block_that_is_cancelled_while_it_waits_to_release_leaves_no_association():
    never = asyncio.Event()

    async def handler(request):
        await never.wait()

    async with asyncdicom.serve("127.0.0.1", 0, c_store=handler) as server:
        others = []

        async def block():
            async with asyncdicom.connect("127.0.0.1", server.port, contexts=[CT]) as association:
                instance = asyncdicom.Instance(CT, "1.2.3", SYNTAX, length=100, data=bytes(100))
                others.append(asyncio.ensure_future(association.c_store(instance)))
                while not association._invoker.operations:
                    await asyncio.sleep(0)
                others.append(association)

        task = asyncio.ensure_future(block())
        async with asyncio.timeout(DEADLINE):
            while len(others) < 2:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with pytest.raises(asyncdicom.AssociationAborted):
                await others[0]
            assert not others[1].is_established
