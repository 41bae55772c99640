import sqlite3
from datetime import datetime
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword

from asyncdicom.elements import implicit_element
from asyncdicom.services.matching import Matcher, _Wild, column_text, matches, response, values_of

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
"""pydicom says so of wild cards and ranges where it does not expect them."""


def data_set(**elements):
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def found(key, value, keyword="PatientID", **options):
    return matches(data_set(**{keyword: key}), data_set(**{keyword: value}), **options)


def read(values):
    """A data set as it comes from a peer, in Implicit VR, whatever its values are."""
    data = b"".join(implicit_element(tag_for_keyword(keyword), value) for keyword, value in values.items())
    return dcmread(BytesIO(data), force=True)


def item(**elements):
    return [data_set(**elements)]


# C.2.2.2.1 Single Value Matching


def test_a_single_value_matches_itself_and_nothing_else():
    assert found("ID1", "ID1")
    assert not found("ID1", "ID12")


def test_a_single_value_is_sensitive_to_case():
    assert not found("id1", "ID1")


def test_padding_is_no_part_of_a_value():
    assert found("ID1 ", " ID1")


def test_a_single_value_matches_any_of_several():
    assert found("CT", ["MR", "CT"], "ModalitiesInStudy")
    assert not found("CT", ["MR", "US"], "ModalitiesInStudy")


def test_numbers_are_compared_as_numbers():
    assert found("007", "7", "InstanceNumber")
    assert found(2, 2, "NumberOfFrames")
    assert not found(2, 3, "Rows")


def test_what_has_no_value_matches_no_value():
    assert not found("ID1", "")
    assert not matches(data_set(PatientID="ID1"), Dataset())


def test_all_keys_have_to_match():
    candidate = data_set(PatientID="1", PatientSex="F")
    assert matches(data_set(PatientID="1", PatientSex="F"), candidate)
    assert not matches(data_set(PatientID="1", PatientSex="M"), candidate)


def test_a_value_that_pydicom_cannot_convert_is_compared_as_text():
    candidate = read({"InstanceNumber": b"x1"})
    assert matches(candidate, candidate)
    assert not matches(candidate, data_set(InstanceNumber="1"))


# Names


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("doe^john", "DOE^JOHN"),
        ("DOE^JOHN", "Doe^John^^^"),
        ("DOE^JOHN^^", "DOE^JOHN"),
        ("DOE*", "Doe^John"),
        ("DOE^*", "DOE"),
        ("*^*^^^", "DOE"),
        ("*^J?HN", "Doe^John"),
        ("*", "DOE"),
        ("MÜLLER*", "Müller^Jürgen"),
        ("Yamada^Tarou", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("Yamada*=山田*", "Yamada^Tarou=山田^太郎"),
        ("*=*=*", "Doe"),
    ],
)
def test_a_name_is_found(key, name):
    assert found(key, name, "PatientName")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("DOE", "DOE^JOHN"),
        ("DOE^J", "DOE^JOHN"),
        ("*^J?HN", "Doe^Jon"),
        ("Yamada*=鈴木*", "Yamada^Tarou=山田^太郎"),
        ("=山田", "Yamada"),
    ],
)
def test_a_name_is_not_found(key, name):
    assert not found(key, name, "PatientName")


def test_names_may_be_matched_with_regard_to_case():
    assert not found("doe*", "DOE^JOHN", "PatientName", case_sensitive_names=True)
    assert found("DOE*", "DOE^JOHN", "PatientName", case_sensitive_names=True)


# C.2.2.2.2 List of UID Matching


def test_a_list_of_uids_matches_each_of_them():
    assert found(["1.2.3", "1.2.4"], "1.2.4", "StudyInstanceUID")
    assert not found(["1.2.3", "1.2.4"], "1.2.5", "StudyInstanceUID")


def test_uids_have_no_wild_cards():
    assert not found("1.2.*", "1.2.3", "StudyInstanceUID")


# C.2.2.2.3 Universal Matching


def test_an_empty_key_matches_everything():
    assert found("", "ID1")
    assert matches(data_set(PatientID="", InstanceNumber=None, StudyDate=""), Dataset())


def test_a_star_alone_matches_everything():
    assert matches(data_set(PatientID="*"), Dataset())
    assert matches(data_set(PatientID="**"), data_set(PatientID=""))


def test_a_star_alone_matches_everything_where_it_is_no_wild_card_too():
    assert matches(data_set(StudyDate="*", StudyInstanceUID="*"), Dataset())
    assert matches(read({"InstanceNumber": b"* "}), Dataset())


def test_an_empty_identifier_is_universal():
    assert Matcher(Dataset()).is_universal
    assert Matcher(data_set(PatientID="", ScheduledProcedureStepSequence=item(Modality=""))).is_universal
    assert not Matcher(data_set(ScheduledProcedureStepSequence=item(Modality="CT"))).is_universal


# C.2.2.2.4 Wild Card Matching


@pytest.mark.parametrize("key", ["ID*", "*1", "I?1", "*D*", "ID1*", "???", "*?*"])
def test_wild_cards_stand_for_characters(key):
    assert found(key, "ID1")


@pytest.mark.parametrize("key", ["D*", "*2", "ID?1", "????", "ID1?", "id*"])
def test_wild_cards_do_not_stand_for_more(key):
    assert not found(key, "ID1")


def test_a_question_mark_does_not_match_an_empty_value():
    assert not found("?", "")


def test_characters_that_mean_something_elsewhere_are_themselves():
    for value in ("[a]", "a_b%", "a.b", "'; DROP TABLE patients; --", 'say "x"', "a+b|c"):
        assert found(f"{value[:-1]}?", value)
        assert not found(f"{value[:-1]}?", f"{value}x")


wild_texts = st.text("ab", max_size=12)
patterns = st.text("ab*?", max_size=12)


def naive(pattern, text):
    """The definition itself, with all its ways."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and naive(pattern[1:], text[1:])


@given(patterns, wild_texts)
def test_wild_cards_mean_what_their_definition_says(pattern, text):
    assert _Wild(pattern)(text) == naive(pattern, text)


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*a*a*a*b", "*?a*?a*?a*?b", "*" * 500 + "b", "a?" * 250 + "*b"])
def test_each_character_is_looked_at_once(pattern):
    looked_at = 0

    class Counted(str):
        __slots__ = ()

        def __iter__(self):
            nonlocal looked_at
            for char in str(self):
                looked_at += 1
                yield char

    for length in (1_000, 10_000):
        looked_at = 0
        assert not _Wild(pattern)(Counted("a" * length))
        assert looked_at <= length


@pytest.mark.filterwarnings("ignore:The PN component length:UserWarning")
@pytest.mark.parametrize("keyword", ["TextValue", "PatientName", "PatientComments"])
def test_a_key_of_many_characters_with_wild_cards_is_refused(keyword):
    with pytest.raises(ValueError, match=f"{keyword}: .* 1024 characters, got 1025"):
        Matcher(data_set(**{keyword: "*" + "a" * 1024}))


def test_a_key_of_very_many_characters_is_refused_before_anything_is_made_of_it():
    for pattern in ("a*" * 500_000, "".join(map(chr, range(0x4E00, 0x9000))) * 10 + "*"):
        with pytest.raises(ValueError, match="1024 characters"):
            Matcher(data_set(TextValue=pattern))


def test_many_values_without_wild_cards_may_be_longer():
    many = [f"P{number}" for number in range(10_000)]
    assert found([*many, "Q*"], "P9999", "OtherPatientIDs")
    assert found([*many, "Q*"], "Q1", "OtherPatientIDs")
    assert not found([*many, "Q*"], "R1", "OtherPatientIDs")


# C.2.2.2.5 Range Matching


@pytest.mark.parametrize(
    ("keyword", "key", "inside", "outside"),
    [
        ("StudyDate", "20200110-20200120", ["20200110", "20200115", "20200120"], ["20200109", "20200121", ""]),
        ("StudyDate", "-20200120", ["19000101", "20200120"], ["20200121", ""]),
        ("StudyDate", "20200110-", ["20200110", "20991231"], ["20200109", ""]),
        ("StudyDate", "20200110 - 20200120", ["20200115"], ["20200121"]),
        ("StudyDate", "20200110", ["20200110"], ["20200111"]),
        ("StudyTime", "1000-1130", ["100000", "10", "113059.999999"], ["095959.999999", "1131"]),
        ("StudyTime", "-10", ["00", "105959.5"], ["11"]),
        ("StudyTime", "103000.5-", ["103000.500", "23"], ["103000.4", "1030"]),
        ("StudyTime", "10", ["10", "1030"], ["09", "11"]),
        ("AcquisitionDateTime", "20200110-20200120", ["20200110000000", "20200120235959.9"], ["20200121"]),
        ("AcquisitionDateTime", "202002-", ["20200201", "20200229"], ["20200131235959"]),
        ("AcquisitionDateTime", "-202002", ["2020022923"], ["20200301"]),
        ("AcquisitionDateTime", "2020", ["20200615"], ["2021"]),
    ],
)
def test_a_range_includes_its_ends(keyword, key, inside, outside):
    for value in inside:
        assert found(key, value, keyword), value
    for value in outside:
        assert not found(key, value, keyword), value


def test_dates_and_times_of_old_are_understood():
    assert found("2020.01.10-2020.01.20", "20200115", "StudyDate")
    assert found("10:30-11:30", "110000", "StudyTime")
    assert found("20200110-20200120", "2020.01.15", "StudyDate")


@pytest.mark.parametrize(
    ("key", "value", "is_found"),
    [
        ("20200110120000+0100", "20200110110000+0000", True),
        ("20200110120000+0100", "20200110120000+0000", False),
        ("20200110120000-0500-20200110130000-0500", "20200110173000+0000", True),
        ("20200110120000-0500-", "20200110165959+0000", False),
        ("-20200110120000-0500", "20200110170000+0000", True),
        ("2019-2020", "20200601", True),
        ("20200110120000+0100", "20200110120000", True),  # nobody knows the candidate's
    ],
)
def test_offsets_from_utc_are_taken_into_account(key, value, is_found):
    assert found(key, value, "AcquisitionDateTime") == is_found


def test_timezone_offset_from_utc_is_that_of_all_moments():
    key = data_set(AcquisitionDateTime="20200110120000-", TimezoneOffsetFromUTC="+0100")
    early = data_set(AcquisitionDateTime="20200110110000", TimezoneOffsetFromUTC="+0100")
    late = data_set(AcquisitionDateTime="20200110110000", TimezoneOffsetFromUTC="+0000")
    assert not matches(key, early)
    assert matches(key, late)


def test_timezone_offset_from_utc_is_no_key():
    assert found("+0100", "+0200", "TimezoneOffsetFromUTC")


def test_date_and_time_are_separate_unless_negotiated():
    key = data_set(StudyDate="20200110-20200112", StudyTime="12-13")
    afternoon = data_set(StudyDate="20200111", StudyTime="18")
    assert not matches(key, afternoon)
    assert matches(key, afternoon, combined_datetime=True)


@pytest.mark.parametrize(
    ("date", "time", "inside", "outside"),
    [
        ("20200110-20200112", "12-13", ["20200110 12", "20200111 00", "20200112 1330"], ["20200110 11", "20200112 14"]),
        ("20200110-", "12-", ["20200110 12", "20200111 01"], ["20200110 11"]),
        ("-20200112", "-13", ["20200112 13", "20190101 23"], ["20200112 14"]),
        ("20200110", "12-13", ["20200110 1230"], ["20200110 14", "20200111 12"]),
        ("20200110-20200112", "12", ["20200111 12"], ["20200111 13"]),
    ],
)
def test_a_date_and_its_time_may_be_one_range(date, time, inside, outside):
    matcher = Matcher(data_set(StudyDate=date, StudyTime=time), combined_datetime=True)
    for moment in inside:
        assert matcher.matches(data_set(StudyDate=moment.split()[0], StudyTime=moment.split()[1])), moment
    for moment in outside:
        assert not matcher.matches(data_set(StudyDate=moment.split()[0], StudyTime=moment.split()[1])), moment
    assert not matcher.matches(data_set(StudyTime="12"))


def test_a_date_and_its_time_are_compared_in_utc_where_both_say_their_offset():
    key = data_set(StudyDate="20200110-20200110", StudyTime="2330-2359", TimezoneOffsetFromUTC="+0000")
    candidate = data_set(StudyDate="20200111", StudyTime="0045", TimezoneOffsetFromUTC="+0100")
    assert matches(key, candidate, combined_datetime=True)


@pytest.mark.parametrize(("keyword", "key"), [("StudyDate", "TODAY"), ("StudyTime", "10-x"), ("StudyDate", "20201301")])
def test_what_is_no_date_or_time_is_refused(keyword, key):
    with pytest.raises(ValueError, match=f"{keyword}: the key is no value") as caught:
        Matcher(data_set(**{keyword: key}))
    assert key not in str(caught.value)


moments = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001 - they are local


@given(moments, moments, moments)
def test_ranges_are_as_the_calendar_has_them(first, last, moment):
    def text(when):
        return when.strftime("%Y%m%d%H%M%S.%f")

    assert found(f"{text(first)}-{text(last)}", text(moment), "AcquisitionDateTime") == (first <= moment <= last)


# C.2.2.2.6 Sequence Matching


def test_an_item_has_to_match_all_keys_of_the_item():
    steps = [data_set(Modality="CT", ScheduledStationAETitle="A"), data_set(Modality="MR", ScheduledStationAETitle="B")]
    candidate = data_set(ScheduledProcedureStepSequence=steps)
    key = data_set(ScheduledProcedureStepSequence=item(Modality="CT", ScheduledStationAETitle="A"))
    assert matches(key, candidate)
    key = data_set(ScheduledProcedureStepSequence=item(Modality="CT", ScheduledStationAETitle="B"))
    assert not matches(key, candidate)


def test_sequences_within_sequences_match():
    code = item(CodeValue="1", CodeMeaning="one")
    candidate = data_set(ScheduledProcedureStepSequence=item(ScheduledProtocolCodeSequence=code))
    key = data_set(ScheduledProcedureStepSequence=item(ScheduledProtocolCodeSequence=item(CodeValue="1")))
    assert matches(key, candidate)
    key = data_set(ScheduledProcedureStepSequence=item(ScheduledProtocolCodeSequence=item(CodeValue="2")))
    assert not matches(key, candidate)


@pytest.mark.parametrize("key", [[], [Dataset()], item(Modality="")])
def test_an_empty_sequence_matches_everything(key):
    assert matches(data_set(ScheduledProcedureStepSequence=key), Dataset())


def test_a_sequence_of_several_items_is_refused():
    with pytest.raises(ValueError, match="ScheduledProcedureStepSequence: a key has one item, got 2"):
        Matcher(data_set(ScheduledProcedureStepSequence=item(Modality="CT") * 2))


# C.2.2.2.7, C.2.2.2.8


def test_two_quotation_marks_find_what_is_empty_if_negotiated():
    assert found('""', "", empty_values=True)
    assert matches(data_set(PatientID='""'), Dataset(), empty_values=True)
    assert not found('""', "ID1", empty_values=True)
    assert not found('""', "")


def test_several_values_find_any_of_them_or_all_if_negotiated():
    key = ["CT", "PT"]
    assert found(key, ["MR", "CT"], "ModalitiesInStudy")
    assert not found(key, ["MR", "CT"], "ModalitiesInStudy", multiple_values=True)
    assert found(key, ["PT", "MR", "CT"], "ModalitiesInStudy", multiple_values=True)
    assert not found(key, "US", "ModalitiesInStudy")


# What is no key


def test_specific_character_set_is_no_key():
    assert found("ISO_IR 192", "ISO_IR 100", "SpecificCharacterSet")
    assert matches(data_set(SpecificCharacterSet="ISO_IR 192"), Dataset())


def test_the_level_group_lengths_and_private_creators_are_no_keys():
    identifier = data_set(QueryRetrieveLevel="STUDY")
    identifier.add_new(0x00100000, "UL", 20)
    identifier.add_new(0x00090010, "LO", "SOMEBODY")
    assert matches(identifier, Dataset())


def test_keys_that_are_not_supported_find_everything():
    matcher = Matcher(
        data_set(PatientID="1", StudyID="2", ReferencedStudySequence=item(StudyID="3")), supported=[0x00100020]
    )
    assert matcher.matches(data_set(PatientID="1"))
    assert not matcher.matches(data_set(PatientID="2"))
    answer = matcher.response(data_set(PatientID="1"))
    assert [element.value for element in answer] == [[], "1", None]


def test_a_name_in_another_character_set_is_found():
    stored = Dataset.from_json('{"00080005": {"vr": "CS", "Value": ["ISO 2022 IR 6", "ISO 2022 IR 87"]}}')
    stored.PatientName = "Yamada^Tarou=山田^太郎"
    key = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="*=山*")
    assert matches(key, stored)


# Responses (C.2.2.3)


def test_a_response_has_what_was_asked_for_and_nothing_else():
    answer = response(
        data_set(PatientID="", PatientName="", QueryRetrieveLevel="STUDY"), data_set(PatientID="1", Rows=2)
    )
    assert (answer.PatientID, answer.PatientName, answer.QueryRetrieveLevel) == ("1", None, "STUDY")
    assert len(answer) == 3


def test_a_response_has_all_values_of_an_element():
    assert response(data_set(ModalitiesInStudy="CT"), data_set(ModalitiesInStudy=["CT", "MR"])).ModalitiesInStudy == [
        "CT",
        "MR",
    ]


def test_a_response_is_in_the_candidates_character_set():
    identifier = data_set(SpecificCharacterSet="ISO_IR 192", PatientID="")
    assert response(identifier, data_set(SpecificCharacterSet="ISO_IR 100")).SpecificCharacterSet == "ISO_IR 100"
    assert "SpecificCharacterSet" not in response(identifier, Dataset())


def test_a_response_has_the_items_that_match_with_what_was_asked_for():
    steps = [data_set(Modality="CT", ScheduledStationAETitle="A"), data_set(Modality="MR", ScheduledStationAETitle="B")]
    candidate = data_set(ScheduledProcedureStepSequence=steps)
    answer = response(data_set(ScheduledProcedureStepSequence=item(Modality="MR")), candidate)
    assert list(answer.ScheduledProcedureStepSequence) == item(Modality="MR")


@pytest.mark.parametrize("key", [[], [Dataset()]])
def test_a_response_has_a_whole_sequence_of_which_nothing_was_asked(key):
    candidate = data_set(ScheduledProcedureStepSequence=item(Modality="MR", ScheduledStationAETitle="B"))
    answer = response(data_set(ScheduledProcedureStepSequence=key), candidate)
    assert answer == candidate
    assert list(response(data_set(ScheduledProcedureStepSequence=key), Dataset()).ScheduledProcedureStepSequence) == []


def test_group_lengths_are_not_answered():
    identifier = data_set(PatientID="")
    identifier.add_new(0x00100000, "UL", 20)
    assert response(identifier, identifier) == data_set(PatientID="")


# SQL


TAGS = {
    0x00100020: "id",
    0x00100010: "name",
    0x00080020: "date",
    0x00080030: "time",
    0x0020000D: "uid",
    0x00080061: "m",
}
candidates = st.fixed_dictionaries(
    {},
    optional={
        "PatientID": st.sampled_from(["", "a", "A", "a*", "[a]", "'; DROP TABLE t; --", "山", "a b"]),
        "PatientName": st.sampled_from(["", "A^B", "a^b", "C=D"]),
        "StudyDate": st.sampled_from(["", "2020", "20200110", "20200111", "20210101"]),
        "StudyTime": st.sampled_from(["", "10", "1030", "103000", "103000.5", "12"]),
        "StudyInstanceUID": st.sampled_from(["1.2", "1.3", "1.4"]),
        "ModalitiesInStudy": st.sampled_from(["", "CT", ["CT", "MR"], ["MR", "US"]]),
    },
)
identifiers = st.fixed_dictionaries(
    {},
    optional={
        "PatientID": st.sampled_from(["", "a", "A", "?*", "[a]", "'; DROP TABLE t; --", "山"]),
        "PatientName": st.sampled_from(["", "a*", "A^B"]),
        "StudyDate": st.sampled_from(["", "20200110", "2020", "20200110-", "-2020", "20200110-20200111"]),
        "StudyTime": st.sampled_from(["", "10", "1030-", "-10", "1030-1230", "103000.5"]),
        "StudyInstanceUID": st.sampled_from(["", "1.2", ["1.2", "1.4"]]),
        "ModalitiesInStudy": st.sampled_from(["", "CT", ["CT", "US"]]),
    },
)


@given(identifiers, st.lists(candidates, max_size=8), st.booleans())
def test_what_matches_fulfils_the_conditions(identifier, rows, together):
    matcher = Matcher(data_set(**identifier), combined_datetime=together, multiple_values=together)
    conditions, parameters = matcher.conditions(TAGS)
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE TABLE t (number, {', '.join(TAGS.values())})")
    sets = [data_set(**row) for row in rows]
    for number, row in enumerate(sets):
        values = [column_text(*values_of(row, tag)) for tag in TAGS]
        database.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)", [number, *values])
    where = " AND ".join(conditions) or "1"
    selected = {number for (number,) in database.execute(f"SELECT number FROM t WHERE {where}", parameters)}
    assert {number for number, row in enumerate(sets) if matcher.matches(row)} <= selected
    database.close()


def test_uids_texts_dates_and_times_become_conditions():
    matcher = Matcher(
        data_set(
            StudyInstanceUID=["1.2", "1.3"], PatientID="a", StudyDate="2020-2021", StudyTime="-10", PatientName="A"
        )
    )
    conditions, parameters = matcher.conditions(TAGS)
    assert len(conditions) == 4  # names are matched in Python
    assert sorted(parameters) == sorted(['["a"]', '["1.2", "1.3"]', "2021:", "2020", "2020", "10:", "", ""])


def test_no_value_stands_in_a_condition():
    hostile = "'; DROP TABLE t; --"
    conditions, parameters = Matcher(data_set(PatientID=hostile)).conditions(TAGS)
    assert all(hostile not in condition for condition in conditions)
    assert parameters == [f'["{hostile}"]']


def test_only_what_has_a_column_becomes_a_condition():
    assert Matcher(data_set(PatientID="1")).conditions({}) == ([], [])
