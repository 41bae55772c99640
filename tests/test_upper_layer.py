import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import ACCEPT, ARTIM, DATA, FRAGMENT, NOW, REJECT, REQUEST, Wire, feed, machine, pdus, receive
from standard_tables import UL

from asyncdicom.errors import AbortReason, LocalProtocolError, ProtocolError
from asyncdicom.pdu import Abort, AssociateRJ, AssociateRQ, ReleaseRP, ReleaseRQ
from asyncdicom.upper_layer import TABLE, Event, Indicated, Indication, State

RUNNING = 50.0
"""When ARTIM expires in machines that begin in a state in which it runs: it has, NOW."""

ARTIM_STATES = (State.STA2, State.STA13)
OLD_VERSION = AssociateRQ("ACCEPTOR", "REQUESTOR", REQUEST.presentation_contexts, protocol_version=2)
UNKNOWN_PDU = b"\x09\0\0\0\0\4abcd"
PDU_EVENTS = {
    Event.EVT3: ACCEPT,
    Event.EVT4: REJECT,
    Event.EVT6: REQUEST,
    Event.EVT10: DATA,
    Event.EVT12: ReleaseRQ(),
    Event.EVT13: ReleaseRP(),
    Event.EVT16: Abort(0, 0),
}
LOCAL = [event for event in Event if UL["events"][event.name.capitalize()]["origin"] == "local user"]
LOCAL_TRANSPORT = [Event.EVT2, Event.EVT5]


def cells(*, defined):
    for event_name, row in UL["table"].items():
        for state_name, action in row.items():
            event, state = Event[event_name.upper()], State[state_name.upper()]
            if action is None and not defined:
                yield pytest.param(event, state, id=f"{event_name}-{state_name}")
            elif action is not None and defined:
                branches = UL["actions"][action].get("conditions", [{}])
                for number, branch in enumerate(branches):
                    name = f"{event_name}-{state_name}-{action}" + (f"-{number}" if branch else "")
                    yield pytest.param(event, state, action, number, id=name)


# Table 9-10, cell by cell


def test_the_table_has_the_cells_of_table_9_10():
    ours = {
        event.name.capitalize(): {
            state.name.capitalize(): action.__name__.upper().replace("_", "-")
            for state in State
            if (action := TABLE[state].get(event))
        }
        for event in Event
    }
    assert ours == {
        event: {state: action for state, action in row.items() if action} for event, row in UL["table"].items()
    }


@pytest.mark.parametrize(("event", "state", "action", "branch"), list(cells(defined=True)))
def test_a_defined_cell_does_what_its_action_says(event, state, action, branch):
    it = begin(event, state, action, branch)
    fragments = drive(it, event, pdu=received_pdu(event, action, branch))
    assert observed(it, fragments) == expected(event, state, action, branch)


@pytest.mark.parametrize(("event", "state"), list(cells(defined=False)))
def test_a_blank_cell_has_no_effect_and_tells_a_local_user_so(event, state):
    it = begin(event, state)
    before = (it.state, it.deadline)
    if event in LOCAL or event in LOCAL_TRANSPORT:
        with pytest.raises(LocalProtocolError):
            drive(it, event)
    else:
        assert drive(it, event) == []
    assert (it.state, it.deadline) == before
    assert (it.data_to_send(), it.indications(), it.close_expected) == (b"", [], False)


def begin(event, state, action=None, branch=0):
    requestor = branch == 0 if action == "AR-8" else event is Event.EVT2
    it = machine(requestor=requestor)
    it.state = state
    it.deadline = RUNNING if state in ARTIM_STATES else None
    return it


def received_pdu(event, action, branch):
    if action == "AE-6":
        return (REQUEST, OLD_VERSION)[branch]
    if action == "AA-3":
        return (Abort(0, 0), Abort(2, 2))[branch]
    return PDU_EVENTS.get(event)


def drive(it, event, pdu=None):
    if event in PDU_EVENTS:
        return feed(it, (pdu or PDU_EVENTS[event]).encode(), NOW)
    {
        Event.EVT1: lambda: it.associate(NOW),
        Event.EVT2: lambda: it.transport_opened(NOW, REQUEST),
        Event.EVT5: lambda: it.transport_opened(NOW),
        Event.EVT7: lambda: it.accept(ACCEPT, NOW),
        Event.EVT8: lambda: it.reject(REJECT, NOW),
        Event.EVT9: lambda: it.send_data(DATA, NOW),
        Event.EVT11: lambda: it.release(NOW),
        Event.EVT14: lambda: it.respond_to_release(NOW),
        Event.EVT15: lambda: it.abort(NOW),
        Event.EVT17: lambda: it.transport_closed(NOW),
        Event.EVT18: lambda: it.handle_timer(NOW),
        Event.EVT19: lambda: feed(it, UNKNOWN_PDU, NOW),
    }[event]()
    return []


def observed(it, fragments):
    return {
        "state": it.state.name,
        "sent": [pdu_name(pdu) for pdu in pdus(it.data_to_send())],
        "indicated": [each.what.value for each in it.indications()] + ["P-DATA indication" for _ in fragments],
        "deadline": it.deadline,
        "closes": it.close_expected,
    }


def pdu_name(pdu):
    name = pdu.type.name.replace("_", "-")
    return f"{name} (source {pdu.source})" if isinstance(pdu, Abort) else name


def expected(event, state, action, branch):
    effect = UL["actions"][action]
    effect = {**effect, **(effect["conditions"][branch] if "conditions" in effect else {})}
    (next_state,) = (
        [effect["next_state"]] if "next_state" in effect else UL["next_state"][in_table(event)][in_table(state)]
    )
    assert next_state in UL["next_state"][in_table(event)][in_table(state)]
    sent, primitive, artim = effect["pdu_sent"], effect["primitive_issued"], effect["artim"] or ""
    deadline = RUNNING if state in ARTIM_STATES else None
    return {
        "state": next_state.upper(),
        # The action leaves AA-7's source open; nobody upstairs asked, so it is the provider.
        "sent": [sent.replace("source not specified by the action", "source 2")] if sent else [],
        # The primitives to the transport service are the caller's own doing.
        "indicated": [primitive.replace("(coll", "(release coll")]
        if primitive and "TRANSPORT" not in primitive
        else [],
        "deadline": NOW + ARTIM if "start" in artim else None if "stop" in artim else deadline,
        "closes": effect["closes_transport"],
    }


def in_table(member):
    return member.name.capitalize()


# Which reason an A-ABORT of the provider gives


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(UNKNOWN_PDU, AbortReason.UNRECOGNIZED_PDU, id="unknown PDU type"),
        pytest.param(REQUEST.encode(), AbortReason.UNEXPECTED_PDU, id="known PDU in the wrong state"),
        pytest.param(b"\x05\0\0\0\0\5abcde", AbortReason.INVALID_PDU_PARAMETER_VALUE, id="malformed PDU"),
    ],
)
def test_the_abort_names_the_reason(data, reason):
    it = machine()
    it.state = State.STA6
    feed(it, data, NOW)
    assert pdus(it.data_to_send()) == [Abort(2, reason)]
    (told,) = it.indications()
    assert told.what is Indication.PROVIDER_ABORT
    assert told.about.reason is reason


def test_an_error_that_the_user_of_the_machine_found_aborts_with_its_reason():
    it = machine()
    it.state = State.STA6
    it.protocol_error(error := ProtocolError("no such context", AbortReason.UNEXPECTED_PDU_PARAMETER), NOW)
    assert pdus(it.data_to_send()) == [Abort(2, 5)]
    assert it.indications() == [Indicated(Indication.PROVIDER_ABORT, error)]
    assert it.error is error


def test_an_error_found_after_the_end_has_no_effect():
    it = machine()
    it.protocol_error(ProtocolError("too late"), NOW)
    assert (it.state, it.data_to_send(), it.indications()) == (State.STA1, b"", [])


# AE-6: what the service provider refuses by itself


@pytest.mark.parametrize("version", [0x0001, 0x0003, 0xFFFF])
def test_of_the_protocol_version_only_bit_0_is_tested(version):
    it = listening()
    feed(it, AssociateRQ("A", "B", REQUEST.presentation_contexts, protocol_version=version).encode(), NOW)
    assert it.state is State.STA3


@pytest.mark.parametrize("version", [0x0000, 0x0002])
def test_a_request_without_protocol_version_1_is_rejected_by_the_provider(version):
    it = listening()
    feed(it, AssociateRQ("A", "B", REQUEST.presentation_contexts, protocol_version=version).encode(), NOW)
    assert pdus(it.data_to_send()) == [AssociateRJ(1, 2, 2)]
    assert it.indications() == []


def test_the_provider_may_refuse_a_request_without_asking_the_user():
    it = listening(admit=lambda request, _: AssociateRJ(2, 3, 2) if request.calling_ae_title == "REQUESTOR" else None)
    feed(it, REQUEST.encode(), NOW)
    assert (it.state, it.deadline) == (State.STA13, NOW + ARTIM)
    assert pdus(it.data_to_send()) == [AssociateRJ(2, 3, 2)]
    assert it.indications() == []


def test_a_request_that_the_provider_admits_goes_to_the_user():
    it = listening(admit=lambda _, rejection: rejection)
    feed(it, REQUEST.encode(), NOW)
    assert it.indications() == [Indicated(Indication.ASSOCIATE, REQUEST)]
    assert it.deadline is None


def listening(admit=None):
    it = machine(admit=admit)
    it.transport_opened(NOW)
    return it


# Dialogues of two machines


@pytest.mark.parametrize("path", list(UL["typical_paths"].values()), ids=list(UL["typical_paths"]))
def test_a_typical_path_leads_back_to_idle(path):
    it = machine(requestor=path[0] == "Evt1")
    for name in path:
        drive(it, Event[name.upper()]) if name != "Evt18" else it.handle_timer(NOW + ARTIM)
    assert (it.state, it.deadline) == (State.STA1, None)


def test_an_association_is_accepted_and_released():
    wire = Wire()
    wire.connect()
    assert wire.states() == ("STA5", "STA3")
    wire.acceptor.accept(ACCEPT, NOW)
    wire.carry()
    wire.requestor.release(NOW)
    wire.carry()
    wire.acceptor.respond_to_release(NOW)
    wire.carry()
    assert wire.states() == ("STA1", "STA13")
    assert wire.indications() == [["ASSOCIATE_ACCEPTED", "RELEASED"], ["ASSOCIATE", "RELEASE"]]
    wire.close()
    assert wire.states() == ("STA1", "STA1")
    assert wire.sent == ["A_ASSOCIATE_RQ", "A_ASSOCIATE_AC", "A_RELEASE_RQ", "A_RELEASE_RP"]


def test_an_association_is_rejected_by_the_user():
    wire = Wire()
    wire.connect()
    wire.acceptor.reject(REJECT, NOW)
    wire.carry()
    assert wire.requestor.indications() == [Indicated(Indication.ASSOCIATE_REJECTED, REJECT)]
    assert wire.states() == ("STA1", "STA13")
    wire.close()
    assert wire.states() == ("STA1", "STA1")


def test_a_rejection_by_the_provider_never_reaches_the_acceptors_user():
    wire = Wire(admit=lambda *_: AssociateRJ(2, 3, 1))
    wire.connect()
    assert wire.states() == ("STA1", "STA13")
    assert wire.indications() == [["ASSOCIATE_REJECTED"], []]


def test_data_flows_both_ways_while_the_association_stands():
    wire = Wire()
    wire.establish()
    wire.requestor.send_data(DATA, NOW)
    wire.carry()
    wire.acceptor.send_data(DATA, NOW)
    wire.carry()
    assert wire.received == [FRAGMENT, FRAGMENT]
    assert wire.states() == ("STA6", "STA6")


def test_data_that_crosses_a_release_request_still_arrives():
    wire = Wire()
    wire.establish()
    wire.requestor.release(NOW)
    wire.carry()
    wire.acceptor.send_data(DATA, NOW)
    wire.carry()
    assert wire.received == [FRAGMENT]
    assert wire.states() == ("STA7", "STA8")


def test_in_a_release_collision_the_requestor_answers_first():
    wire = Wire()
    wire.establish()
    wire.requestor.release(NOW)
    wire.acceptor.release(NOW)
    wire.carry()
    assert wire.states() == ("STA9", "STA10")
    with pytest.raises(LocalProtocolError):
        wire.acceptor.respond_to_release(NOW)
    wire.requestor.respond_to_release(NOW)
    wire.carry()
    assert wire.states() == ("STA11", "STA12")
    wire.acceptor.respond_to_release(NOW)
    wire.carry()
    assert wire.states() == ("STA1", "STA13")
    assert wire.indications() == [["RELEASE_COLLISION", "RELEASED"], ["RELEASE_COLLISION", "RELEASED"]]
    wire.close()
    assert wire.states() == ("STA1", "STA1")


@pytest.mark.parametrize("side", ["requestor", "acceptor"])
def test_an_abort_ends_the_association_at_once(side):
    wire = Wire()
    wire.establish()
    getattr(wire, side).abort(NOW)
    wire.carry()
    assert sorted(wire.states()) == ["STA1", "STA13"]
    assert sorted(wire.indications()) == [[], ["ABORT"]]
    wire.close()
    assert wire.states() == ("STA1", "STA1")


def test_two_aborts_that_cross_close_without_a_word():
    wire = Wire()
    wire.establish()
    wire.requestor.abort(NOW)
    wire.acceptor.abort(NOW)
    wire.carry()
    assert wire.states() == ("STA1", "STA1")
    assert wire.requestor.close_expected
    assert wire.acceptor.close_expected


def test_a_requestor_may_abort_while_its_request_is_pending():
    wire = Wire()
    wire.connect()
    wire.requestor.abort(NOW)
    wire.carry()
    assert wire.states() == ("STA13", "STA1")
    assert wire.indications() == [[], ["ASSOCIATE", "ABORT"]]


def test_an_abort_before_the_connection_stands_sends_nothing():
    it = machine(requestor=True)
    it.associate(NOW)
    it.abort(NOW)
    assert (it.state, it.data_to_send(), it.close_expected) == (State.STA1, b"", True)


@pytest.mark.parametrize("event", [Event.EVT9, Event.EVT11, Event.EVT14])
def test_after_its_release_request_a_user_can_only_abort(event):
    it = machine(requestor=True)
    it.state = State.STA7
    with pytest.raises(LocalProtocolError):
        drive(it, event)
    it.abort(NOW)
    assert it.state is State.STA13


@pytest.mark.parametrize("event", [Event.EVT9, Event.EVT11, Event.EVT14, Event.EVT15])
def test_after_its_release_response_a_user_can_do_nothing(event):
    it = machine()
    it.state = State.STA8
    it.respond_to_release(NOW)
    with pytest.raises(LocalProtocolError):
        drive(it, event)


# Time


def test_artim_closes_a_connection_on_which_nothing_comes():
    it = listening()
    assert it.deadline == NOW + ARTIM
    it.handle_timer(NOW + ARTIM)
    assert (it.state, it.close_expected, it.deadline) == (State.STA1, True, None)


def test_artim_covers_the_whole_request_not_each_read():
    it = listening()
    feed(it, REQUEST.encode()[:-1], NOW + ARTIM - 1, cuts=range(1, 100, 10))
    assert it.deadline == NOW + ARTIM


def test_artim_does_nothing_before_its_time():
    it = listening()
    it.handle_timer(NOW + ARTIM - 0.001)
    assert (it.state, it.close_expected, it.deadline) == (State.STA2, False, NOW + ARTIM)


def test_artim_closes_when_the_peer_does_not_after_a_release():
    wire = Wire()
    wire.establish()
    wire.requestor.release(NOW)
    wire.carry()
    wire.acceptor.respond_to_release(NOW)
    wire.acceptor.handle_timer(NOW + ARTIM)
    assert (wire.acceptor.state, wire.acceptor.close_expected) == (State.STA1, True)


def test_artim_closes_when_the_peer_does_not_after_an_abort():
    wire = Wire()
    wire.establish()
    wire.acceptor.abort(NOW)
    wire.acceptor.handle_timer(NOW + ARTIM)
    assert (wire.acceptor.state, wire.acceptor.close_expected) == (State.STA1, True)


@pytest.mark.parametrize("state", [State.STA3, State.STA5, State.STA6, State.STA7, State.STA8])
def test_artim_does_not_supervise_the_user_or_the_peers_answers(state):
    it = machine()
    it.state = state
    it.handle_timer(NOW + 1e9)
    assert it.state is state


# What real peers do


def test_a_second_request_after_a_release_on_the_same_connection_is_aborted():
    it = machine()
    it.state, it.deadline = State.STA13, RUNNING
    feed(it, REQUEST.encode(), NOW)
    assert (it.state, it.deadline) == (State.STA13, RUNNING)
    assert pdus(it.data_to_send()) == [Abort(2, 2)]


@pytest.mark.parametrize(("source", "reason"), [(1, 0), (1, 9), (3, 3), (255, 255)])
def test_an_abort_with_undefined_codes_is_reported_as_it_came(source, reason):
    it = machine()
    it.state = State.STA6
    feed(it, Abort(source, reason).encode(), NOW)
    assert it.indications() == [Indicated(Indication.PROVIDER_ABORT, Abort(source, reason))]
    assert it.state is State.STA1


def test_a_rejection_with_undefined_codes_is_reported_as_it_came():
    it = machine(requestor=True)
    it.state = State.STA5
    feed(it, AssociateRJ(9, 8, 7).encode(), NOW)
    assert it.indications() == [Indicated(Indication.ASSOCIATE_REJECTED, AssociateRJ(9, 8, 7))]


def test_an_http_request_is_named_and_aborted():
    it = listening()
    feed(it, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", NOW)
    assert "HTTP" in str(it.error)
    assert it.error.reason is AbortReason.UNRECOGNIZED_PDU
    assert it.state is State.STA13


def test_a_connection_without_a_byte_ends_without_a_word():
    it = listening()
    it.transport_closed(NOW)
    assert (it.state, it.indications(), it.deadline) == (State.STA1, [], None)


def test_a_peer_that_closes_after_the_release_response_leaves_no_error():
    it = machine()
    it.state = State.STA8
    it.respond_to_release(NOW)
    it.transport_closed(NOW)
    assert (it.state, it.indications()) == (State.STA1, [])


@pytest.mark.parametrize("state", [State.STA6, State.STA7, State.STA8])
def test_a_peer_that_closes_without_a_release_is_a_lost_connection(state):
    it = machine()
    it.state = state
    it.transport_closed(NOW)
    assert it.indications() == [Indicated(Indication.PROVIDER_ABORT, None)]


def test_a_release_request_while_responses_are_written_lets_them_go_out():
    it = machine()
    it.state = State.STA6
    feed(it, ReleaseRQ().encode(), NOW)
    it.check_may_send_data()
    it.send_data(DATA, NOW)
    assert pdus(it.data_to_send()) == [DATA]
    assert it.state is State.STA8


def test_bytes_after_an_unreadable_pdu_have_no_effect():
    it = machine()
    it.state = State.STA6
    assert feed(it, UNKNOWN_PDU + DATA.encode() + ReleaseRQ().encode(), NOW) == []
    assert feed(it, DATA.encode(), NOW) == []
    assert len(pdus(it.data_to_send())) == 1


def test_data_and_the_abort_behind_it_may_come_in_one_read():
    it = machine()
    it.state = State.STA6
    given = receive(it, DATA.encode() + Abort(0, 0).encode() + DATA.encode())
    assert given == [FRAGMENT, Indicated(Indication.ABORT, Abort(0, 0))]
    assert it.state is State.STA1


def test_data_in_front_of_a_release_request_is_given_before_it():
    it = machine()
    it.state = State.STA6
    assert receive(it, DATA.encode() * 2 + ReleaseRQ().encode()) == [FRAGMENT, FRAGMENT, Indicated(Indication.RELEASE)]


def test_data_in_front_of_an_unreadable_pdu_is_given_before_the_error():
    it = machine()
    it.state = State.STA6
    given = receive(it, DATA.encode() + UNKNOWN_PDU)
    assert given == [FRAGMENT, Indicated(Indication.PROVIDER_ABORT, it.error)]


def test_an_acceptance_and_data_behind_it_may_come_in_one_read():
    it = machine(requestor=True)
    it.state = State.STA5
    assert receive(it, ACCEPT.encode() + DATA.encode()) == [Indicated(Indication.ASSOCIATE_ACCEPTED, ACCEPT), FRAGMENT]
    assert it.state is State.STA6


def test_a_refused_primitive_names_the_event_and_the_state():
    with pytest.raises(LocalProtocolError, match=r"A-RELEASE request primitive.*STA1, Idle"):
        machine().release(NOW)


@pytest.mark.parametrize("state", list(State))
def test_data_may_be_sent_where_the_table_has_a_cell_for_it(state):
    it = machine()
    it.state = state
    if UL["table"]["Evt9"][in_table(state)]:
        it.check_may_send_data()
    else:
        with pytest.raises(LocalProtocolError, match=state.name):
            it.check_may_send_data()


# Properties


@given(st.booleans(), st.integers(1, 30), st.data())
def test_any_walk_through_the_states_obeys_the_table(requestor, length, data):
    it = machine(requestor=requestor)
    for _ in range(length):
        before, row = it.state, list(TABLE[it.state])
        event = data.draw(st.sampled_from(row) | st.sampled_from(Event))
        if event is (Event.EVT5 if requestor else Event.EVT2):
            continue
        allowed = UL["next_state"][in_table(event)][in_table(before)]
        try:
            step(it, event)
        except LocalProtocolError:
            assert allowed is None
        assert in_table(it.state) in (allowed or [in_table(before)])
        assert (it.deadline is not None) is (it.state in ARTIM_STATES)


def step(it, event):
    if event is Event.EVT18:
        it.handle_timer(NOW + ARTIM)
    elif event is Event.EVT19:  # not by bytes: a stream is not read on behind what cannot be read
        it.protocol_error(ProtocolError("broken"), NOW)
    else:
        drive(it, event)


@given(st.sampled_from(State), st.booleans(), st.lists(st.sampled_from([*PDU_EVENTS, Event.EVT10]), max_size=8))
def test_the_fast_path_of_data_equals_the_table(state, requestor, events):
    it = machine(requestor=requestor)
    it.state = model = state
    passed = 0
    for event in events:
        if action := TABLE[model].get(event):
            passed += action.__name__ in ("dt_2", "ar_6")
            model = State[after(event, model, requestor=requestor).upper()]
    given = receive(it, b"".join(PDU_EVENTS[event].encode() for event in events))
    assert [each for each in given if not isinstance(each, Indicated)] == [FRAGMENT] * passed
    assert it.state is model


def after(event, state, *, requestor):
    states = UL["next_state"][in_table(event)][in_table(state)]
    if len(states) > 1 and event is Event.EVT12:
        return states[0] if requestor else states[1]
    return states[0]


@given(
    st.sampled_from(State),
    st.lists(st.sampled_from([*(pdu.encode() for pdu in PDU_EVENTS.values()), UNKNOWN_PDU]), min_size=1, max_size=6),
    st.data(),
)
def test_any_cut_of_the_stream_leads_to_the_same_end(state, parts, data):
    stream = b"".join(parts)
    cuts = data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12))
    ends = []
    for where in ((), cuts):
        it = machine()
        it.state, it.deadline = state, RUNNING if state in ARTIM_STATES else None
        given = joined(receive(it, stream, where))
        ends.append((it.state, it.data_to_send(), given, it.deadline, it.close_expected))
    assert ends[0] == ends[1]


def joined(given):
    """With neighbouring data put together, errors by their words."""
    whole = []
    for each in given:
        if isinstance(each, Indicated):
            whole.append((each.what, str(each.about)))
        elif whole and isinstance(whole[-1], bytes):
            whole[-1] += each[2]
        else:
            whole.append(each[2])
    return whole


@given(
    st.sampled_from(State),
    st.lists(
        st.binary(max_size=60) | st.builds(lambda pdu: pdu.encode(), st.sampled_from(list(PDU_EVENTS.values()))),
        max_size=5,
    ),
)
def test_any_bytes_in_any_state_raise_nothing(state, parts):
    it = machine()
    it.state = state
    feed(it, b"".join(parts), NOW)
    assert it.state in State
    assert all(told.about is None or told.what in Indication for told in it.indications())
