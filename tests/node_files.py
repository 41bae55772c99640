"""Instances and worklist entries for the tests of a node, as files."""

from pydicom import Dataset
from pydicom.uid import generate_uid

import asyncdicom
from asyncdicom.instances import encode

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

NASTY = {
    "wild": {"PatientID": "a*b?", "PatientName": "Star*^Ques?tion"},
    "quotes": {"PatientID": "'\"`", "PatientName": 'O\'Hara^"Bob"'},
    "sql": {"PatientID": "'; DROP TABLE instances; --", "PatientName": "1' OR '1'='1"},
    "like": {"PatientID": "50%_[a-z]", "PatientName": "Per%cent^Under_score"},
    "utf8": {"PatientID": "ä-山-я", "PatientName": "Müller^Jürgen=山田^太郎", "SpecificCharacterSet": "ISO_IR 192"},
    "latin": {"PatientID": "Ø1", "PatientName": "Äneas^Rüdiger", "SpecificCharacterSet": "ISO_IR 100"},
    "japanese": {
        "PatientID": "J1",
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
    },
    "empty": {"PatientID": "", "PatientName": ""},
}
"""Patients whose values mean something to those that are not careful; by the Study ID of their only study."""


def make(number=1, *, study="1.2.3", series="1", sop_class=CT, **elements):
    """A small instance as a data set; its UIDs come of the numbers unless they are given."""
    made = Dataset()
    for keyword, value in {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": f"{study}.{series}.{number}",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.{series}",
        "PatientID": "P1",
        "PatientName": "Doe^John",
        "StudyDate": "20200110",
        "StudyTime": "101500",
        "AccessionNumber": "",
        "StudyID": "S1",
        "Modality": "CT",
        "SeriesNumber": series,
        "InstanceNumber": str(number),
        **elements,
    }.items():
        setattr(made, keyword, value)
    return made


def write(path, data_set, syntax=EXPLICIT):
    """The data set as a file; in the folder, if the path is one, with its UID as the name."""
    if path.is_dir():
        path /= f"{data_set.SOPInstanceUID}.dcm"
    meta = asyncdicom.FileMeta(data_set.SOPClassUID, data_set.SOPInstanceUID, syntax)
    path.write_bytes(meta.encode() + encode(data_set, syntax))
    return path


def write_nasty(folder):
    """The nasty patients as files, a study of one instance each."""
    for number, (name, patient) in enumerate(NASTY.items()):
        write(folder, make(study=f"1.2.9.{number}", StudyID=name, **patient))


def scheduled(number=1, *, modality="CT", date="20200110", time="1015", title="STATION", **elements):
    """A worklist entry with one Scheduled Procedure Step."""
    step, entry = Dataset(), Dataset()
    step.Modality = modality
    step.ScheduledStationAETitle = title
    step.ScheduledProcedureStepStartDate = date
    step.ScheduledProcedureStepStartTime = time
    step.ScheduledProcedureStepID = f"SPS{number}"
    for keyword, value in {
        "PatientName": "Doe^John",
        "PatientID": f"P{number}",
        "AccessionNumber": f"A{number}",
        "StudyInstanceUID": f"1.2.5.{number}",
        "RequestedProcedureID": f"RP{number}",
        "RequestedProcedureDescription": "procedure",
        **elements,
    }.items():
        setattr(entry, keyword, value)
    entry.ScheduledProcedureStepSequence = [step]
    return entry


def write_entry(path, entry):
    """A worklist entry as a file."""
    meta = asyncdicom.FileMeta("1.2.276.0.7230010.3.1.0.1", generate_uid(), EXPLICIT)
    path.write_bytes(meta.encode() + encode(entry, EXPLICIT))
    return path
