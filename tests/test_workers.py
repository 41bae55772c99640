"""Several processes on one port: who gets what, what happens when one dies, and that nothing is left."""

import asyncio
import collections
import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import worker_handlers
from ports import free_port
from raw_peer import CT, data_set, pdv, raw_client, request, store_request

import asyncdicom
from asyncdicom import Statistics, Status, workers
from asyncdicom.pdu import Abort, AssociateAC, AssociateRJ, ReleaseRP, ReleaseRQ
from asyncdicom.tls import client_context, server_context

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SCM_RIGHTS")

DEADLINE = 60.0
"""Seconds after which a process has hung."""


def serving(handler=worker_handlers.drop, **options):
    return asyncdicom.serve("127.0.0.1", 0, **{"c_store": handler, "workers": 2} | options)


async def settle(condition):
    """Poll until something of another process can be observed."""
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):
            await asyncio.sleep(0.001)
    return found


async def echo(port):
    async with asyncdicom.connect("127.0.0.1", port) as association:
        return await association.c_echo()


def instance(number):
    return asyncdicom.Instance(CT, f"1.2.{number}", "1.2.840.10008.1.2.1", data=data_set(1000))


async def store_several(port, count):
    """One instance on each of so many associations that are open at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(count):
            association = asyncdicom.connect("127.0.0.1", port, contexts=[CT])
            association = await stack.enter_async_context(association)
            assert await association.c_store(instance(number)) == Status.SUCCESS


def state(pid):
    """Of a process, as the kernel says it; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


# Who gets what


async def test_workers_get_equal_shares_of_the_associations(tmp_path):
    async with serving(worker_handlers.Store(tmp_path)) as server:
        expected = dict.fromkeys(map(str, server.processes), 4)
        await store_several(server.port, 8)
    assert collections.Counter(path.name.split("-")[0] for path in tmp_path.iterdir()) == expected


async def test_the_statistics_are_those_of_all_workers_together():
    async with serving() as server:
        await store_several(server.port, 5)
        async with raw_client(server.port) as peer:
            await peer.associate()
            peer.reset()
        await settle(lambda: server.statistics.aborted)
    size = len(data_set(1000))
    assert server.statistics == Statistics(accepted=6, aborted=1, instances=5, bytes=5 * size)


@pytest.mark.parametrize("limit", [1, 3])
async def test_the_limit_of_associations_is_shared_out(limit):
    async with serving(max_associations=limit) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(limit):
            peer = await stack.enter_async_context(raw_client(server.port))
            await peer.associate()
        async with raw_client(server.port) as peer:
            peer.send(request())
            assert await peer.receive() == AssociateRJ(2, 3, 2)
    assert (server.statistics.accepted, server.statistics.rejected) == (limit, 1)


async def test_workers_speak_tls_with_a_context_that_each_makes_for_itself(tls_files, tls_contexts):
    make = functools.partial(worker_handlers.tls, *tls_files)
    async with serving(ssl=make) as server:
        for _ in range(2):
            async with asyncdicom.connect(
                "localhost", server.port, ssl=tls_contexts[1], local_address=("127.0.0.1", 0)
            ) as association:
                assert await association.c_echo() == Status.SUCCESS


async def test_workers_take_a_context_that_was_made_of_files_and_read_those_again(certificates, tmp_path):
    pair = [shutil.copy(each, tmp_path) for each in certificates.server]
    client = client_context(trusted=certificates.ca.file)
    async with serving(ssl=server_context(*pair)) as server:

        async def shown():
            async with asyncdicom.connect("127.0.0.1", server.port, ssl=client) as association:
                return association.peer_certificate.common_name

        assert await shown() == "server"
        for old, new in zip(pair, certificates.rsa, strict=True):
            shutil.copy(new, old)
        server.reload_tls()
        assert [await shown() for _ in range(4)] == ["rsa"] * 4
        assert server.certificate_not_after is not None
        os.kill(server.processes[0], signal.SIGKILL)
        await settle(lambda: len(server.processes) == 1)
        await settle(lambda: len(server.processes) == 2)
        assert [await shown() for _ in range(4)] == ["rsa"] * 4
        Path(pair[0]).write_text("nothing")
        with pytest.raises(asyncdicom.TLSConfigurationError):
            server.reload()
        assert [await shown() for _ in range(2)] == ["rsa"] * 2


async def test_workers_stand_behind_a_proxy_too():
    async with serving(proxies="127.0.0.1") as server, raw_client(server.port) as peer:
        peer.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 104\r\n", request())
        assert isinstance(await peer.receive(), AssociateAC)
        peer.send(ReleaseRQ())
        assert await peer.receive() == ReleaseRP()


async def test_one_process_makes_its_tls_context_by_a_function_too(tls_files, tls_contexts):
    async with serving(workers=None, ssl=functools.partial(worker_handlers.tls, *tls_files)) as server:
        async with asyncdicom.connect(
            "localhost", server.port, ssl=tls_contexts[1], local_address=("127.0.0.1", 0)
        ) as association:
            assert await association.c_echo() == Status.SUCCESS


@pytest.mark.parametrize("count", [None, 1, 2])
async def test_the_initializer_runs_in_each_process_before_it_serves(tmp_path, count):
    async with serving(workers=count, initializer=functools.partial(worker_handlers.note, tmp_path)) as server:
        assert {path.name for path in tmp_path.iterdir()} == set(map(str, server.processes))


async def test_one_worker_is_an_ordinary_server():
    async with serving(workers=1) as server:
        assert type(server) is asyncdicom.Server
        assert server.processes == (os.getpid(),)


async def test_workers_listen_where_one_process_would():
    async with serving() as server:
        assert server.addresses == [("127.0.0.1", server.port)]
        assert server.associations == ()
        with pytest.raises(OSError, match="in use"):
            await asyncdicom.serve("127.0.0.1", server.port, workers=2)
    assert server.addresses == []


# What cannot be


def local_handler():
    async def handler(store_request):
        return Status.SUCCESS

    return handler


async def test_a_handler_that_cannot_be_imported_is_refused_before_anything_is_started():
    with pytest.raises(TypeError, match=r"c_store=.* cannot be sent to a worker .* top level of a module"):
        await serving(local_handler())
    assert multiprocessing.active_children() == []


async def test_a_plain_tls_context_is_refused_with_what_to_give_instead(tls_contexts):
    with pytest.raises(TypeError, match=r"give a context of asyncdicom\.tls\.server_context\(\), or a function"):
        await serving(ssl=tls_contexts[0])


async def test_a_number_of_workers_below_one_is_refused():
    with pytest.raises(ValueError, match="0 workers"):
        await serving(workers=0)


async def test_what_goes_wrong_in_the_first_worker_is_told():
    with pytest.raises(RuntimeError, match="could not begin: ValueError: not today"):
        await serving(initializer=worker_handlers.fail)
    assert multiprocessing.active_children() == []


async def test_a_worker_that_ends_before_it_serves_is_told():
    with pytest.raises(RuntimeError, match="exit code 3 before it could serve"):
        await serving(initializer=functools.partial(worker_handlers.fail_if, "/"))
    assert multiprocessing.active_children() == []


def run_program(tmp_path, text):
    (tmp_path / "program.py").write_text(text)
    roots = (Path(asyncdicom.__file__).parents[1], Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PROGRAM = """
import asyncio, asyncdicom, worker_handlers

async def main():
    async with asyncdicom.serve("127.0.0.1", 0, workers=2{more}) as server:
        print(server.port, *server.processes, flush=True)
        {then}

if {condition}:
    asyncio.run(main())
"""
GUARD = '__name__ == "__main__"'


def test_a_program_that_starts_again_in_its_workers_is_told_what_it_lacks(tmp_path):
    process = run_program(tmp_path, PROGRAM.format(more="", then="", condition="True"))
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "below 'if __name__ == \"__main__\":'" in errors.splitlines()[-1]


# When one dies


async def test_a_killed_worker_is_replaced_and_the_port_goes_on_answering():
    async with serving() as server:
        await store_several(server.port, 2)
        await settle(lambda: server.statistics.instances == 2)
        killed, other = server.processes
        os.kill(killed, signal.SIGKILL)
        await settle(lambda: killed not in server.processes and len(server.processes) == 2)
        assert other in server.processes
        await store_several(server.port, 2)
    assert server.statistics.instances == 4


async def test_connections_wait_while_there_is_no_worker():
    async with serving() as server:
        for pid in server.processes:
            os.kill(pid, signal.SIGKILL)
        await settle(lambda: not server.processes)
        assert await echo(server.port) == Status.SUCCESS


class Unreadable:
    """Can be sent, but not received."""

    def __reduce__(self):
        return int, ("nothing",)


async def test_a_message_that_cannot_be_read_does_not_hold_up_those_behind_it(caplog):
    told, ends = [], socket.socketpair()
    ours, theirs = (workers._Channel(end, told=told.append) for end in ends)
    for message in (Unreadable(), 1.0):
        assert ours.send(message)
    await settle(lambda: told == [1.0])
    assert "cannot be read, and is left out" in caplog.text
    ours.close()
    theirs.close()


async def test_a_group_whose_workers_do_not_come_up_again_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.0)
    async with serving(initializer=functools.partial(worker_handlers.fail_if, tmp_path / "broken")) as server:
        (tmp_path / "broken").touch()
        os.kill(server.processes[0], signal.SIGKILL)
        with pytest.raises(RuntimeError, match="exit code 3"):
            await server.serve_forever()
        assert await echo(server.port) == Status.SUCCESS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_to_all_processes_are_the_parents_business(number):
    async with serving() as server:
        before = server.processes
        for pid in before:
            os.kill(pid, number)
        assert [await echo(server.port) for _ in range(4)] == [Status.SUCCESS] * 4
        assert server.processes == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("more", ["", ", initializer=worker_handlers.block_soon"])
def test_workers_end_when_their_parent_is_killed(tmp_path, more):
    program = PROGRAM.format(more=more, then="await server.serve_forever()", condition=GUARD)
    with run_program(tmp_path, program) as parent:
        _, *pids = parent.stdout.readline().split()
        parent.kill()
        parent.communicate(timeout=DEADLINE)  # ends when nobody has the other end of the pipes any more
    assert {state(pid) for pid in pids} <= {"", "Z"}


@pytest.mark.parametrize("then", ["return", "raise KeyError", "asyncio.get_running_loop().stop()"])
def test_nothing_is_left_however_the_program_ends(tmp_path, then):
    with run_program(tmp_path, PROGRAM.format(more="", then=then, condition=GUARD)) as parent:
        parent.communicate(timeout=DEADLINE)


# How it ends


async def test_draining_lets_a_running_store_end():
    server = await serving()
    async with raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 0, b"ab"))
        closing = asyncio.ensure_future(server.close(drain=DEADLINE))
        await asyncio.sleep(0)
        peer.send(pdv(3, 2, b"cd"))
        assert (await peer.receive_command()).status == Status.SUCCESS
        peer.send(ReleaseRQ())
        assert await peer.receive() == ReleaseRP()
        await peer.close()
        await closing
    assert server.statistics == Statistics(accepted=1, instances=1, bytes=4)
    assert multiprocessing.active_children() == []


async def test_what_does_not_end_in_time_is_aborted_and_nobody_is_taken():
    server = await serving()
    async with raw_client(server.port) as peer:
        await peer.associate()
        port = server.port
        await server.close(drain=0.01)
        assert await peer.receive() == Abort(0, 0)
        with pytest.raises(asyncdicom.NoConnection):
            await asyncdicom.connect("127.0.0.1", port)
    assert server.statistics.aborted == 1


async def test_a_second_close_makes_the_first_one_shorter():
    server = await serving()
    async with raw_client(server.port) as peer:
        await peer.associate()
        closing = asyncio.ensure_future(server.close(drain=1000))
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            await server.close(0)
            await closing
    assert server.statistics.aborted == 1


async def test_serve_forever_ends_when_the_group_is_closed():
    server = await serving()
    waiting = asyncio.ensure_future(server.serve_forever())
    await server.close()
    await waiting


async def test_closing_that_is_cancelled_kills_the_workers():
    server = await serving()
    async with raw_client(server.port) as peer:
        await peer.associate()
        closing = asyncio.ensure_future(server.close(drain=1000))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert multiprocessing.active_children() == []
        assert await peer.receive() is None


async def test_starting_that_is_cancelled_leaves_no_process_and_no_socket():
    port = free_port()
    starting = asyncio.ensure_future(asyncdicom.serve("127.0.0.1", port, workers=2))
    await settle(multiprocessing.active_children)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert multiprocessing.active_children() == []
    (await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", port)).close()


@pytest.mark.parametrize("handler", [worker_handlers.never_return, worker_handlers.block])
async def test_a_worker_that_does_not_end_is_killed(monkeypatch, tmp_path, handler):
    monkeypatch.setattr(workers, "_GRACE", 0.2)
    monkeypatch.chdir(tmp_path)
    server = await serving(handler)
    async with raw_client(server.port) as peer:
        await peer.associate()
        peer.send(store_request(), pdv(3, 2, b"ab"))
        await settle(lambda: list(tmp_path.iterdir()))
        await server.close(0)
    assert multiprocessing.active_children() == []
