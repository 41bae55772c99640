"""Files to the network: headers, fragments and bytes are right at every border, and the slab is used again safely."""

import os

import pytest

from asyncdicom.dimse import PDU_OVERHEAD
from asyncdicom.errors import FileFormatError
from asyncdicom.file_sender import FileSender
from asyncdicom.instances import Instance
from asyncdicom.pdu import PDataTF


class Wire:
    """Takes what is written, as the transport does: at once, or when the next write comes."""

    def __init__(self):
        self.written = b""
        self.writes = 0

    async def write_and_drain(self, buffers, timeout):
        self.writes += 1
        self.written += b"".join(buffers)


def pdus(stream):
    position = 0
    while position < len(stream):
        length = int.from_bytes(stream[position + 2 : position + 6], "big")
        yield PDataTF.decode(stream[position + 6 : position + 6 + length])
        position += 6 + length


def a_file(tmp_path, content, offset=10):
    path = tmp_path / "file"
    path.write_bytes(bytes(offset) + content)
    return Instance("1.2", "1.3", "1.4", path=str(path), offset=offset, length=len(content))


@pytest.mark.parametrize("preadv", [True, False], ids=["preadv", "readinto"])
@pytest.mark.parametrize("fragment", [2, 100, 16378, 131066, 1 << 20])
@pytest.mark.parametrize("size", [1, 2, 99, 100, 16378, 16379, 131066, 131068, 262132, 600_001])
async def test_the_fragments_of_a_file_are_its_bytes(size, fragment, preadv, tmp_path, monkeypatch):
    if size // fragment > 2000:
        size = 2000 + size % 2
    if not preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    content = os.urandom(size)
    wire = Wire()
    sender = FileSender(wire, fragment)
    await sender.send(3, b"", a_file(tmp_path, content), 1.0)
    values = [value for pdu in pdus(wire.written) for value in pdu.values]
    assert b"".join(value.fragment for value in values) == content + b"\0" * (size % 2)
    assert all(not value.is_command and value.context_id == 3 and len(value.fragment) % 2 == 0 for value in values)
    assert [value.is_last for value in values] == [False] * (len(values) - 1) + [True]
    assert max(len(value.fragment) for value in values) <= fragment


async def test_one_sender_sends_files_of_any_size_on_any_context_in_turn(tmp_path):
    wire = Wire()
    sender = FileSender(wire, 1000)
    for number, size in enumerate([5, 300_000, 1000, 999, 600_000, 2], 1):
        content = os.urandom(size)
        wire.written = b""
        await sender.send(2 * number - 1, b"", a_file(tmp_path, content), 1.0)
        values = [value for pdu in pdus(wire.written) for value in pdu.values]
        assert b"".join(value.fragment for value in values) == content + b"\0" * (size % 2)
        assert {value.context_id for value in values} == {2 * number - 1}
        assert sum(value.is_last for value in values) == 1


async def test_a_small_message_is_one_write_with_its_command(tmp_path):
    wire = Wire()
    await FileSender(wire, 16378).send(1, b"command", a_file(tmp_path, b"ab"), 1.0)
    assert wire.writes == 1
    assert wire.written.startswith(b"command\4")
    assert len(wire.written) == 7 + PDU_OVERHEAD + 2


async def test_a_command_that_has_no_room_in_front_goes_first(tmp_path):
    wire = Wire()
    await FileSender(wire, 16378).send(1, b"c" * 5000, a_file(tmp_path, b"ab"), 1.0)
    assert wire.writes == 2
    assert wire.written.startswith(b"c" * 5000 + b"\4")


@pytest.mark.parametrize("preadv", [True, False], ids=["preadv", "readinto"])
async def test_a_file_that_has_become_shorter_is_an_error(preadv, tmp_path, monkeypatch):
    if not preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    instance = a_file(tmp_path, bytes(2_000_000))

    class Shrinking(Wire):
        async def write_and_drain(self, buffers, timeout):
            os.truncate(instance.path, 1000)

    with pytest.raises(FileFormatError, match="shorter"):
        await FileSender(Shrinking(), 16378).send(1, b"", instance, 1.0)


async def test_a_file_of_another_length_than_it_had_is_not_sent(tmp_path):
    wire = Wire()
    with pytest.raises(FileFormatError, match="changed"):
        await FileSender(wire, 16378).send(1, b"", a_file(tmp_path, bytes(1000))._replace(length=2000), 1.0)
    assert wire.writes == 0
