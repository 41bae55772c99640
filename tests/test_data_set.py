"""A data set on its way to a consumer: sinks, iteration, limits, and what is left behind."""

import asyncio
import os
import zlib

import pytest
from raw_peer import CT, data_set

import asyncdicom
from asyncdicom.data_set import IncomingDataSet
from asyncdicom.part10 import FileMeta
from asyncdicom.receive_buffer import MAX_HELD, SlabPool

META = FileMeta(CT, "1.2.3.4", "1.2.840.10008.1.2.1", source_ae_title="CALLING")


def incoming(meta=META):
    held = []
    pool = SlabPool()
    data = IncomingDataSet(meta, pool, held.append, asyncio.get_running_loop())
    return data, pool, held


def feed(data, pool, content, *, is_last=True):
    """As an association does: into the pool's slab, and from there."""
    slab = pool.current()
    slab[: len(content)] = content
    half = len(content) // 2
    view = slab.toreadonly()
    data.feed([view[:half], view[half : len(content)]], is_last=is_last)
    data.settle()


@pytest.mark.parametrize("size", [0, 10, 16 * 1024 + 1, 200_000])
@pytest.mark.parametrize("early", [True, False], ids=["before there is a consumer", "after"])
async def test_what_comes_is_read(size, early):
    data, pool, _ = incoming()
    content = os.urandom(size)
    if early:
        feed(data, pool, content)
    reading = asyncio.ensure_future(data.read())
    if not early:
        await asyncio.sleep(0)
        feed(data, pool, content)
    assert await reading == content
    assert pool.held == 0


async def fed_by_the_loop(data, pool, *contents):
    """As it is when bytes come from the network: in callbacks of the loop, and in no task."""
    loop = asyncio.get_running_loop()
    for content in contents:
        done = loop.create_future()
        loop.call_soon(lambda: done.set_result(feed(data, pool, content, is_last=content is contents[-1])))  # noqa: B023
        await done


async def test_who_iterates_has_the_views_at_once_and_holds_nothing():
    data, pool, held = incoming()
    seen = []

    async def consume():
        seen.extend([bytes(view) async for view in data])

    consuming = asyncio.ensure_future(consume())
    await asyncio.sleep(0)
    await fed_by_the_loop(data, pool, b"a" * 100_000, b"b" * 100_000)
    assert b"".join(seen) == b"a" * 100_000 + b"b" * 100_000
    assert consuming.done()
    assert (pool.held, held) == (0, [])


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_who_is_still_busy_with_a_view_holds_its_slab(size):
    data, pool, held = incoming()
    go_on, seen = asyncio.Event(), []

    async def consume():
        async for view in data:
            await go_on.wait()
            seen.append(bytes(view))

    consuming = asyncio.ensure_future(consume())
    await asyncio.sleep(0)
    await fed_by_the_loop(data, pool, b"a" * size, b"b" * size)
    assert pool.held >= 1
    go_on.set()
    await consuming
    assert b"".join(seen) == b"a" * size + b"b" * size
    assert (pool.held, sum(held)) == (0, 0)


async def test_two_tasks_cannot_wait_for_the_same_data_set():
    data, *_ = incoming()
    first = asyncio.ensure_future(data.drop())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(data.drop())
    with pytest.raises(RuntimeError, match="another task"):
        await first
    second.cancel()


async def test_a_consumer_that_was_there_costs_no_memory_and_one_that_comes_late_holds_the_slab():
    data, pool, held = incoming()
    feed(data, pool, bytes(100_000), is_last=False)
    assert pool.held == 1
    reading = asyncio.ensure_future(data.read())
    await asyncio.sleep(0)
    assert pool.held == 0
    feed(data, pool, bytes(100_000))
    assert pool.held == 0
    assert len(await reading) == 200_000
    assert sum(held) == 0


async def test_views_are_read_only_and_in_order():
    data, pool, held = incoming()
    feed(data, pool, b"abcdef", is_last=False)
    feed(data, pool, bytes(50_000))
    views = []
    async for view in data:
        assert view.readonly
        views.append(bytes(view))
    assert b"".join(views) == b"abcdef" + bytes(50_000)
    assert sum(held) == 0


async def test_leaving_the_iteration_gives_the_memory_back():
    data, pool, held = incoming()
    feed(data, pool, bytes(100_000))
    iterator = aiter(data)
    await anext(iterator)
    await iterator.aclose()
    await data.drop()
    assert (pool.held, sum(held)) == (0, 0)


async def test_a_data_set_is_consumed_once():
    data, pool, _ = incoming()
    feed(data, pool, b"ab")
    await data.read()
    with pytest.raises(RuntimeError, match="once"):
        await data.read()


async def test_a_limit_is_kept_before_the_memory_is_spent():
    data, pool, _ = incoming()
    reading = asyncio.ensure_future(data.read(limit=1000))
    await asyncio.sleep(0)
    feed(data, pool, bytes(2000), is_last=False)
    with pytest.raises(asyncdicom.DataSetError, match="1000"):
        await reading
    feed(data, pool, bytes(2000))
    await data.drop()


async def test_a_file_is_whole_or_not_there(tmp_path):
    data, pool, _ = incoming()
    content = data_set(5000)
    saving = asyncio.ensure_future(data.save_as(tmp_path / "instance.dcm"))
    await asyncio.sleep(0)
    feed(data, pool, content[:2000], is_last=False)
    assert [path.name.startswith(".") for path in tmp_path.iterdir()] == [True]
    feed(data, pool, content[2000:])
    size = await saving
    (path,) = tmp_path.iterdir()
    assert (path.name, path.stat().st_size) == ("instance.dcm", size)
    meta, offset = FileMeta.decode(path.read_bytes())
    assert (meta, path.read_bytes()[offset:]) == (META, content)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_file_replaces_one_of_the_same_name(sync, tmp_path):
    (tmp_path / "instance").write_bytes(b"old")
    data, pool, _ = incoming()
    feed(data, pool, data_set(500))
    await data.save_as(str(tmp_path / "instance"), sync=sync)
    assert (tmp_path / "instance").read_bytes().endswith(data_set(500))


@pytest.mark.parametrize("end", ["lost", "cancelled"])
async def test_what_ends_early_leaves_no_file(end, tmp_path):
    data, pool, _ = incoming()
    saving = asyncio.ensure_future(data.save_as(tmp_path / "instance"))
    await asyncio.sleep(0)
    feed(data, pool, b"ab", is_last=False)
    if end == "lost":
        data.fail(asyncdicom.AssociationLost("gone"))
    else:
        saving.cancel()
    with pytest.raises((asyncdicom.AssociationLost, asyncio.CancelledError)):
        await saving
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
async def test_a_full_disk_is_an_os_error_of_the_consumer_and_the_rest_is_dropped(monkeypatch, tmp_path):
    really_open = os.open

    def open_full(path, *rest):
        return really_open("/dev/full", os.O_WRONLY) if str(path).endswith(".part") else really_open(path, *rest)

    monkeypatch.setattr(os, "open", open_full)
    data, pool, _ = incoming()
    saving = asyncio.ensure_future(data.save_as(tmp_path / "instance"))
    await asyncio.sleep(0)
    feed(data, pool, bytes(100_000), is_last=False)
    with pytest.raises(OSError, match="No space left"):
        await saving
    feed(data, pool, bytes(100_000))
    await data.drop()
    assert pool.held == 0


async def test_a_folder_that_is_not_there_is_an_os_error(tmp_path):
    data, _, _ = incoming()
    with pytest.raises(FileNotFoundError):
        await data.save_as(tmp_path / "none" / "instance")


async def test_the_head_is_read_without_consuming():
    data, pool, _ = incoming()
    content = data_set(40_000)
    waiting = asyncio.ensure_future(data.head((0x0020000D, 0x0020000E)))
    await asyncio.sleep(0)
    feed(data, pool, content[:60], is_last=False)
    await asyncio.sleep(0)
    assert not waiting.done()
    feed(data, pool, content[60:])
    assert await waiting == {0x0020000D: b"1.2.3\0", 0x0020000E: b"1.2.3.1\0"}
    assert await data.read() == content


async def test_the_head_of_a_deflated_data_set_is_inflated():
    deflater = zlib.compressobj(wbits=-15)
    content = deflater.compress(data_set(10_000)) + deflater.flush()
    data, pool, _ = incoming(FileMeta(CT, "1.2.3.4", "1.2.840.10008.1.2.1.99"))
    feed(data, pool, content)
    assert await data.head((0x0020000D,)) == {0x0020000D: b"1.2.3\0"}


async def test_the_head_ends_where_its_limit_is():
    data, pool, _ = incoming()
    feed(data, pool, data_set(100_000), is_last=False)
    assert await data.head((0x7FE00011,), limit=1000) == {}


@pytest.mark.parametrize("size", [20_000, 2])
async def test_waiting_for_the_head_never_holds_so_much_that_reading_pauses(size):
    data, pool, held = incoming()
    waiting = asyncio.ensure_future(data.head((0x7FE00011,), limit=200_000))
    await asyncio.sleep(0)
    content = data_set(199_000)
    for start in range(0, min(len(content), 4000 * size), size):
        feed(data, pool, content[start : start + size], is_last=False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sum(held) < MAX_HELD
    waiting.cancel()


async def test_many_small_reads_do_not_hold_more_than_they_are_charged_for():
    data, pool, held = incoming()
    for _ in range(3000):
        feed(data, pool, b"ab", is_last=False)
    assert sum(held) >= MAX_HELD
    data.fail(asyncdicom.AssociationLost("gone"))
    assert sum(held) == 0


async def test_very_many_tiny_views_are_copied_and_not_held():
    data, pool, _ = incoming()
    slab = pool.current()
    data.feed([slab[position : position + 1] for position in range(100_000)], is_last=True)
    data.settle()
    assert pool.held == 0


async def test_what_an_iteration_leaves_is_dropped():
    data, pool, held = incoming()
    feed(data, pool, bytes(100_000), is_last=False)
    iterator = aiter(data)
    await anext(iterator)
    await iterator.aclose()
    feed(data, pool, bytes(100_000))
    assert (pool.held, sum(held)) == (0, 0)


async def test_decoding_gives_a_pydicom_data_set_with_its_meta_information():
    data, pool, _ = incoming()
    feed(data, pool, data_set(500))
    decoded = await data.decode()
    assert (decoded.SOPInstanceUID, decoded.StudyInstanceUID) == ("1.2.3.4", "1.2.3")
    assert decoded.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


async def test_a_deflate_bomb_is_not_inflated_beyond_the_limit():
    deflater = zlib.compressobj(wbits=-15)
    content = deflater.compress(data_set(20_000_000)) + deflater.flush()
    data, pool, _ = incoming(FileMeta(CT, "1.2.3.4", "1.2.840.10008.1.2.1.99"))
    feed(data, pool, content)
    with pytest.raises(asyncdicom.DataSetError, match="inflates"):
        await data.decode(limit=1_000_000)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00\x16\x00ZZ\xff\xff",
        (b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff") * 5000,
    ],
    ids=["nonsense", "sequences nested 5,000 deep"],
)
async def test_what_cannot_be_decoded_is_a_data_set_error(content):
    data, pool, _ = incoming()
    feed(data, pool, content)
    with pytest.raises(asyncdicom.DataSetError):
        await data.decode()


async def test_what_is_held_is_reported_so_that_reading_can_pause():
    data, pool, held = incoming()
    while sum(held) < MAX_HELD:
        feed(data, pool, bytes(200_000), is_last=False)
    assert pool.held == len(held) == 4
    data.fail(asyncdicom.AssociationLost("gone"))
    assert (pool.held, sum(held)) == (0, 0)
