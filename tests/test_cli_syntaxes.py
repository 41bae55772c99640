import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom import Instance, split_by_contexts
from asyncdicom.cli import storescp, storescu
from asyncdicom.cli.options import parse
from asyncdicom.cli.syntaxes import Proposal
from asyncdicom.uids import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
LOSSLESS, BASELINE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50"
LETTERS = ["s", "y", "x", "v", "w", "t", "u", "m", "h", "n", "l", "2", "3", "o", "4", "5", "r", "d"]


def proposed(line, *needs):
    options = storescu.StoreOptions(**parse(storescu.TOOL, line.split()).fields)
    return [
        tuple(each[:2]) for each in options.proposal.contexts([Instance(uid, "1.2.3", syntax) for uid, syntax in needs])
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", [(CT, (EXPLICIT,)), (CT, (IMPLICIT,))]),
        ("-x=", [(CT, (EXPLICIT,)), (CT, (BIG, IMPLICIT))]),
        ("-xb", [(CT, (EXPLICIT,)), (CT, (BIG, IMPLICIT))]),
        ("-xi", [(CT, (IMPLICIT,))]),
        ("-xs", [(CT, (EXPLICIT,)), (CT, (LOSSLESS,)), (CT, (IMPLICIT,))]),
        ("-xs -xi", [(CT, (LOSSLESS,)), (CT, (IMPLICIT,))]),
        ("-R", [(CT, (EXPLICIT,))]),
        ("-R -xs -xi", [(CT, (EXPLICIT,))]),
        ("+C", [(CT, (EXPLICIT, IMPLICIT))]),
        ("+C -xs", [(CT, (EXPLICIT, LOSSLESS, IMPLICIT))]),
    ],
)
def test_flags_say_what_is_proposed_beside_what_the_files_need(line, expected):
    assert proposed(line, (CT, EXPLICIT)) == expected


def test_a_compressed_file_keeps_its_context_whatever_the_flags():
    assert proposed("-xi", (CT, BASELINE)) == [(CT, (BASELINE,)), (CT, (IMPLICIT,))]
    assert proposed("-xy", (CT, BASELINE)) == [(CT, (BASELINE,)), (CT, (EXPLICIT, IMPLICIT))]


def test_every_sop_class_gets_what_the_flags_add():
    contexts = proposed("-xs", (CT, EXPLICIT), (MR, LOSSLESS))
    assert [syntaxes for sop_class, syntaxes in contexts if sop_class == MR] == [(LOSSLESS,), (EXPLICIT, IMPLICIT)]


@pytest.mark.parametrize("letter", LETTERS)
def test_a_letter_means_the_same_to_sender_and_receiver(letter):
    (uid,) = parse(storescu.TOOL, [f"-x{letter}"]).fields["also"]
    accepted = parse(storescp.TOOL, [f"+x{letter}"]).fields["accepted"]
    assert accepted == (uid, EXPLICIT, IMPLICIT, BIG)
    assert uid in TRANSFER_SYNTAXES


pairs = st.tuples(st.sampled_from(sorted(STORAGE_SOP_CLASSES)), st.sampled_from(sorted(TRANSFER_SYNTAXES)))


@given(
    st.lists(pairs, min_size=1, max_size=400),
    st.lists(st.sampled_from(sorted(TRANSFER_SYNTAXES)), max_size=18, unique=True),
    st.booleans(),
    st.booleans(),
)
def test_no_group_takes_more_than_128_contexts(needs, also, only_required, combine):
    proposal = Proposal((EXPLICIT, BIG, IMPLICIT), tuple(also), only_required, combine)
    instances = [Instance(uid, "1.2.3", syntax) for uid, syntax in needs]
    groups = split_by_contexts(instances, only_required=only_required, limit=proposal.limit)
    assert [each for group in groups for each in group] == instances
    assert all(0 < len(proposal.contexts(group)) <= 128 for group in groups)
