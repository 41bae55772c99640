import pytest
from hypothesis import given
from hypothesis import strategies as st
from standard_tables import SERVICES

from asyncdicom.errors import LocalProtocolError
from asyncdicom.presentation import (
    DEFAULT_TRANSFER_SYNTAXES,
    STORAGE_TRANSFER_SYNTAXES,
    AcceptancePolicy,
    Context,
    ContextResult,
    ExtendedNegotiation,
    PresentationContext,
    ProposedContext,
    Result,
    RoleSelection,
    accept_contexts,
    as_contexts,
    established_contexts,
    propose_contexts,
    proposed_extended,
    proposed_roles,
)
from asyncdicom.uids import SERVICE_CLASSES, TRANSFER_SYNTAXES, VERIFICATION

IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
CT, FIND = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.2.2.1"


def policy(*contexts, **options):
    return AcceptancePolicy({context.abstract_syntax: context for context in contexts}, **options)


def proposal(abstract_syntax=CT, *syntaxes, number=1):
    return ProposedContext(number, abstract_syntax, syntaxes or (IMPLICIT,))


def answer(proposed, *contexts, roles=(), **options):
    return accept_contexts([proposed], roles, policy(*contexts, **options))


# The acceptor


def test_a_supported_context_is_accepted():
    negotiated = answer(proposal(CT, IMPLICIT), Context(CT))
    assert negotiated.results == (ContextResult(1, 0, IMPLICIT),)
    assert negotiated.contexts == {1: PresentationContext(1, CT, IMPLICIT, scu=False, scp=True)}
    assert negotiated.roles == ()


def test_an_unknown_abstract_syntax_is_refused_with_3():
    negotiated = answer(proposal(CT), Context(FIND))
    assert negotiated.results == (ContextResult(1, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED, IMPLICIT),)
    assert negotiated.contexts == {}


def test_unsupported_transfer_syntaxes_are_refused_with_4():
    negotiated = answer(proposal(CT, JPEG), Context(CT, (IMPLICIT,)))
    assert negotiated.results == (ContextResult(1, Result.TRANSFER_SYNTAXES_NOT_SUPPORTED, JPEG),)


def test_a_context_without_a_transfer_syntax_is_refused_with_4():
    (result,) = accept_contexts([ProposedContext(1, CT, ())], (), policy(Context(CT))).results
    assert result.result == Result.TRANSFER_SYNTAXES_NOT_SUPPORTED
    assert result.transfer_syntax


def test_the_results_are_those_of_table_9_18():
    assert {each.value: each.name for each in Result} == {
        0: "ACCEPTANCE",
        1: "USER_REJECTION",
        2: "NO_REASON",
        3: "ABSTRACT_SYNTAX_NOT_SUPPORTED",
        4: "TRANSFER_SYNTAXES_NOT_SUPPORTED",
    }


def test_the_requestors_first_syntax_is_taken():
    assert answer(proposal(CT, JPEG, IMPLICIT), Context(CT, (IMPLICIT, JPEG))).contexts[1].transfer_syntax == JPEG


def test_the_acceptor_may_prefer_its_own_order():
    negotiated = answer(proposal(CT, JPEG, IMPLICIT), Context(CT, (IMPLICIT, JPEG)), prefer_own_syntax=True)
    assert negotiated.contexts[1].transfer_syntax == IMPLICIT


def test_the_same_abstract_syntax_may_be_proposed_several_times():
    proposed = [proposal(CT, syntax, number=number) for number, syntax in ((5, JPEG), (1, IMPLICIT), (3, EXPLICIT))]
    negotiated = accept_contexts(proposed, (), policy(Context(CT, (JPEG, EXPLICIT))))
    assert [(each.id, each.result) for each in negotiated.results] == [(5, 0), (1, 4), (3, 0)]
    assert {number: each.transfer_syntax for number, each in negotiated.contexts.items()} == {5: JPEG, 3: EXPLICIT}


def test_every_context_may_be_refused():
    negotiated = accept_contexts([proposal(CT), proposal(FIND, number=3)], (), policy())
    assert [each.result for each in negotiated.results] == [3, 3]
    assert negotiated.contexts == {}


def test_a_request_without_contexts_is_answered_with_none():
    assert accept_contexts((), (), policy(Context(CT))) == ((), (), {}, ())


def test_123_contexts_of_4_syntaxes_are_each_answered():
    proposed = [proposal(CT, JPEG, "1.2.3", EXPLICIT, IMPLICIT, number=number) for number in range(1, 247, 2)]
    negotiated = accept_contexts(proposed, (), policy(Context(CT)))
    assert [each.id for each in negotiated.results] == list(range(1, 247, 2))
    assert {each.transfer_syntax for each in negotiated.contexts.values()} == {EXPLICIT}


@pytest.mark.parametrize(
    ("uid", "accepted"),
    [
        pytest.param(CT, True, id="a storage class"),
        pytest.param("1.2.840.10008.5.1.4.1.1.2.99", True, id="a storage class of an edition to come"),
        pytest.param("1.2.3.4", True, id="a private class"),
        pytest.param(FIND, False, id="a query class"),
        pytest.param(VERIFICATION, False, id="verification"),
    ],
)
def test_any_storage_accepts_storage_and_what_no_registry_knows(uid, accepted):
    assert bool(answer(proposal(uid, JPEG), any_storage=STORAGE_TRANSFER_SYNTAXES).contexts) is accepted


def test_any_storage_leaves_a_named_context_as_it_is():
    negotiated = answer(proposal(CT, JPEG), Context(CT, (IMPLICIT,)), any_storage=STORAGE_TRANSFER_SYNTAXES)
    assert negotiated.results[0].result == Result.TRANSFER_SYNTAXES_NOT_SUPPORTED


def test_storage_takes_every_syntax_whose_data_sets_are_whole():
    assert len(set(STORAGE_TRANSFER_SYNTAXES)) == len(STORAGE_TRANSFER_SYNTAXES)
    assert set(DEFAULT_TRANSFER_SYNTAXES) < set(STORAGE_TRANSFER_SYNTAXES)
    left_out = [TRANSFER_SYNTAXES[uid].name for uid in TRANSFER_SYNTAXES.keys() - set(STORAGE_TRANSFER_SYNTAXES)]
    assert all(name.startswith(("JPIP", "SMPTE", "XML", "RFC 2557", "Papyrus")) for name in left_out)


# Roles at the acceptor (PS3.7 D.3.3.4)


@pytest.mark.parametrize("asked_scu", [False, True])
@pytest.mark.parametrize("asked_scp", [False, True])
@pytest.mark.parametrize("own_scu", [None, False, True])
@pytest.mark.parametrize("own_scp", [None, False, True])
def test_a_role_is_granted_only_when_it_was_proposed_and_is_supported(asked_scu, asked_scp, own_scu, own_scp):
    role = RoleSelection(CT, asked_scu, asked_scp)
    negotiated = answer(proposal(CT), Context(CT, scu=own_scu, scp=own_scp), roles=[role])
    (granted,) = negotiated.roles
    assert granted == RoleSelection(CT, asked_scu and own_scp is not False, asked_scp and own_scu is True)
    context = negotiated.contexts[1]
    assert (context.scu, context.scp) == (granted.scp, granted.scu)


def test_role_selection_where_none_is_needed_changes_nothing():
    negotiated = answer(proposal(VERIFICATION), Context(VERIFICATION), roles=[RoleSelection(VERIFICATION, True, False)])
    assert negotiated.roles == (RoleSelection(VERIFICATION, scu=True, scp=False),)
    assert negotiated.contexts[1][3:] == (False, True)


def test_without_role_selection_the_requestor_is_the_scu_only():
    negotiated = answer(proposal(CT), Context(CT, scu=True, scp=True))
    assert negotiated.roles == ()
    assert negotiated.contexts[1][3:] == (False, True)


def test_a_role_for_a_class_that_was_refused_or_not_proposed_is_not_answered():
    roles = [RoleSelection(FIND, True, True), RoleSelection("1.2.3", True, True)]
    assert accept_contexts([proposal(FIND)], roles, policy(Context(CT))).roles == ()


def test_a_role_applies_to_every_context_of_its_class_and_is_answered_once():
    proposed = [proposal(CT, IMPLICIT, number=1), proposal(CT, EXPLICIT, number=3)]
    negotiated = accept_contexts(proposed, [RoleSelection(CT, False, True)], policy(Context(CT, scu=True)))
    assert negotiated.roles == (RoleSelection(CT, scu=False, scp=True),)
    assert [each[3:] for each in negotiated.contexts.values()] == [(True, False)] * 2


# SOP class extended negotiation at the acceptor (PS3.7 D.3.3.5)


def extended_answer(supported, *asked, accepted=FIND):
    extended = [ExtendedNegotiation(FIND, each) for each in asked]
    accepting = policy(Context(accepted, extended=supported))
    return tuple(each[1] for each in accept_contexts([proposal(FIND)], (), accepting, extended).extended)


@pytest.mark.parametrize(
    ("supported", "asked", "answered"),
    [
        pytest.param(b"\1\1", b"\1\1", b"\1\1", id="what is supported is accepted"),
        pytest.param(b"\1\0", b"\1\1", b"\1\0", id="what is not supported is declined"),
        pytest.param(b"\1\1", b"\0\1", b"\0\1", id="what was not asked for is not answered with 1"),
        pytest.param(b"\1\1\1", b"\1", b"\1", id="one byte is answered with one byte"),
        pytest.param(b"\1\1\1\1", b"\1\1\1", b"\1\1\1", id="three bytes are answered with three"),
        pytest.param(b"\1", b"\1\1\1\1\1\1\1", b"\1", id="bytes of later editions are left out"),
        pytest.param(b"\1", b"", b"", id="nothing is answered with nothing"),
    ],
)
def test_an_extension_is_answered_as_far_as_it_was_asked_and_is_supported(supported, asked, answered):
    assert extended_answer(supported, asked) == (answered,)


def test_an_acceptor_may_decide_about_an_extension_itself():
    assert extended_answer(lambda asked: bytes(reversed(asked)), b"\1\2\3") == (b"\3\2\1",)


def test_an_acceptor_that_knows_no_extension_does_not_answer():
    assert extended_answer(None, b"\1") == ()


def test_an_extension_is_never_answered_unprompted():
    assert extended_answer(b"\1\1") == ()


def test_an_extension_of_a_refused_or_unknown_class_is_not_answered():
    assert extended_answer(b"\1", b"\1", accepted=CT) == ()
    refused = accept_contexts(
        [proposal(FIND, JPEG)],
        (),
        policy(Context(FIND, extended=b"\1")),
        [ExtendedNegotiation(FIND, b"\1")],
    )
    assert refused.extended == ()


def test_an_extension_is_answered_once_for_each_class():
    proposed = [proposal(FIND), proposal(FIND, EXPLICIT, number=3), proposal(CT, number=5)]
    accepting = policy(Context(FIND, extended=b"\1"), Context(CT, extended=b"\2\0\0\0\1\0"))
    asked = [ExtendedNegotiation(FIND, b"\1\1"), ExtendedNegotiation(CT, b"\3\0\0\0\2\0")]
    assert accept_contexts(proposed, (), accepting, asked).extended == (
        ExtendedNegotiation(FIND, b"\1"),
        ExtendedNegotiation(CT, b"\2\0\0\0\1\0"),
    )


def test_storage_that_was_not_named_answers_no_extension():
    accepting = policy(any_storage=STORAGE_TRANSFER_SYNTAXES)
    assert accept_contexts([proposal(CT)], (), accepting, [ExtendedNegotiation(CT, b"\3")]).extended == ()


# The requestor


def test_contexts_are_numbered_with_the_odd_integers():
    proposed = propose_contexts([Context(CT)] * 128)
    assert [each.id for each in proposed] == list(range(1, 256, 2))
    assert proposed[0] == ProposedContext(1, CT, DEFAULT_TRANSFER_SYNTAXES)


@pytest.mark.parametrize("count", [0, 129])
def test_a_request_has_1_to_128_contexts(count):
    with pytest.raises(LocalProtocolError, match=f"got {count}"):
        propose_contexts([Context(CT)] * count)


def test_a_context_without_a_transfer_syntax_is_not_proposed():
    with pytest.raises(LocalProtocolError, match=CT):
        propose_contexts([Context(CT, ())])


@pytest.mark.parametrize(
    ("scu", "scp", "roles"),
    [
        (None, None, ()),
        (True, None, ()),
        (None, False, ()),
        (True, False, ()),
        (None, True, (RoleSelection(CT, scu=True, scp=True),)),
        (True, True, (RoleSelection(CT, scu=True, scp=True),)),
        (False, True, (RoleSelection(CT, scu=False, scp=True),)),
        (False, None, (RoleSelection(CT, scu=False, scp=False),)),
    ],
)
def test_roles_are_proposed_only_when_they_are_not_the_default(scu, scp, roles):
    assert proposed_roles([Context(CT, scu=scu, scp=scp)]) == roles


def test_a_class_gets_one_role_selection():
    assert len(proposed_roles([Context(CT, scp=True), Context(CT, (JPEG,), scp=True), Context(FIND)])) == 1


def test_bytes_are_proposed_once_for_each_class_and_functions_are_not():
    contexts = [Context(FIND, extended=b"\1"), Context(FIND, (JPEG,), extended=b"\1"), Context(CT), Context("1.2.3")]
    assert proposed_extended(contexts) == (ExtendedNegotiation(FIND, b"\1"),)
    assert proposed_extended([Context(CT, extended=b"")]) == (ExtendedNegotiation(CT, b""),)
    assert proposed_extended([Context(CT, extended=lambda asked: asked)]) == ()


def established(results, roles=(), granted=(), proposed=None, **options):
    return established_contexts(proposed or [proposal(CT, IMPLICIT, EXPLICIT)], roles, results, granted, **options)


def test_an_accepted_context_is_established():
    assert established([ContextResult(1, 0, EXPLICIT)]) == {
        1: PresentationContext(1, CT, EXPLICIT, scu=True, scp=False)
    }


@pytest.mark.parametrize("result", [1, 2, 3, 4, 5, 255])
def test_any_result_but_0_is_a_refusal(result):
    assert established([ContextResult(1, result, IMPLICIT)]) == {}


@pytest.mark.parametrize("number", [0, 2, 3, 255])
def test_a_result_for_a_context_that_was_not_proposed_is_ignored(number):
    assert established([ContextResult(number, 0, IMPLICIT)]) == {}


@pytest.mark.parametrize("syntax", ["", JPEG, "nonsense"])
def test_an_acceptance_with_a_syntax_that_was_not_proposed_is_ignored(syntax):
    assert established([ContextResult(1, 0, syntax)]) == {}


def test_results_may_come_in_any_order():
    proposed = [proposal(CT), proposal(FIND, number=3)]
    results = [ContextResult(3, 0, IMPLICIT), ContextResult(1, 0, IMPLICIT)]
    contexts = established(results, proposed=proposed)
    assert {number: each.abstract_syntax for number, each in contexts.items()} == {1: CT, 3: FIND}


def test_a_context_that_is_not_answered_is_not_established():
    assert established([]) == {}


every_row_of_the_matrix = pytest.mark.parametrize(
    "row",
    SERVICES["role_selection_rules"]["roles_matrix"],
    ids=lambda row: (
        f"SCU {row['rq_scu']} SCP {row['rq_scp']} answered {row['ac_scu']} {row['ac_scp']}: {row['requestor']}"
    ),
)


@every_row_of_the_matrix
def test_the_requestors_roles_follow_the_matrix(row):
    asked = RoleSelection(CT, scu=bool(row["rq_scu"]), scp=bool(row["rq_scp"]))
    granted = RoleSelection(CT, scu=bool(row["ac_scu"]), scp=bool(row["ac_scp"]))
    context = established([ContextResult(1, 0, IMPLICIT)], [asked], [granted])[1]
    expected = row["requestor"].split(":")[0]
    assert (context.scu, context.scp) == ("SCU" in expected, "SCP" in expected)


@every_row_of_the_matrix
def test_an_acceptor_answers_as_the_matrix_has_it(row):
    asked = RoleSelection(CT, scu=bool(row["rq_scu"]), scp=bool(row["rq_scp"]))
    # What the acceptor supports is what it would grant: its own SCP role is the requestor's SCU role.
    own = Context(CT, scu=bool(row["ac_scp"]), scp=bool(row["ac_scu"]))
    negotiated = answer(proposal(CT), own, roles=[asked])
    assert negotiated.roles == (RoleSelection(CT, scu=bool(row["ac_scu"]), scp=bool(row["ac_scp"])),)
    context = negotiated.contexts[1]
    assert (context.scp, context.scu) == (bool(row["ac_scu"]), bool(row["ac_scp"]))


def test_a_role_that_was_not_proposed_is_not_granted():
    context = established([ContextResult(1, 0, IMPLICIT)], [], [RoleSelection(CT, scu=True, scp=True)])[1]
    assert (context.scu, context.scp) == (True, False)
    asked = [RoleSelection(CT, scu=True, scp=False)]
    context = established([ContextResult(1, 0, IMPLICIT)], asked, [RoleSelection(CT, scu=True, scp=True)])[1]
    assert (context.scu, context.scp) == (True, False)


def test_a_role_selection_that_is_not_answered_leaves_the_default_roles():
    context = established([ContextResult(1, 0, IMPLICIT)], [RoleSelection(CT, scu=True, scp=True)])[1]
    assert (context.scu, context.scp) == (True, False)


@pytest.mark.parametrize(("scu", "scp"), [(True, True), (False, True)])
def test_a_role_selection_that_is_not_answered_may_be_assumed_to_be_granted(scu, scp):
    asked = [RoleSelection(CT, scu, scp)]
    context = established([ContextResult(1, 0, IMPLICIT)], asked, assume_roles=True)[1]
    assert (context.scu, context.scp) == (scu, scp)


def test_nothing_is_assumed_against_an_answer_or_without_a_proposal():
    accepted = [ContextResult(1, 0, IMPLICIT)]
    asked, granted = RoleSelection(CT, scu=True, scp=True), RoleSelection(CT, scu=True, scp=False)
    assert established(accepted, [asked], [granted], assume_roles=True)[1][3:] == (True, False)
    assert established(accepted, [], [asked], assume_roles=True)[1][3:] == (True, False)
    assert established(accepted, assume_roles=True)[1][3:] == (True, False)


# Properties

syntaxes = st.lists(st.sampled_from((IMPLICIT, EXPLICIT, JPEG)), max_size=3, unique=True).map(tuple)
classes = st.sampled_from((CT, FIND, VERIFICATION))
maybe = st.sampled_from((None, False, True))
proposals = st.lists(
    st.builds(ProposedContext, st.integers(0, 127).map(lambda each: 2 * each + 1), classes, syntaxes),
    max_size=8,
    unique_by=lambda each: each.id,
)
roles = st.lists(
    st.builds(RoleSelection, classes, st.booleans(), st.booleans()), max_size=3, unique_by=lambda each: each[0]
)
policies = st.lists(st.builds(Context, classes, syntaxes, maybe, maybe), max_size=3).map(lambda each: policy(*each))


@given(proposals, roles, policies)
def test_every_proposal_is_answered_once_and_both_sides_agree_on_what_it_means(proposed, asked, accepting):
    negotiated = accept_contexts(proposed, asked, accepting)
    assert [each.id for each in negotiated.results] == [each.id for each in proposed]
    ours = established_contexts(proposed, asked, negotiated.results, negotiated.roles)
    assert ours.keys() == negotiated.contexts.keys()
    for number, context in ours.items():
        theirs = negotiated.contexts[number]
        assert context[:3] == theirs[:3]
        assert context.scp is theirs.scu
        # Only an acceptor that refuses the default role without having been asked knows more than its requestor.
        assert context.scu is theirs.scp or not any(role[0] == context.abstract_syntax for role in asked)


offers = st.lists(st.builds(ExtendedNegotiation, classes, st.binary(max_size=4)), max_size=3, unique_by=lambda x: x[0])
supports = st.lists(st.builds(Context, classes, syntaxes, extended=st.none() | st.binary(max_size=4)), max_size=3)


@given(proposals, offers, supports)
def test_an_extension_is_never_answered_with_more_than_was_asked(proposed, asked, supported):
    negotiated = accept_contexts(proposed, (), policy(*supported), asked)
    asked = dict(asked)
    for uid, information in negotiated.extended:
        assert len(information) <= len(asked[uid])
        assert all(answered <= wanted for answered, wanted in zip(information, asked[uid], strict=False))
        assert uid in {context.abstract_syntax for context in negotiated.contexts.values()}


# Contexts as users write them


@pytest.mark.parametrize("given", [CT, Context(CT), [CT], (Context(CT),), {CT: 1}])
def test_contexts_may_be_one_or_several_and_uids_stand_for_themselves(given):
    assert as_contexts(given) == [Context(CT)]


def test_one_transfer_syntax_may_stand_for_a_list_of_it():
    assert as_contexts(Context(CT, IMPLICIT)) == [Context(CT, (IMPLICIT,))]


@pytest.mark.parametrize(
    "name",
    [
        "CT Image Storage",
        "ct image storage",
        "CTImageStorage",
        "CT Image Storage SOP Class",
    ],
)
def test_a_sop_class_may_be_named_as_ps3_6_names_it(name):
    assert as_contexts(name) == as_contexts([name]) == [Context(CT)]


@pytest.mark.parametrize("name", SERVICE_CLASSES)
def test_a_service_class_stands_for_all_its_sop_classes(name):
    assert as_contexts(name) == [Context(uid) for uid in SERVICE_CLASSES[name]]


def test_a_context_may_have_a_name_for_its_abstract_syntax_and_keeps_the_rest():
    given = Context("study root", [IMPLICIT], scp=True, extended=b"\1")
    made = [Context(uid, (IMPLICIT,), scp=True, extended=b"\1") for uid in SERVICE_CLASSES["study root"]]
    assert as_contexts(given) == made


def test_names_and_contexts_and_lists_of_them_may_be_mixed():
    given = ["verification", (Context(CT, (JPEG,)), "modality worklist"), iter([CT])]
    assert as_contexts(given) == [
        Context(VERIFICATION),
        Context(CT, (JPEG,)),
        Context("1.2.840.10008.5.1.4.31"),
        Context(CT),
    ]


@pytest.mark.parametrize("given", ["study rot", ["study rot"], Context("study rot"), [["1.2.3", "study rot"]]])
def test_a_name_that_is_unknown_is_refused_with_one_that_comes_near(given):
    with pytest.raises(LocalProtocolError, match=r"'study rot'; did you mean 'study root'\?"):
        as_contexts(given)
