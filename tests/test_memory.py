"""The memory limit of a server: what all handlers hold together, who waits for it, and who does not."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_peer import CT, DEADLINE, data_set, echo_request, element, pdv, raw_client, store_request

import asyncdicom
from asyncdicom import Status, Timeouts
from asyncdicom.association import Association
from asyncdicom.data_set import IncomingDataSet
from asyncdicom.part10 import FileMeta
from asyncdicom.receive_buffer import MAX_HELD, SlabPool
from asyncdicom.upper_layer import UpperLayer

LIMIT = 16 << 20
META = FileMeta(CT, "1.2.3.4", "1.2.840.10008.1.2.1")
MEBIBYTE = 1 << 20
LONG = element(0x0009, 0x1010, b"OB", b"")[:6] + b"\0\0\0\0\0\1"
"""The header of an element of 16 MiB."""


async def settle(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


# The count, without a network


class Peer:
    """An association without a connection, whose data sets are fed as it would."""

    def __init__(self, pool):
        upper_layer = UpperLayer(requestor=False, max_pdu_length=0, artim_timeout=30.0, pool=pool)
        self.association = Association(upper_layer, Timeouts(), max_send_pdu_length=16384, on_associate=lambda *_: None)
        self.pool = pool
        self.data_set = None
        self.past = []
        self.task = None

    @property
    def is_waiting(self):
        return self.association._connection.is_reading_paused

    async def read(self, kind):
        """One read full of what ``kind`` says, if it may read."""
        if self.is_waiting:
            return
        slab = self.pool.current()
        slab[: len(LONG)] = LONG
        if kind == "tiny data sets":
            for _ in range(0, len(slab), 69):
                self.feed([slab[:1]], is_last=True)
        elif kind == "tiny fragments":
            self.feed([slab[at : at + 1] for at in range(0, len(slab), 7)])
        else:
            self.feed([slab[at : at + 16372] for at in range(0, len(slab), 16384)])

    def feed(self, views, *, is_last=False):
        if self.data_set is None:
            self.data_set = IncomingDataSet(
                META, self.pool, self.association._performer.held_changed, asyncio.get_running_loop()
            )
            self.association._performer._incoming = self.data_set
        self.data_set.feed(views, is_last=is_last)
        self.data_set.settle()
        if is_last:
            self.past.append(self.data_set)
            self.data_set = None

    async def look(self, ask):
        """Have a consumer that waits for more: one that iterates slowly, or one that wants the head."""
        if self.task is None and self.data_set is not None:
            self.task = asyncio.ensure_future(ask(self.data_set))
            await asyncio.sleep(0)

    async def let_go(self):
        for each in (*self.past, *filter(None, [self.data_set])):
            each.close()
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.data_set, self.past, self.task = None, [], None


async def iterate(data):
    async for _ in data:
        await asyncio.Event().wait()


async def want_the_head(data):
    await data.head((0x7FE00011,), limit=MEBIBYTE)
    await asyncio.Event().wait()


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.builds(range, st.integers(0, 39), st.integers(1, 80)),
            st.sampled_from(
                ["tiny data sets", "tiny fragments", "fragments", "fragments", "iterate", "head", "let go"]
            ),
        ),
        max_size=12,
    )
)
def test_no_more_is_held_than_the_limit_whatever_peers_send_and_consumers_do(steps):
    async def play():
        pool = SlabPool(limit=LIMIT, associations=80)
        peers = [Peer(pool) for _ in range(80)]
        for who, what in steps:
            for peer in map(peers.__getitem__, who):
                if what in ("iterate", "head"):
                    await peer.look(iterate if what == "iterate" else want_the_head)
                elif what == "let go":
                    await peer.let_go()
                else:
                    await peer.read(what)
                assert 0 <= pool.used <= LIMIT
        for peer in peers:
            await peer.let_go()
        assert (pool.used, pool.held) == (0, 0)
        assert not any(peer.is_waiting for peer in peers)

    asyncio.run(play())


async def full_pool(associations=200):
    """A pool of which nothing is left but what is reserved, and those who hold it."""
    pool = SlabPool(limit=LIMIT, associations=associations)
    holders = []
    while len(pool.current()) > 32 * 1024:
        holders.append(Peer(pool))
        await holders[-1].read("fragments")
    return pool, holders


async def test_who_holds_nothing_may_read_a_little_when_nothing_is_left():
    pool, holders = await full_pool()
    peer = Peer(pool)
    await peer.read("fragments")
    assert peer.is_waiting
    assert 0 < peer.association._performer._held < 17_000
    await peer.let_go()
    assert not peer.is_waiting
    for each in holders:
        await each.let_go()


async def test_those_who_wait_go_on_when_there_is_room_and_not_at_once():
    pool, holders = await full_pool()
    while pool.used > LIMIT // 8 * 3:
        assert holders[-1].is_waiting
        await holders.pop(0).let_go()
    assert not any(each.is_waiting for each in holders)
    assert len(pool.current()) > 256 * 1024
    for each in holders:
        await each.let_go()


async def test_of_those_who_need_more_one_at_a_time_gets_it():
    pool, holders = await full_pool()
    needy = [Peer(pool) for _ in range(3)]
    for each in needy:
        await each.read("fragments")
        await each.look(want_the_head)
    assert [each.is_waiting for each in needy] == [False, True, True]
    while not needy[0].is_waiting:
        await needy[0].read("fragments")
        await asyncio.sleep(0)
    assert MEBIBYTE // 4 <= needy[0].association._performer._held < MAX_HELD
    assert [each.is_waiting for each in needy] == [True, True, True]
    await needy[0].let_go()
    assert [each.is_waiting for each in needy] == [False, False, True]
    needy[1].association._end(asyncdicom.AssociationLost("gone"))
    await needy[1].let_go()
    assert [each.is_waiting for each in needy] == [False, False, False]
    for each in (*needy, *holders):
        await each.let_go()
    assert pool.used == 0


async def test_who_has_changed_his_mind_is_passed_over():
    pool, holders = await full_pool()
    needy = [Peer(pool) for _ in range(3)]
    for each in needy:
        await each.read("fragments")
        await each.look(want_the_head)
    needy[1].task.cancel()
    await asyncio.gather(needy[1].task, return_exceptions=True)
    await needy[0].let_go()
    assert [each.is_waiting for each in needy] == [False, True, False]
    for each in (*needy, *holders):
        await each.let_go()


@pytest.mark.parametrize("options", [{"limit": LIMIT - 1}, {"limit": LIMIT, "associations": 10_000}])
def test_a_limit_that_cannot_be_kept_is_refused(options):
    with pytest.raises(ValueError, match="memory limit"):
        SlabPool(**options)


def test_a_limit_that_is_too_low_for_each_worker_is_refused_at_once():
    with pytest.raises(ValueError, match="memory limit"):
        asyncdicom.serve(memory_limit=4 * LIMIT - 1, workers=4)


# With servers


class Archive:
    """Handlers that hold what they have until they are told to go on; those of instance ``1.2.3.4.5`` do not."""

    def __init__(self, folder=None):
        self.go_on = asyncio.Event()
        self.folder = folder

    async def store(self, request):
        if request.sop_instance_uid == "1.2.3.4.5":
            await request.data_set.save_as(self.folder / "instance")
            return Status.SUCCESS
        async for _ in request.data_set:
            await self.go_on.wait()
        return Status.SUCCESS

    async def look(self, request):
        await request.data_set.head((0x7FE00011,), limit=MEBIBYTE)
        assert request.data_set._charge >= MEBIBYTE // 4
        return await self.store(request)


@contextlib.asynccontextmanager
async def many_senders(server, count, size):
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(raw_client(server.port)) for _ in range(count)]
        for peer in peers:
            await peer.associate()
            peer.send(store_request(), pdv(3, 2, data_set(size)))
        yield peers
        for peer in peers:
            peer.reset()


def serving(handler, **options):
    return asyncdicom.serve("127.0.0.1", 0, c_store=handler, max_pdu_length=0, memory_limit=LIMIT, **options)


def all_wait(server):
    assert server._pool.used <= LIMIT
    return all(each._connection.is_reading_paused for each in server.associations)


async def test_slow_handlers_hold_no_more_than_the_limit_and_everything_is_stored_in_the_end():
    archive = Archive()
    async with serving(archive.store) as server, many_senders(server, 30, 3 * MEBIBYTE) as peers:
        await settle(lambda: all_wait(server))
        assert server._pool.used > LIMIT // 2
        archive.go_on.set()
        for peer in peers:
            assert (await peer.receive_command()).status == Status.SUCCESS
            assert server._pool.used <= LIMIT
        assert (server._pool.used, server._pool.held) == (0, 0)
        assert server.statistics.instances == 30
        assert (server.statistics.rejected, server.statistics.aborted) == (0, 0)


async def test_who_holds_nothing_goes_on_while_others_wait(tmp_path):
    archive = Archive(tmp_path)
    async with serving(archive.store) as server, many_senders(server, 30, 3 * MEBIBYTE):
        await settle(lambda: all_wait(server))
        async with raw_client(server.port) as peer:
            await peer.associate()
            for message in range(3):
                peer.send(echo_request(2 * message + 1))
                assert (await peer.receive_command()).status == Status.SUCCESS
                store = store_request(2 * message + 2, sop_instance="1.2.3.4.5")
                peer.send(store, pdv(3, 2, data_set(3 * MEBIBYTE)))
                assert (await peer.receive_command()).status == Status.SUCCESS
        assert (tmp_path / "instance").stat().st_size > 3 * MEBIBYTE
        assert server._pool.used <= LIMIT
        archive.go_on.set()


async def test_handlers_that_wait_for_the_head_of_a_data_set_get_it():
    archive = Archive()
    archive.go_on.set()
    first, rest = data_set(400_000)[:120_000], data_set(400_000)[120_000:]
    async with serving(archive.look) as server, contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(raw_client(server.port)) for _ in range(100)]
        for peer in peers:
            await peer.associate()
            peer.send(store_request(), pdv(3, 0, first))
        await settle(lambda: any(each._connection.is_reading_paused for each in server.associations))
        for peer in peers:
            peer.send(pdv(3, 2, rest))
        for peer in peers:
            assert (await peer.receive_command()).status == Status.SUCCESS
            assert server._pool.used <= LIMIT
        assert server._pool.used == 0


async def test_associations_that_end_give_back_what_they_held():
    archive = Archive()
    async with serving(archive.store) as server:
        async with many_senders(server, 30, 3 * MEBIBYTE):
            await settle(lambda: all_wait(server))
        for association in server.associations:
            await association.abort()
        assert (server._pool.used, server._pool._waiting, server._pool._favoured) == (0, {}, None)
