"""DCMTK as the peer, in both roles: its programs as the distribution packages them, on real files."""

import asyncio
from collections import defaultdict

import pytest
from peers import batches, corpus, data_set_bytes, even, run, running, stored

import asyncdicom
from asyncdicom.uids import name_of

pytestmark = pytest.mark.usefixtures("dcmtk")

PROPOSE = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.4.102": "-xn",
    "1.2.840.10008.1.2.4.103": "-xl",
    "1.2.840.10008.1.2.5": "-xr",
}
"""How storescu is told to propose a transfer syntax; those that it has no option for it cannot send."""

NO_NAGLE = ("env", "TCP_NODELAY=1")
"""Between DCMTK's own programs: Nagle's algorithm costs them 40 ms for each instance, and changes nothing of it."""

INSTANCES = corpus()
BY_SYNTAX = defaultdict(list)
for each in INSTANCES:
    BY_SYNTAX[each.transfer_syntax_uid].append(each)


async def test_echoscu_gets_an_answer_from_our_server(receiver):
    code, output = await run("echoscu", "-v", "-aec", "OURS", "127.0.0.1", receiver.port)
    assert code == 0, output
    assert "Received Echo Response (Success)" in output


async def test_our_echo_gets_an_answer_from_storescp(tmp_path):
    async with running("storescp", "PORT") as port, asyncdicom.connect("127.0.0.1", port) as association:
        assert await association.c_echo() == asyncdicom.Status.SUCCESS


@pytest.mark.parametrize("syntax", sorted(PROPOSE.keys() & BY_SYNTAX.keys()), ids=name_of)
async def test_what_storescu_sends_arrives_as_at_storescp(syntax, receiver, tmp_path):
    for number, batch in enumerate(batches(BY_SYNTAX[syntax])):
        theirs = tmp_path / f"theirs{number}"
        theirs.mkdir()
        command = ("storescu", "-nh", PROPOSE[syntax], "-aec", "OURS", "127.0.0.1")
        files = [instance.path for instance in batch]
        async with running(*NO_NAGLE, "storescp", "-pm", "+B", "+xa", "-od", theirs, "PORT") as port:
            await run(*NO_NAGLE, *command, port, *files)
        await run(*command, receiver.port, *files)
        assert stored(receiver.folder) == stored(theirs)
        for path in receiver.folder.iterdir():
            path.unlink()


async def test_what_dcmsend_sends_arrives_as_at_storescp(receiver, tmp_path):
    sent = 0
    # storescp 3.6.7 takes no Color Palette Storage, not even with -pm
    known = [each for each in INSTANCES if name_of(each.sop_class_uid) != "Color Palette Storage"]
    for number, batch in enumerate(batches(known)):
        theirs = tmp_path / f"theirs{number}"
        theirs.mkdir()
        files = [instance.path for instance in batch]
        command = ("dcmsend", "-nh", "-dn", "-aec", "OURS", "127.0.0.1")
        async with running(*NO_NAGLE, "storescp", "-pm", "+B", "+xa", "-od", theirs, "PORT") as port:
            await run(*NO_NAGLE, *command, port, *files)
        await run(*command, receiver.port, *files)
        received = stored(receiver.folder)
        # Of one file (UIDs in elements of unknown VR) dcmsend makes SOP class "31": we refuse it, storescp does not.
        uids = {instance.sop_instance_uid for instance in batch}
        assert received == {uid: data for uid, data in stored(theirs).items() if uid in uids}
        sent += len(received)
        for path in receiver.folder.iterdir():
            path.unlink()
    assert sent > len(INSTANCES) // 2


RECEIVERS = {
    "storescp": ("storescp", "-pm", "+B", "+xa", "-od"),
    "storescp --fork": ("storescp", "--fork", "-pm", "+B", "+xa", "-od"),
    "storescp -pdu 4096": ("storescp", "-pdu", "4096", "-pm", "+B", "+xa", "-od"),
    "storescp -pdu 131072": ("storescp", "-pdu", "131072", "-pm", "+B", "+xa", "-od"),
    "dcmrecv": ("dcmrecv", "-xf", "PROFILE", "Default", "+B", "-od"),
}


@pytest.mark.parametrize("command", RECEIVERS.values(), ids=RECEIVERS.keys())
async def test_what_we_send_arrives_byte_for_byte(command, tmp_path):
    sent = 0
    profile = write_profile(tmp_path / "profile.cfg")
    command = [profile if word == "PROFILE" else word for word in command]
    for number, batch in enumerate(batches(INSTANCES)):
        folder = tmp_path / str(number)
        folder.mkdir()
        expected = {}
        async with running(*command, folder, "PORT") as port:
            for group in asyncdicom.split_by_contexts(batch):
                contexts = asyncdicom.contexts_for(group)
                async with asyncdicom.connect("127.0.0.1", port, contexts=contexts) as association:
                    for instance in group:
                        accepted = association.accepted(instance.sop_class_uid)
                        if instance.transfer_syntax_uid in [each.transfer_syntax for each in accepted]:
                            assert await association.c_store(instance) == asyncdicom.Status.SUCCESS
                            expected[instance.sop_instance_uid] = even(data_set_bytes(instance.path))
        assert {uid: even(data) for uid, data in stored(folder).items()} == expected
        sent += len(expected)
    assert sent > len(INSTANCES) * 3 // 4


async def test_what_we_send_over_several_associations_arrives_byte_for_byte(tmp_path):
    batch = batches(INSTANCES)[0]
    async with running("storescp", "--fork", "-pm", "+B", "+xa", "-od", tmp_path, "PORT") as port:
        paths = [instance.path for instance in batch]
        results = [result async for result in asyncdicom.send_instances(paths, "127.0.0.1", port)]
    sent = {each.sop_instance_uid: each.path for each in batch}
    expected = {uid: even(data_set_bytes(path)) for uid, path in sent.items()}
    received = {uid: even(data) for uid, data in stored(tmp_path).items()}
    assert received == {uid: expected[uid] for uid in received}
    assert sum(result.is_success for result in results) == len(received) > len(batch) * 3 // 4
    assert {type(result.error) for result in results} <= {type(None), asyncdicom.NoAcceptedContext}


def write_profile(path):
    """An association negotiation profile of DCMTK's that accepts all that the corpus has."""
    syntaxes = sorted({each.transfer_syntax_uid for each in INSTANCES} | {"1.2.840.10008.1.2"})
    classes = sorted({each.sop_class_uid for each in INSTANCES})
    lines = ["[[TransferSyntaxes]]", "[Any]"]
    lines += [f"TransferSyntax{number} = {uid}" for number, uid in enumerate(syntaxes, 1)]
    lines += ["[[PresentationContexts]]", "[All]"]
    lines += [f"PresentationContext{number} = {uid}\\Any" for number, uid in enumerate(classes, 1)]
    lines += ["[[Profiles]]", "[Default]", "PresentationContexts = All"]
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_an_uncompressed_file_is_converted_for_a_receiver_that_takes_implicit_vr_only(tmp_path):
    instance = BY_SYNTAX["1.2.840.10008.1.2.2"][0]
    contexts = asyncdicom.contexts_for([instance])
    async with (
        running("storescp", "+B", "+xi", "-od", tmp_path, "PORT") as port,
        asyncdicom.connect("127.0.0.1", port, contexts=contexts) as association,
    ):
        assert await association.c_store(instance.path) == asyncdicom.Status.SUCCESS
    (path,) = tmp_path.iterdir()
    _, output = await run("dcmdump", "+P", "TransferSyntaxUID", path)
    assert "LittleEndianImplicit" in output, output


async def test_an_association_that_storescp_refuses_says_why():
    async with running("storescp", "--refuse", "PORT") as port:
        with pytest.raises(asyncdicom.AssociationRejected) as caught:
            await asyncdicom.connect("127.0.0.1", port)
    assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 1)


async def test_a_called_ae_title_that_is_not_ours_is_rejected_in_words_that_echoscu_knows(receiver):
    code, output = await run("echoscu", "-aec", "NOBODY", "127.0.0.1", receiver.port)
    assert code != 0
    assert "Called AE Title Not Recognized" in output


async def test_echoscu_that_aborts_leaves_nothing_behind(receiver):
    code, output = await run("echoscu", "-v", "--abort", "-aec", "OURS", "127.0.0.1", receiver.port)
    assert code == 0, output
    async with asyncio.timeout(5):
        while receiver.associations:
            await asyncio.sleep(0)


@pytest.mark.parametrize("when", ["--abort-after", "--abort-during"])
async def test_storescp_that_aborts_is_an_exception_with_the_facts(when, tmp_path):
    instance = INSTANCES[0]
    async with running("storescp", when, "+xa", "-od", tmp_path, "PORT") as port:
        contexts = asyncdicom.contexts_for([instance])
        association = await asyncdicom.connect("127.0.0.1", port, contexts=contexts)
        with pytest.raises(asyncdicom.AssociationAborted) as caught:
            await association.c_store(instance)
        await association.wait_closed()
    assert caught.value.by_peer


async def test_our_abort_is_taken_by_storescp_and_it_serves_the_next(tmp_path):
    async with running("storescp", "PORT") as port:
        association = await asyncdicom.connect("127.0.0.1", port)
        await association.abort()
        async with asyncdicom.connect("127.0.0.1", port) as association:
            assert await association.c_echo() == asyncdicom.Status.SUCCESS


async def test_storescu_says_what_a_failure_status_means():
    async def refuse(request):
        return asyncdicom.Status(asyncdicom.Status.OUT_OF_RESOURCES, "no place left")

    instance = BY_SYNTAX["1.2.840.10008.1.2.1"][0]
    async with asyncdicom.serve("127.0.0.1", 0, c_store=refuse) as server:
        _, output = await run("storescu", "-v", "127.0.0.1", server.port, instance.path)
    assert "OutOfResources" in output, output


async def test_storescu_with_64_kib_pdus_and_4_kib_pdus_arrives_whole(receiver):
    instance = max(BY_SYNTAX["1.2.840.10008.1.2.1"], key=lambda each: each.length)
    command = ("storescu", "-aec", "OURS", "127.0.0.1", receiver.port, instance.path)
    sizes = []
    for limit in (4096, 65536):
        code, output = await run(*command, "--max-send-pdu", limit)
        assert code == 0, output
        sizes.append(len(stored(receiver.folder)[instance.sop_instance_uid]))
    assert sizes[0] == sizes[1]
