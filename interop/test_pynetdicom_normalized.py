"""The six DIMSE-N services with plain handlers, pynetdicom as the peer in both roles."""

import asyncio
import contextlib
import threading

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import BasicFilmSession

import asyncdicom

DEADLINE = 30
FILM_SESSION = str(BasicFilmSession)
"""A class for which pynetdicom performs all six."""
UID = "1.2.840.113619.1"
LABEL, COPIES = 0x20000050, 0x20000010


def data_set(**values):
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


SENT = data_set(FilmSessionLabel="sent by the SCU", NumberOfCopies="2")
ANSWERED = data_set(FilmSessionLabel="answered by the SCP", NumberOfCopies="1")
SERVICES = ["n_create", "n_get", "n_set", "n_action", "n_delete", "n_event_report"]
OF_THE_SCP = SERVICES[:5]
STATUSES = [0x0000, 0x0107, 0x0110, 0x0112, 0x0213]


def status_set(status):
    """As pynetdicom's handlers say more than a number."""
    made = Dataset()
    made.Status = int(status)
    if status:
        made.ErrorComment = "why it is not so"
    return made


# pynetdicom performs


@contextlib.contextmanager
def their_server(*handlers):
    ae = AE("THEIRS")
    ae.add_supported_context(BasicFilmSession)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def their_handlers(statuses, seen):
    """Handlers that note what came, and answer with the next status, and with a data set where there is one."""

    def handler(name, *attributes):
        def perform(event):
            seen[name] = [getattr(event, each) for each in attributes]
            answer = status_set(next(statuses))
            return answer if name == "n_delete" else (answer, ANSWERED)

        return perform

    return [
        (evt.EVT_N_CREATE, handler("n_create", "attribute_list")),
        (evt.EVT_N_GET, handler("n_get", "attribute_identifiers")),
        (evt.EVT_N_SET, handler("n_set", "modification_list")),
        (evt.EVT_N_ACTION, handler("n_action", "action_type", "action_information")),
        (evt.EVT_N_DELETE, handler("n_delete")),
    ]


OUR_CALLS = {
    "n_create": lambda association: association.n_create(FILM_SESSION, SENT, UID),
    "n_get": lambda association: association.n_get(FILM_SESSION, UID, [LABEL, COPIES]),
    "n_set": lambda association: association.n_set(FILM_SESSION, UID, SENT),
    "n_action": lambda association: association.n_action(FILM_SESSION, UID, 1, SENT),
    "n_delete": lambda association: association.n_delete(FILM_SESSION, UID),
}
SEEN = {"n_create": [SENT], "n_get": [[LABEL, COPIES]], "n_set": [SENT], "n_action": [1, SENT], "n_delete": []}


@pytest.mark.parametrize("name", OF_THE_SCP)
async def test_pynetdicom_performs_what_we_ask_for(name):
    seen, statuses = {}, iter(STATUSES)
    with their_server(*their_handlers(statuses, seen)) as port:
        async with (
            asyncio.timeout(DEADLINE),
            asyncdicom.connect("127.0.0.1", port, contexts=FILM_SESSION) as association,
        ):
            for status in STATUSES:
                response = await OUR_CALLS[name](association)
                assert response.status == status
                assert response.status.error_comment == ("why it is not so" if status else "")
                answers = name != "n_delete" and not response.status.is_failure
                assert response.data_set == (ANSWERED if answers else None)
                assert seen.pop(name) == SEEN[name]


async def test_pynetdicom_is_told_the_uid_when_we_leave_it_to_the_peer():
    def create(event):
        answer = status_set(0)
        answer.AffectedSOPInstanceUID = "1.2.3"
        return answer, None

    with their_server((evt.EVT_N_CREATE, create)) as port:
        async with (
            asyncio.timeout(DEADLINE),
            asyncdicom.connect("127.0.0.1", port, contexts=FILM_SESSION) as association,
        ):
            assert (await association.n_create(FILM_SESSION, SENT)).sop_instance_uid == "1.2.3"


# We perform


@contextlib.asynccontextmanager
async def our_server(**handlers):
    async with asyncio.timeout(DEADLINE):
        async with asyncdicom.serve("127.0.0.1", 0, contexts=[FILM_SESSION], **handlers) as server:
            yield server.port


def our_handlers(statuses, seen):
    def handler(name, *attributes):
        async def perform(request):
            came = [getattr(request, each) for each in attributes]
            seen.append([list(each) if isinstance(each, tuple) else each for each in came])
            status = next(statuses)
            answer = asyncdicom.Status(status, "why it is not so" if status else "")
            return answer if name == "n_delete" or answer.is_failure else (answer, ANSWERED)

        return perform

    return {
        "n_create": handler("n_create", "data_set"),
        "n_get": handler("n_get", "attributes"),
        "n_set": handler("n_set", "data_set"),
        "n_action": handler("n_action", "action_type_id", "data_set"),
        "n_delete": handler("n_delete"),
    }


THEIR_CALLS = {
    "n_create": lambda association: association.send_n_create(SENT, BasicFilmSession, UID),
    "n_get": lambda association: association.send_n_get([LABEL, COPIES], BasicFilmSession, UID),
    "n_set": lambda association: association.send_n_set(SENT, BasicFilmSession, UID),
    "n_action": lambda association: association.send_n_action(SENT, 1, BasicFilmSession, UID),
    "n_delete": lambda association: (association.send_n_delete(BasicFilmSession, UID), None),
}


def ask(port, call, handlers=()):
    """One call of pynetdicom's, on an association of its own."""
    association = AE("THEIRS").associate(
        "127.0.0.1", port, contexts=[build_context(BasicFilmSession)], evt_handlers=list(handlers)
    )
    assert association.is_established
    try:
        return call(association)
    finally:
        association.release()


@pytest.mark.parametrize("name", OF_THE_SCP)
async def test_we_perform_what_pynetdicom_asks_for(name):
    def calls(association):
        return [THEIR_CALLS[name](association) for _ in STATUSES]

    seen = []
    async with our_server(**our_handlers(iter(STATUSES), seen)) as port:
        answers = await asyncio.to_thread(ask, port, calls)
    for status, (answer, answered) in zip(STATUSES, answers, strict=True):
        assert (answer.Status, answer.get("ErrorComment", "")) == (status, "why it is not so" if status else "")
        is_failure = asyncdicom.Status(status).is_failure
        assert answered == (None if name == "n_delete" or is_failure else ANSWERED)
    assert seen == [SEEN[name]] * len(STATUSES)


async def test_we_tell_pynetdicom_the_uid_that_it_leaves_to_us():
    made, answers = [], []

    async def create(request):
        made.append(request.sop_instance_uid)
        return 0

    def call(association):
        return association.send_n_create(SENT, BasicFilmSession)

    def received(event):
        answers.append(event.message.command_set.AffectedSOPInstanceUID)

    async with our_server(n_create=create) as port:
        await asyncio.to_thread(ask, port, call, [(evt.EVT_DIMSE_RECV, received)])
    assert answers == made != []


# Event reports, on the association of the SCU


@pytest.mark.parametrize("status", STATUSES)
async def test_an_event_report_of_pynetdicom_reaches_us_on_our_own_association(status):
    answers = []

    def act(event):
        def report():
            answers.append(event.assoc.send_n_event_report(SENT, 2, BasicFilmSession, UID))
            reported.set()

        threading.Thread(target=report).start()  # it goes out when the answer to this is on its way
        return 0x0000, None

    async def receive(request):
        seen.append((request.sop_instance_uid, request.event_type_id, request.data_set))
        answer = asyncdicom.Status(status, "why it is not so" if status else "")
        return answer if answer.is_failure else (answer, ANSWERED)

    seen, reported = [], threading.Event()
    with their_server((evt.EVT_N_ACTION, act)) as port:
        async with (
            asyncio.timeout(DEADLINE),
            asyncdicom.connect("127.0.0.1", port, contexts=FILM_SESSION, n_event_report=receive) as association,
        ):
            assert (await association.n_action(FILM_SESSION, UID, 1)).status == 0
            assert await asyncio.to_thread(reported.wait, DEADLINE)
            assert association.is_established
    [(answer, answered)] = answers
    assert seen == [(UID, 2, SENT)]
    assert (answer.Status, answer.get("ErrorComment", "")) == (status, "why it is not so" if status else "")
    assert answered == (None if asyncdicom.Status(status).is_failure else ANSWERED)


@pytest.mark.parametrize("status", STATUSES)
async def test_our_event_report_reaches_pynetdicom_on_its_own_association(status):
    seen, responses, tasks = [], asyncio.Queue(), []

    def receive(event):
        seen.append((event.request.AffectedSOPInstanceUID, event.event_type, event.event_information))
        return status_set(status), ANSWERED

    async def act(request):
        async def report():
            await responses.put(await request.association.n_event_report(FILM_SESSION, UID, 2, SENT))

        tasks.append(asyncio.create_task(report()))
        return 0

    def call(association):
        answer, _ = association.send_n_action(None, 1, BasicFilmSession, UID)
        assert answer.Status == 0
        future = asyncio.run_coroutine_threadsafe(responses.get(), loop)
        return future.result(DEADLINE)

    loop = asyncio.get_running_loop()
    async with our_server(n_action=act) as port:
        response = await asyncio.to_thread(ask, port, call, [(evt.EVT_N_EVENT_REPORT, receive)])
        await asyncio.gather(*tasks)
    assert seen == [(UID, 2, SENT)]
    assert (response.status, response.status.error_comment) == (status, "why it is not so" if status else "")
    assert response.data_set == (None if response.status.is_failure else ANSWERED)
