"""Associations that are kept warm, and sending over several at once."""

import asyncio
import contextlib
import inspect
import itertools
import math
import socket

import pytest
from cli_processes import MR, write_instance, write_instances
from raw_peer import CT, DEADLINE, accept, data_set, raw_server, response

import asyncdicom
from asyncdicom import AssociationPool, Backoff, ConnectOptions, Context, Instance, Status, Timeouts, send_instances
from asyncdicom.command import CommandField
from asyncdicom.pdu import Abort, AssociateAC, AssociateRJ, ReleaseRP, ReleaseRQ, UserInformation
from asyncdicom.presentation import ContextResult
from asyncdicom.uids import STORAGE_SOP_CLASSES, VERIFICATION

QUICK = Backoff(attempts=3, first=0.001)
EXPLICIT = "1.2.840.10008.1.2.1"


class Pool(AssociationPool):
    """A pool that tells what it has proposed: one list per association that it asked for."""

    def __init__(self, port, **options):
        super().__init__("127.0.0.1", port, **{"backoff": QUICK, **options})
        self.proposals = []

    async def _connect(self, contexts):
        self.proposals.append(contexts)
        return await super()._connect(contexts)


class Archive:
    """A C-STORE handler that notes what it gets, and over how many associations at once at most."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.received = []
        self.associations = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request):
        await self.gate.wait()
        self.received.append(request.sop_instance_uid)
        self.associations.add(request.association)
        answer = self.answers.pop(0) if self.answers else Status.SUCCESS
        if answer is None:
            await request.association.abort()
        return answer

    def serve(self, **options):
        return asyncdicom.serve("127.0.0.1", 0, c_store=self, **options)


def instance(uid="1.2.3", sop_class=CT, syntax=EXPLICIT):
    return Instance(sop_class, uid, syntax, length=200, data=data_set(200))


def instances(count, **values):
    return [instance(f"1.2.{number}", **values) for number in range(count)]


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


async def collect(results):
    async with asyncio.timeout(DEADLINE):
        return [result async for result in results]


def others():
    """The tasks beside this one, and those of the servers' handlers."""
    return {task for task in asyncio.all_tasks() - {asyncio.current_task()} if "_handle" not in repr(task.get_coro())}


@pytest.fixture
def closed_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# Keeping warm


async def test_an_association_is_used_again():
    archive = Archive()
    async with archive.serve() as server, Pool(server.port) as pool:
        for each in instances(3):
            assert await pool.c_store(each) == Status.SUCCESS
        assert (pool.in_use, pool.idle, len(archive.associations)) == (0, 1, 1)
    assert server.associations == ()


async def test_there_are_never_more_associations_than_allowed():
    archive = Archive()
    async with archive.serve(max_associations=2) as server, Pool(server.port, max_associations=2) as pool:
        assert set(await asyncio.gather(*map(pool.c_store, instances(20)))) == {Status.SUCCESS}
        assert len(pool.proposals) == 2


async def test_who_waits_is_served_in_order():
    archive = Archive()
    archive.gate.clear()
    async with archive.serve() as server, Pool(server.port, max_associations=1) as pool:
        waiting = [asyncio.create_task(pool.c_store(each)) for each in instances(5)]
        await until(lambda: pool.in_use)
        archive.gate.set()
        await asyncio.gather(*waiting)
    assert archive.received == [f"1.2.{number}" for number in range(5)]


async def test_waiting_ends_and_says_why():
    async with Archive().serve() as server, Pool(server.port, max_associations=1) as pool:
        async with pool.acquire():
            with pytest.raises(asyncdicom.PoolTimeout, match="1 of 1 are in use"):
                await pool.c_store(instance(), timeout=0.01)
        assert await pool.c_store(instance()) == Status.SUCCESS


async def test_a_time_that_ran_out_while_connecting_says_what_went_wrong(closed_port):
    async with Pool(closed_port, acquire_timeout=0.05, backoff=Backoff(first=1000.0)) as pool:
        with pytest.raises(asyncdicom.PoolTimeout, match=f"port {closed_port}"):
            await pool.c_store(instance())


async def test_who_is_cancelled_while_it_waits_leaves_its_turn_to_the_next():
    async with Archive().serve() as server, Pool(server.port, max_associations=1) as pool:
        async with pool.acquire():
            first, second = (asyncio.create_task(pool.c_store(each)) for each in instances(2))
            await until(lambda: len(pool._waiting) == 2)
            first.cancel()
        assert await second == Status.SUCCESS
        assert first.cancelled()


async def test_a_place_that_was_handed_to_who_is_cancelled_is_handed_on():
    async with Archive().serve() as server, Pool(server.port, max_associations=1) as pool:
        async with pool.acquire():
            first, second = (asyncio.create_task(pool.c_store(each)) for each in instances(2))
            await until(lambda: len(pool._waiting) == 2)
        first.cancel()  # it has the place, and has not run since
        assert await second == Status.SUCCESS
        assert first.cancelled()


async def test_what_was_left_in_the_midst_is_cancelled_when_the_association_goes_back():
    async def without_end(request):
        while True:
            yield b"\x20\0\x10\0SH\2\0AB" * 10_000

    find = "1.2.840.10008.5.1.4.1.2.2.1"
    contexts = [find, VERIFICATION]
    async with asyncdicom.serve("127.0.0.1", 0, c_find=without_end, contexts=contexts) as server:
        async with asyncio.timeout(DEADLINE), Pool(server.port, contexts=contexts) as pool:
            async with pool.acquire() as association:
                responses = association.c_find(b"\x20\0\x10\0SH\2\0AB", model=find)
                await anext(responses)
                await until(lambda: association._connection.is_reading_paused)
            async with pool.acquire() as again:
                assert again is association
                assert (await again.c_echo()).is_success


async def test_an_idle_association_is_released():
    async with Archive().serve() as server, Pool(server.port, idle_timeout=0.02) as pool:
        await pool.c_store(instance())
        await until(lambda: not server.associations)
        assert pool.idle == 0
        assert await pool.c_store(instance()) == Status.SUCCESS


async def test_a_pool_that_shall_keep_nothing_releases_at_once():
    async with Archive().serve() as server, Pool(server.port, idle_timeout=0) as pool:
        await pool.c_store(instance())
        await until(lambda: not server.associations)


async def test_an_association_in_use_is_not_released_for_being_idle():
    async with Archive().serve() as server, Pool(server.port, idle_timeout=0.01) as pool:
        async with pool.acquire() as first, pool.acquire():
            pass
        async with pool.acquire() as association:
            assert association.timeouts.idle == Timeouts().idle
        assert association.timeouts.idle == 0.01
        await until(lambda: not first.is_established)


async def test_an_association_that_the_peer_ended_is_not_given_out():
    async with Archive().serve() as server, Pool(server.port) as pool:
        await pool.c_store(instance())
        await server.associations[0].abort()
        await until(lambda: pool.idle == 0)
        assert await pool.c_store(instance()) == Status.SUCCESS


async def test_an_association_that_was_idle_for_long_has_to_answer_an_echo():
    unanswered = []

    async def script(peer):
        await accept(peer)
        while (pdu := await peer.receive()) is not None:
            if isinstance(pdu, ReleaseRQ):
                peer.send(ReleaseRP())
            elif not isinstance(pdu, Abort):
                unanswered.append(pdu)

    async with raw_server(script) as port, Pool(port, check_after=0.0, timeouts=Timeouts(dimse=0.02)) as pool:
        async with pool.acquire() as first:
            pass
        async with pool.acquire() as second:
            assert second is not first
    assert len(unanswered) == 1
    assert pool.proposals == [[Context(VERIFICATION)]] * 2


async def test_an_association_that_answers_the_echo_is_used_again():
    async with Archive().serve() as server, Pool(server.port, check_after=0.0) as pool:
        for each in instances(3):
            await pool.c_store(each)
        assert len(pool.proposals) == 1


async def test_a_peer_that_takes_no_echo_is_not_asked():
    async with Archive().serve(contexts=[CT]) as server, Pool(server.port, check_after=0.0) as pool:
        for each in instances(2):
            await pool.c_store(each)
        assert len(pool.proposals) == 1


# Contexts


async def test_what_was_asked_for_before_is_proposed_too():
    async with Archive().serve() as server, Pool(server.port, max_associations=1) as pool:
        for sop_class in (CT, MR, CT, MR):
            assert await pool.c_store(instance(sop_class=sop_class)) == Status.SUCCESS
        assert [len(each) for each in pool.proposals] == [2, 4]


async def test_an_association_for_one_transfer_syntax_at_a_time_does_for_several():
    async with Archive().serve() as server, Pool(server.port) as pool:
        async with pool.acquire([Context(CT, ("1.2.840.10008.1.2",)), Context(CT, (EXPLICIT,))]):
            pass
        async with pool.acquire([CT]):
            pass
        assert len(pool.proposals) == 1


async def test_what_the_peer_refused_is_not_asked_for_again():
    async with Archive().serve(contexts=[CT]) as server, Pool(server.port) as pool:
        for _ in range(3):
            with pytest.raises(asyncdicom.NoAcceptedContext):
                await pool.c_store(instance(sop_class=MR))
        assert len(pool.proposals) == 1


async def test_contexts_that_are_given_are_all_that_is_proposed():
    async with Archive().serve() as server, Pool(server.port, contexts=CT) as pool:
        assert await pool.c_store(instance()) == Status.SUCCESS
        with pytest.raises(asyncdicom.NoAcceptedContext):
            await pool.c_store(instance(sop_class=MR))
        assert pool.proposals == [[Context(CT)]]


async def test_contexts_that_were_needed_long_ago_make_room():
    async with Archive().serve() as server, Pool(server.port, max_associations=1) as pool:
        for number, sop_class in enumerate(sorted(STORAGE_SOP_CLASSES)[:70]):
            await pool.c_store(instance(f"1.2.{number}", sop_class=sop_class))
        assert len(pool.proposals[-1]) == 128


def test_a_pool_hands_on_every_option_of_connect():
    connect = set(inspect.signature(asyncdicom.connect).parameters) - {"host", "port", "contexts"}
    assert set(ConnectOptions.__annotations__) == connect


@pytest.mark.parametrize("options", [{"max_associations": 0}, {"contexts": CT, "called_ae_title": "A" * 17}])
def test_options_that_cannot_be_are_refused_at_once(options):
    with pytest.raises(ValueError):
        AssociationPool("127.0.0.1", **options)


# Trying again


def test_waits_double_up_to_a_limit_and_are_left_to_chance_by_half():
    delays = [[Backoff(first=1.0, longest=5.0).delay(failures) for _ in range(50)] for failures in (1, 2, 3, 4, 5000)]
    for least, found in zip((0.5, 1.0, 2.0, 2.5, 2.5), delays, strict=True):
        assert least <= min(found) < max(found) <= 2 * least


async def test_no_connection_is_tried_as_often_as_allowed(closed_port):
    async with Pool(closed_port) as pool:
        with pytest.raises(asyncdicom.NoConnection):
            await pool.c_store(instance())
        assert len(pool.proposals) == 3
        assert pool._free == pool._max


@pytest.mark.parametrize(("rejection", "tries"), [(AssociateRJ(2, 3, 2), 3), (AssociateRJ(1, 1, 7), 1)])
async def test_a_rejection_for_the_time_being_is_tried_again_and_another_is_not(rejection, tries):
    async def script(peer):
        await peer.receive()
        peer.send(rejection)
        await peer.receive()

    async with raw_server(script) as port, Pool(port) as pool:
        with pytest.raises(asyncdicom.AssociationRejected):
            await pool.c_store(instance())
        assert len(pool.proposals) == tries


async def test_a_certificate_that_is_not_trusted_is_not_tried_again(tls_contexts):
    import ssl

    options = {"ssl": ssl.create_default_context(), "server_hostname": "localhost"}
    async with asyncdicom.serve("127.0.0.1", 0, ssl=tls_contexts[0]) as server, Pool(server.port, **options) as pool:
        with pytest.raises(asyncdicom.NoConnection, match="certificate"):
            await pool.c_store(instance())
        assert len(pool.proposals) == 1


def losing(when, times):
    """A peer that drops so many associations: before anything is sent, or instead of its answer."""
    seen = []

    async def script(peer):
        seen.append("association")
        if when == "before" and len(seen) <= times:
            asked = await peer.receive()
            results = tuple(
                ContextResult(each.id, 0, each.transfer_syntaxes[0]) for each in asked.presentation_contexts
            )
            peer.send(AssociateAC(results, UserInformation(maximum_length=16384)), Abort(0, 0))
            return
        await accept(peer)
        command = await peer.receive_command()
        await peer.receive()  # the data set
        seen.append("C-STORE")
        if when == "after" and seen.count("C-STORE") <= times:
            return
        peer.send(response(CommandField.C_STORE_RSP, command.message_id))
        assert isinstance(await peer.receive(), ReleaseRQ)
        peer.send(ReleaseRP())

    return script, seen


async def test_what_is_lost_before_anything_was_sent_is_sent_over_another_association():
    script, seen = losing("before", 1)
    async with raw_server(script) as port, Pool(port) as pool:
        assert await pool.c_store(instance()) == Status.SUCCESS
    assert seen == ["association", "association", "C-STORE"]


async def test_a_peer_that_drops_every_association_is_not_tried_for_ever():
    script, seen = losing("before", math.inf)
    async with raw_server(script) as port, Pool(port) as pool:
        with pytest.raises(asyncdicom.AssociationAborted):
            await pool.c_store(instance())
        (result,) = await collect(pool.send([instance()]))
        assert (result.status, result.is_unknown) == (None, False)
    assert len(seen) == 6


async def test_what_is_lost_after_it_was_sent_is_sent_again_only_when_asked_for():
    for resend in (False, True):
        script, seen = losing("after", 1)
        async with raw_server(script) as port, Pool(port) as pool:
            with contextlib.nullcontext() if resend else pytest.raises(asyncdicom.AssociationLost):
                assert await pool.c_store(instance(), resend=resend) == Status.SUCCESS
        assert seen.count("C-STORE") == 1 + resend


# Ending


async def test_an_error_in_the_block_leaves_the_association_warm():
    async with Archive().serve() as server, Pool(server.port) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.acquire():
                _ = 1 / 0
        assert (pool.in_use, pool.idle) == (0, 1)


async def test_cancelling_a_store_aborts_its_association_and_frees_its_place():
    archive = Archive()
    archive.gate.clear()
    async with archive.serve() as server, Pool(server.port, max_associations=1) as pool:
        storing = asyncio.create_task(pool.c_store(instance()))
        await until(lambda: server.associations and server.associations[0]._performer.is_busy)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        archive.gate.set()
        assert (pool.in_use, pool.idle) == (0, 0)
        assert await pool.c_store(instance()) == Status.SUCCESS


async def test_closing_lets_what_is_in_use_end():
    archive = Archive()
    archive.gate.clear()
    async with archive.serve() as server:
        pool = Pool(server.port)
        storing = asyncio.create_task(pool.c_store(instance()))
        await until(lambda: server.associations and server.associations[0]._performer.is_busy)
        closing = asyncio.create_task(pool.close())
        await until(lambda: pool._closed)
        archive.gate.set()
        await closing
        assert storing.done()
        assert await storing == Status.SUCCESS
        await until(lambda: not server._pending)
        assert others() == set()


async def test_closing_aborts_what_does_not_end_in_time():
    archive = Archive()
    archive.gate.clear()
    async with archive.serve() as server:
        pool = Pool(server.port)
        storing = asyncio.create_task(pool.c_store(instance()))
        await until(lambda: server.associations and server.associations[0]._performer.is_busy)
        await pool.close(drain=0.01)
        with pytest.raises(asyncdicom.AssociationAborted):
            await storing
        await until(lambda: not server.associations)


async def test_a_closed_pool_gives_nothing_and_who_waits_is_told(closed_port):
    async with Archive().serve() as server:
        pool = Pool(server.port, max_associations=1)
        async with pool.acquire():
            waiting = asyncio.create_task(pool.c_store(instance()))
            await until(lambda: pool._waiting)
            closing = asyncio.create_task(pool.close())
            with pytest.raises(asyncdicom.LocalProtocolError, match="was closed"):
                await waiting
        await closing
        with pytest.raises(asyncdicom.LocalProtocolError, match="is closed"):
            await pool.c_store(instance())


async def test_closing_ends_who_is_connecting(closed_port):
    pool = Pool(closed_port, backoff=Backoff(first=1000.0))
    storing = asyncio.create_task(pool.c_store(instance()))
    await until(lambda: pool._trouble)
    await pool.close()
    with pytest.raises(asyncdicom.LocalProtocolError):
        await storing


async def test_cancelling_a_close_ends_everything_at_once():
    async with Archive().serve() as server:
        pool = Pool(server.port)
        async with pool.acquire() as association:
            closing = asyncio.create_task(pool.close(drain=math.inf))
            await until(lambda: pool._closed)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert isinstance(await association.wait_closed(), asyncdicom.AssociationError)


async def test_a_pool_that_ends_with_an_error_aborts():
    seen = []

    async def script(peer):
        await accept(peer)
        seen.append(await peer.receive())

    async with raw_server(script) as port:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is about the block
            async with Pool(port) as pool:
                async with pool.acquire():
                    pass
                _ = 1 / 0
    assert seen == [Abort(0, 0)]


# Sending over several associations


async def test_files_go_over_several_associations_and_each_has_one_result(tmp_path):
    archive = Archive()
    folder = write_instances(tmp_path / "sent", 40)
    async with archive.serve() as server:
        results = await collect(send_instances(sorted(folder.iterdir()), "127.0.0.1", server.port, associations=3))
        assert others() == set()
    assert sorted(result.instance for result in results) == sorted(folder.iterdir())
    assert {(result.status, result.error, result.is_success) for result in results} == {(Status.SUCCESS, None, True)}
    assert len(archive.received) == 40
    assert len(archive.associations) == 3


async def test_a_path_stands_for_itself(tmp_path):
    path = write_instance(tmp_path / "a.dcm")
    async with Archive().serve() as server:
        for one in (path, str(path), asyncdicom.read_instance(path)):
            (result,) = await collect(send_instances(one, "127.0.0.1", server.port))
            assert (result.instance, result.is_success) == (one, True)


async def test_instances_may_come_bit_by_bit():
    archive = Archive()
    seen = []

    async def source():
        for number, each in enumerate(instances(5)):
            await until(lambda: len(seen) == number)  # noqa: B023 - waited for here
            yield each

    async with archive.serve() as server:
        async for result in send_instances(source(), "127.0.0.1", server.port):
            seen.append(result.instance)  # noqa: PERF401 - the source looks at it
    assert seen == instances(5)


async def test_a_file_that_cannot_be_read_costs_only_itself(tmp_path):
    good = write_instance(tmp_path / "good.dcm")
    (tmp_path / "notes.txt").write_text("hello")
    paths = [tmp_path / "absent.dcm", tmp_path / "notes.txt", good]
    async with Archive().serve() as server:
        results = {each.instance: each async for each in send_instances(paths, "127.0.0.1", server.port)}
    assert isinstance(results[paths[0]].error, FileNotFoundError)
    assert isinstance(results[paths[1]].error, asyncdicom.FileFormatError)
    assert results[good].is_success


async def test_who_leaves_early_leaves_nothing_behind_and_has_read_little_ahead():
    taken = itertools.count()
    endless = (instance(f"1.2.{number}") for number in taken)
    async with Archive().serve() as server:
        results = send_instances(endless, "127.0.0.1", server.port, associations=3)
        async with contextlib.aclosing(results):
            async for _ in results:
                break
        assert others() == set()
        await until(lambda: not server.associations)
    assert next(taken) < 150


async def test_who_does_not_fetch_results_stops_the_sending():
    archive = Archive()
    async with archive.serve() as server:
        results = send_instances((instance() for _ in range(1000)), "127.0.0.1", server.port)
        async with contextlib.aclosing(results):
            await anext(results)
            await until(lambda: len(archive.received) >= 64)
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(archive.received) < 80
            assert len(await collect(results)) == 999


@pytest.mark.parametrize("resend", [False, True])
async def test_the_loss_of_an_association_costs_at_most_the_instance_in_flight(resend):
    archive = Archive(Status.SUCCESS, None, Status.SUCCESS, None)
    async with archive.serve() as server:
        options = {"associations": 2, "resend": resend, "backoff": QUICK}
        results = await collect(send_instances(instances(20), "127.0.0.1", server.port, **options))
    lost = [result for result in results if not result.is_success]
    assert len(results) == 20
    assert len(lost) == (0 if resend else 2)
    assert all(each.is_unknown and isinstance(each.error, asyncdicom.AssociationAborted) for each in lost)


async def test_more_classes_than_one_association_can_carry_go_over_several():
    archive = Archive()
    classes = sorted(STORAGE_SOP_CLASSES)[:150]
    mixed = [instance(f"1.2.{number}", sop_class=uid) for number, uid in enumerate(classes * 2)]
    async with archive.serve() as server:
        results = await collect(send_instances(mixed, "127.0.0.1", server.port, associations=2))
    assert sum(result.is_success for result in results) == 300
    assert len(archive.associations) < 30


async def test_after_the_first_failure_nothing_more_is_begun_when_so_asked():
    archive = Archive(Status.SUCCESS, Status(0xA700))
    async with archive.serve() as server:
        results = await collect(send_instances(instances(200), "127.0.0.1", server.port, associations=2, halt=True))
    assert 2 <= len(results) <= 4
    assert [int(result.status) for result in results].count(0xA700) == 1


async def test_fewer_associations_do_it_all(caplog):
    async with Archive().serve(max_associations=1) as server:
        results = await collect(send_instances(instances(50), "127.0.0.1", server.port, backoff=Backoff(attempts=1)))
    assert len(results) == 50
    assert "fewer than 4 associations" in caplog.text


async def test_without_any_association_the_error_is_raised(closed_port):
    with pytest.raises(asyncdicom.NoConnection):
        await collect(send_instances(instances(5), "127.0.0.1", closed_port, backoff=QUICK))
    assert others() == set()


async def test_an_error_of_the_iterable_is_raised_after_the_results():
    def source():
        yield from instances(3)
        raise ZeroDivisionError

    seen = []
    async with Archive().serve() as server:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what came before it counts
            async for result in send_instances(source(), "127.0.0.1", server.port):
                seen.append(result.is_success)  # noqa: PERF401
    assert seen == [True] * 3


async def test_who_waits_for_an_association_gets_one_while_much_is_sent():
    archive = Archive()
    async with archive.serve() as server, Pool(server.port, max_associations=1) as pool:
        done = 0
        async for result in pool.send(instances(100)):
            if not done:
                other = asyncio.create_task(pool.c_store(instance("9.9")))
            done += result.is_success
        await other
    assert archive.received.index("9.9") < 90
    assert len(archive.associations) == 1


async def test_cancelling_who_iterates_ends_everything():
    archive = Archive()
    archive.gate.clear()
    async with archive.serve() as server:
        sending = asyncio.create_task(collect(send_instances(instances(10), "127.0.0.1", server.port)))
        await until(lambda: len(server.associations) == 4)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert others() == set()
        await until(lambda: not server.associations)


async def test_pydicom_data_sets_are_sent_too():
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    data_sets = [dcmread(get_testdata_file(name)) for name in ("CT_small.dcm", "MR_small.dcm")]
    async with Archive().serve() as server:
        results = await collect(send_instances(data_sets, "127.0.0.1", server.port))
    assert all(result.is_success for result in results)
