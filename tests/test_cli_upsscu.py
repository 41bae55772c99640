import asyncio
import json
import signal
import sys

import pytest
from cli_processes import COMMAND, DEADLINE, ENVIRONMENT, run
from ports import free_port

import asyncdicom
from asyncdicom.services.unified_procedure_step import (
    State,
    Subscription,
    UpsManager,
)

LABEL = ("-k", "ProcedureStepLabel=label")


class Bench:
    """A manager that knows where UPSSCU listens, and the tool beside it."""

    def __init__(self, manager, server, port):
        self.manager, self.peer, self.port = manager, ("127.0.0.1", server.port), port

    async def start(self, command, *words, options=()):
        words = (command, *options, *self.peer, *words)
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            "upsscu",
            *map(str, words),
            env=ENVIRONMENT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, command, *words, options=()):
        """The tool's whole run: exit code, stdout, stderr."""
        process = await self.start(command, *words, options=options)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        return process.returncode, out.decode().strip(), err.decode().strip()

    async def step(self, *options):
        """The UID of a new step."""
        code, uid, _ = await self.run("create", options=(*LABEL, *options))
        assert code == 0
        return uid


@pytest.fixture
async def bench():
    port = free_port()  # for watch
    async with UpsManager(resolve={"UPSSCU": ("127.0.0.1", port)}) as manager:
        async with asyncdicom.serve("127.0.0.1", 0, services=[manager]) as server:
            yield Bench(manager, server, port)


async def test_a_step_is_created_with_what_is_missing_filled_in(bench):
    uid = await bench.step("-k", "WorklistLabel=urgent")
    step = bench.manager.get(uid)
    assert (step.ProcedureStepLabel, step.WorklistLabel) == ("label", "urgent")
    assert (step.ScheduledProcedureStepPriority, step.InputReadinessState) == ("MEDIUM", "READY")


async def test_a_step_is_created_from_a_file_under_a_uid_of_one_s_own(bench, tmp_path):
    file = tmp_path / "step.json"
    file.write_text(json.dumps({"00741204": {"vr": "LO", "Value": ["from a file"]}}))
    assert await bench.run("create", "1.2.3", options=("-f", file)) == (0, "1.2.3", "")
    assert bench.manager.get("1.2.3").ProcedureStepLabel == "from a file"


async def test_a_step_is_performed(bench):
    uid = await bench.step()
    code, transaction, _ = await bench.run("state", uid, "in-progress")
    assert (code, bench.manager.steps[uid].transaction_uid) == (0, transaction)
    performed = "UnifiedProcedureStepPerformedProcedureSequence[0]"
    coded = [
        f"{performed}.{sequence}[0].{attribute}"
        for sequence in ("PerformedStationNameCodeSequence", "PerformedWorkitemCodeSequence")
        for attribute in ("CodeValue=1", "CodingSchemeDesignator=99T", "CodeMeaning=one")
    ]
    times = [f"{performed}.PerformedProcedureStep{which}DateTime=20260101" for which in ("Start", "End")]
    keys = [word for key in (*coded, *times, f"{performed}.OutputInformationSequence") for word in ("-k", key)]
    assert (await bench.run("set", uid, options=("-t", transaction, *keys)))[0] == 0
    assert (await bench.run("state", uid, "completed", options=("-t", transaction)))[0] == 0
    assert bench.manager.steps[uid].state is State.COMPLETED


async def test_a_failure_says_what_it_means(bench):
    uid = await bench.step()
    code, out, err = await bench.run("state", uid, "completed", options=("-t", "1.2.3"))
    assert (code, out) == (62, "")
    assert "the step is not IN PROGRESS (C310H)" in err


async def test_a_warning_is_no_failure(bench):
    uid = await bench.step()
    assert await bench.run("cancel", uid, options=("-k", "ReasonForCancellation=no need")) == (0, "", "")
    assert bench.manager.steps[uid].state is State.CANCELED
    code, _, err = await bench.run("cancel", uid)
    assert code == 0
    assert "the step is CANCELED already (B304H)" in err


async def test_a_step_is_shown_as_lines_or_as_json(bench):
    uid = await bench.step()
    asked = ("-k", "ProcedureStepState", "-k", "ProcedureStepLabel")
    assert (await bench.run("get", uid, options=asked))[1].splitlines() == [
        "ProcedureStepState=SCHEDULED",
        "ProcedureStepLabel=label",
    ]
    everything = json.loads((await bench.run("get", uid, options=["--json"]))[1])
    assert everything["00080018"]["Value"] == [uid]


async def test_steps_are_found(bench):
    uids = [await bench.step("-k", f"WorklistLabel={label}") for label in ("a", "b", "a")]
    options = ("-k", "WorklistLabel=a", "-k", "SOPInstanceUID", "--json")
    code, out, err = await bench.run("find", options=options)
    assert (code, err) == (0, "2 matches")
    assert [json.loads(line)["00080018"]["Value"] for line in out.splitlines()] == [[uids[0]], [uids[2]]]


async def test_subscriptions_are_made_and_ended(bench):
    uid = await bench.step()
    assert (await bench.run("subscribe", uid, options=["--lock"]))[0] == 0
    assert bench.manager.steps[uid].subscribers == {"UPSSCU": Subscription.WITH_LOCK}
    assert (await bench.run("unsubscribe", uid))[0] == 0
    assert (await bench.run("subscribe", options=("-k", "WorklistLabel=a")))[0] == 0
    assert bench.manager.global_subscribers["UPSSCU"].keys.WorklistLabel == "a"
    assert (await bench.run("unsubscribe", options=["--suspend"]))[0] == 0
    assert (bench.manager.steps[uid].subscribers, bench.manager.global_subscribers) == ({}, {})


async def test_events_are_watched_until_there_were_enough(bench):
    watch = await bench.start("watch", options=("--port", bench.port, "--events", 2, "--json"))
    assert b"watching as UPSSCU" in await watch.stderr.readline()
    uid = await bench.step()
    bench.manager.change_state(uid, State.IN_PROGRESS, "1.2.3")
    async with asyncio.timeout(DEADLINE):
        out, err = await watch.communicate()
    assert (watch.returncode, err) == (0, b"")
    events = [json.loads(line) for line in out.splitlines()]
    assert [(event["event"], event["uid"]) for event in events] == [("STATE REPORT", uid)] * 2
    states = [event["information"]["00741000"]["Value"] for event in events]
    assert states == [["SCHEDULED"], ["IN PROGRESS"]]
    assert bench.manager.global_subscribers == {}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
async def test_watching_ends_with_a_signal_and_takes_the_subscription_back(bench):
    watch = await bench.start("watch", options=("--port", bench.port))
    await watch.stderr.readline()
    uid = await bench.step()
    async with asyncio.timeout(DEADLINE):
        assert await watch.stdout.readline() == f"STATE REPORT {uid}\n".encode()
        watch.send_signal(signal.SIGTERM)
        await watch.communicate()
    assert (watch.returncode, bench.manager.global_subscribers) == (130, {})


async def test_watching_on_a_port_in_use_says_so(bench):
    code, _, err = await bench.run("watch", options=("--port", bench.peer[1], "-ba", "127.0.0.1"))
    assert code == 64
    assert f"cannot listen on 127.0.0.1 port {bench.peer[1]}" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the first word is one of create, get"),
        (("perform", "h", "1"), "the first word is one of create, get"),
        (("create", "h", "1"), "create needs attributes"),
        (("find", "h", "1", "-k", "SOPInstanceUID", "1.2"), "find takes nothing after the peer, got 1.2"),
        (("get", "h", "1"), "get takes UID after the peer, got nothing"),
        (("state", "h", "1", "1.2", "done"), "done is no state: in-progress, completed, canceled"),
        (("subscribe", "h", "1", "1.2", "-k", "WorklistLabel=a"), "keys say which steps"),
        (("unsubscribe", "h", "1", "1.2", "--suspend"), "--suspend is of all steps"),
    ],
)
def test_a_wrong_command_line_is_explained(words, message):
    done = run("upsscu", *words)
    assert done.returncode == 1
    assert message in done.stderr
