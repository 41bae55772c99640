import asyncio
import contextlib

import pytest

from asyncdicom.wakeup import Wakeup


async def waiting(wakeup, steps):
    """A task that has begun to wait."""

    async def wait():
        try:
            steps.append(await wakeup)
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    return task


async def in_a_callback(function, *arguments):
    """What is called by the loop and by no task."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: done.set_result(function(*arguments)))
    return await done


async def test_the_waiter_goes_on_within_the_callback_that_wakes_it():
    steps, wakeup = [], Wakeup(asyncio.get_running_loop())
    task = await waiting(wakeup, steps)

    def wake():
        wakeup.set_result("woken")
        steps.append("after")

    await in_a_callback(wake)
    assert steps == ["woken", "after"]
    await task


async def test_a_waiter_that_a_task_wakes_goes_on_later():
    steps, wakeup = [], Wakeup(asyncio.get_running_loop())
    task = await waiting(wakeup, steps)
    wakeup.set_result("woken")
    assert steps == []
    await task
    assert steps == ["woken"]


async def test_what_is_done_is_not_waited_for():
    wakeup = Wakeup(asyncio.get_running_loop())
    wakeup.set_result(1)
    wakeup.set_result(2)
    wakeup.set_exception(ValueError())
    assert await wakeup == 1


@pytest.mark.parametrize("how", ["before", "in a callback", "by a task"])
async def test_the_waiter_gets_an_exception(how):
    wakeup = Wakeup(asyncio.get_running_loop())
    if how == "before":
        wakeup.set_exception(ValueError("why"))
    task = await waiting(wakeup, [])
    if how == "in a callback":
        await in_a_callback(wakeup.set_exception, ValueError("why"))
    wakeup.set_exception(ValueError("why"))
    with pytest.raises(ValueError, match="why"):
        await task


async def test_a_cancelled_waiter_is_done():
    steps, wakeup = [], Wakeup(asyncio.get_running_loop())
    task = await waiting(wakeup, steps)
    task.cancel()
    await in_a_callback(wakeup.set_result, "too late")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["cancelled"]
    assert wakeup.is_done


async def test_a_waiter_may_be_cancelled_when_it_was_woken_and_has_not_gone_on():
    steps, wakeup = [], Wakeup(asyncio.get_running_loop())
    task = await waiting(wakeup, steps)
    wakeup.set_result("woken")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["cancelled"]


async def test_a_timeout_ends_the_wait():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await Wakeup(asyncio.get_running_loop())


def test_a_keyboard_interrupt_is_not_lost_where_errors_of_callbacks_are():
    loop = asyncio.new_event_loop()
    wakeup = Wakeup(loop)

    async def interrupted():
        await wakeup
        raise KeyboardInterrupt

    def wake_up():
        with contextlib.suppress(BaseException):  # as uvloop does around its protocols
            wakeup.set_result(None)

    task = loop.create_task(interrupted())
    loop.call_later(0, wake_up)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    with pytest.raises(KeyboardInterrupt):
        task.result()
    loop.close()
