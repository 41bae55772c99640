"""Names and UIDs of PS3.6 annex A, and the service classes of PS3.4 that they belong to. Data, and look-ups in it.

The registry is that of the 2024 edition; a test compares it with the one of the installed pydicom.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from .errors import LocalProtocolError

__all__ = [
    "APPLICATION_CONTEXT",
    "CONTEXTS_FOR",
    "DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN",
    "EXPLICIT_VR_BIG_ENDIAN",
    "EXPLICIT_VR_LITTLE_ENDIAN",
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "IMPLICIT_VR_LITTLE_ENDIAN",
    "INSTANCE_AVAILABILITY_NOTIFICATION",
    "META_SOP_CLASSES",
    "MODALITY_PERFORMED_PROCEDURE_STEP",
    "MODALITY_WORKLIST_FIND",
    "PATIENT_ROOT_FIND",
    "PATIENT_ROOT_GET",
    "PATIENT_ROOT_MOVE",
    "SERVICE_CLASSES",
    "SOP_CLASSES",
    "STORAGE_COMMITMENT_PUSH_MODEL",
    "STORAGE_SOP_CLASSES",
    "STUDY_ROOT_FIND",
    "STUDY_ROOT_GET",
    "STUDY_ROOT_MOVE",
    "TRANSFER_SYNTAXES",
    "UNCOMPRESSED",
    "UNIFIED_PROCEDURE_STEP_EVENT",
    "UNIFIED_PROCEDURE_STEP_PULL",
    "UNIFIED_PROCEDURE_STEP_PUSH",
    "UNIFIED_PROCEDURE_STEP_QUERY",
    "UNIFIED_PROCEDURE_STEP_WATCH",
    "VERIFICATION",
    "WELL_KNOWN_INSTANCES",
    "TransferSyntax",
    "clean_uid",
    "name_of",
    "transfer_syntax",
    "uid_of",
    "uids_of",
]

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The only application context name there is (PS3.7 A.2.1)."""

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
MODALITY_WORKLIST_FIND = "1.2.840.10008.5.1.4.31"
MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
INSTANCE_AVAILABILITY_NOTIFICATION = "1.2.840.10008.5.1.4.33"
UNIFIED_PROCEDURE_STEP_PUSH = "1.2.840.10008.5.1.4.34.6.1"
UNIFIED_PROCEDURE_STEP_WATCH = "1.2.840.10008.5.1.4.34.6.2"
UNIFIED_PROCEDURE_STEP_PULL = "1.2.840.10008.5.1.4.34.6.3"
UNIFIED_PROCEDURE_STEP_EVENT = "1.2.840.10008.5.1.4.34.6.4"
UNIFIED_PROCEDURE_STEP_QUERY = "1.2.840.10008.5.1.4.34.6.5"

IMPLEMENTATION_CLASS_UID = "2.25.317757865316475125894551144606006019648"
"""Names this implementation to peers (PS3.7 D.3.3.2); a UUID-derived UID (PS3.5 B.2), made once for asyncdicom."""

IMPLEMENTATION_VERSION_NAME = "ASYNCDICOM_0_1"
"""At most 16 characters (PS3.7 D.3.3.2)."""

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

UNCOMPRESSED = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
"""The syntaxes between which a data set converts without a codec, the best first."""


class TransferSyntax(NamedTuple):
    """How a data set lies in bytes (PS3.5 chapter 10 and annex A)."""

    uid: str
    name: str
    explicit_vr: bool = True
    little_endian: bool = True
    deflated: bool = False
    """The whole data set is one raw deflate stream (PS3.5 A.5)."""
    encapsulated: bool = False
    """Pixel data is in fragments of a compressed stream (PS3.5 A.4)."""


def transfer_syntax(uid: str) -> TransferSyntax:
    """The transfer syntax of a UID; one that is not registered is taken for an encapsulated one (PS3.5 A.4)."""
    known = TRANSFER_SYNTAXES.get(uid)
    return known if known is not None else TransferSyntax(uid, uid, encapsulated=True)


def name_of(uid: str) -> str:
    """The registered name of a SOP class, transfer syntax or well-known instance, or the UID itself if it has none."""
    known = TRANSFER_SYNTAXES.get(uid)
    return known.name if known is not None else SOP_CLASSES.get(uid) or WELL_KNOWN_INSTANCES.get(uid, uid)


def uid_of(name: str) -> str:
    """The UID of a SOP class or well-known instance, from its keyword or name in PS3.6; a UID stands for itself.

    Case, blanks and punctuation do not matter, nor do the words "SOP Class": "Study Root Query/Retrieve Information
    Model - FIND" is StudyRootQueryRetrieveInformationModelFind. The name of a service class with one SOP class will do
    too. Raises LocalProtocolError for anything else.
    """
    uids = uids_of(name)
    if len(uids) != 1:
        raise LocalProtocolError(f"{name!r} names {len(uids)} SOP classes where one is wanted: {', '.join(uids)}")
    return uids[0]


def uids_of(name: str) -> tuple[str, ...]:
    """The SOP classes of a service class that :data:`SERVICE_CLASSES` names, or else the one of :func:`uid_of`.

    Raises LocalProtocolError, with the names that come near, for a name that is unknown.
    """
    if name.replace(".", "").isdecimal():
        return (name,)
    key, names = _key(name), _names()
    if key not in names:
        near = sorted(names, key=lambda each: _likeness(key, each), reverse=True)[:3]
        likely = ", ".join(repr(names[each][0]) for each in near if _likeness(key, each) > 0.5)
        hint = f"did you mean {likely}?" if likely else "a UID, or a name or keyword of PS3.6, will do"
        raise LocalProtocolError(f"there is no SOP class and no service class called {name!r}; {hint}")
    return names[key][1]


def _key(name: str) -> str:
    """What is left of a name when it is compared; of a registered one, that is its keyword in lower case."""
    letters = "".join(filter(str.isalnum, name)).lower()
    return letters.replace("sopclass", "").replace("sopinstance", "instance").removesuffix("uid")


@cache
def _names() -> dict[str, tuple[str, tuple[str, ...]]]:
    """All that may be looked up: how it is written, and what it stands for."""
    registered = {**SOP_CLASSES, **WELL_KNOWN_INSTANCES}
    names: dict[str, tuple[str, tuple[str, ...]]] = {_key(name): (name, (uid,)) for uid, name in registered.items()}
    names.update((_key(keyword), (keyword, (uid,))) for keyword, uid in _OTHER_KEYWORDS.items())
    names.update((_key(name), (name, uids)) for name, uids in SERVICE_CLASSES.items())
    return names


def _likeness(one: str, other: str) -> float:
    """From 0 to 1, by the pairs of letters that two words have in common."""
    ones, others = ({word[at : at + 2] for at in range(len(word) - 1)} for word in (one, other))
    return 2 * len(ones & others) / max(1, len(ones) + len(others))


def clean_uid(value: bytes) -> str:
    """The UID in a field that peers pad with NULs or spaces, though PS3.8 annex F pads none; never raises."""
    return value.decode("latin-1").strip("\0 ")


# PS3.6 Table A-1, the transfer syntaxes
_TRANSFER_SYNTAX_NAMES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.98": "Encapsulated Uncompressed Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian (retired)",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (Process 1)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (Process 2 and 4)",
    "1.2.840.10008.1.2.4.52": "JPEG Extended (Process 3 and 5) (retired)",
    "1.2.840.10008.1.2.4.53": "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8) (retired)",
    "1.2.840.10008.1.2.4.54": "JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9) (retired)",
    "1.2.840.10008.1.2.4.55": "JPEG Full Progression, Non-Hierarchical (Process 10 and 12) (retired)",
    "1.2.840.10008.1.2.4.56": "JPEG Full Progression, Non-Hierarchical (Process 11 and 13) (retired)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.58": "JPEG Lossless, Non-Hierarchical (Process 15) (retired)",
    "1.2.840.10008.1.2.4.59": "JPEG Extended, Hierarchical (Process 16 and 18) (retired)",
    "1.2.840.10008.1.2.4.60": "JPEG Extended, Hierarchical (Process 17 and 19) (retired)",
    "1.2.840.10008.1.2.4.61": "JPEG Spectral Selection, Hierarchical (Process 20 and 22) (retired)",
    "1.2.840.10008.1.2.4.62": "JPEG Spectral Selection, Hierarchical (Process 21 and 23) (retired)",
    "1.2.840.10008.1.2.4.63": "JPEG Full Progression, Hierarchical (Process 24 and 26) (retired)",
    "1.2.840.10008.1.2.4.64": "JPEG Full Progression, Hierarchical (Process 25 and 27) (retired)",
    "1.2.840.10008.1.2.4.65": "JPEG Lossless, Hierarchical (Process 28) (retired)",
    "1.2.840.10008.1.2.4.66": "JPEG Lossless, Hierarchical (Process 29) (retired)",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1 (Process 14)",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless Image Compression",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Lossy (Near-Lossless) Image Compression",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.91": "JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.4.92": "JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.93": "JPEG 2000 Part 2 Multi-component Image Compression",
    "1.2.840.10008.1.2.4.94": "JPIP Referenced",
    "1.2.840.10008.1.2.4.95": "JPIP Referenced Deflate",
    "1.2.840.10008.1.2.4.100": "MPEG2 Main Profile / Main Level",
    "1.2.840.10008.1.2.4.100.1": "Fragmentable MPEG2 Main Profile / Main Level",
    "1.2.840.10008.1.2.4.101": "MPEG2 Main Profile / High Level",
    "1.2.840.10008.1.2.4.101.1": "Fragmentable MPEG2 Main Profile / High Level",
    "1.2.840.10008.1.2.4.102": "MPEG-4 AVC/H.264 High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.102.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.103": "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.103.1": "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
    "1.2.840.10008.1.2.4.104": "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
    "1.2.840.10008.1.2.4.104.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
    "1.2.840.10008.1.2.4.105": "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
    "1.2.840.10008.1.2.4.105.1": "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
    "1.2.840.10008.1.2.4.106": "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
    "1.2.840.10008.1.2.4.106.1": "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
    "1.2.840.10008.1.2.4.107": "HEVC/H.265 Main Profile / Level 5.1",
    "1.2.840.10008.1.2.4.108": "HEVC/H.265 Main 10 Profile / Level 5.1",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000 Image Compression",
    "1.2.840.10008.1.2.4.204": "JPIP HTJ2K Referenced",
    "1.2.840.10008.1.2.4.205": "JPIP HTJ2K Referenced Deflate",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.6.1": "RFC 2557 MIME encapsulation (retired)",
    "1.2.840.10008.1.2.6.2": "XML Encoding (retired)",
    "1.2.840.10008.1.2.7.1": "SMPTE ST 2110-20 Uncompressed Progressive Active Video",
    "1.2.840.10008.1.2.7.2": "SMPTE ST 2110-20 Uncompressed Interlaced Active Video",
    "1.2.840.10008.1.2.7.3": "SMPTE ST 2110-30 PCM Digital Audio",
    "1.2.840.10008.1.20": "Papyrus 3 Implicit VR Little Endian (retired)",
}

# What is neither native nor listed here holds its pixel data in fragments (PS3.5 A.4).
_IMPLICIT_VR = (IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.20")
_DEFLATED = (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
_NATIVE = (*UNCOMPRESSED, *_IMPLICIT_VR, *_DEFLATED, "1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.204")
_NATIVE_PREFIXES = ("1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.")

TRANSFER_SYNTAXES: dict[str, TransferSyntax] = {
    uid: TransferSyntax(
        uid,
        name,
        explicit_vr=uid not in _IMPLICIT_VR,
        little_endian=uid != EXPLICIT_VR_BIG_ENDIAN,
        deflated=uid in _DEFLATED,
        encapsulated=uid not in _NATIVE and not uid.startswith(_NATIVE_PREFIXES),
    )
    for uid, name in _TRANSFER_SYNTAX_NAMES.items()
}

# PS3.6 Table A-1, the SOP classes and meta SOP classes
SOP_CLASSES: dict[str, str] = {
    "1.2.840.10008.1.1": "Verification",
    "1.2.840.10008.1.3.10": "Media Storage Directory Storage",
    "1.2.840.10008.1.9": "Basic Study Content Notification",
    "1.2.840.10008.1.20.1": "Storage Commitment Push Model",
    "1.2.840.10008.1.20.2": "Storage Commitment Pull Model",
    "1.2.840.10008.1.40": "Procedural Event Logging",
    "1.2.840.10008.1.42": "Substance Administration Logging",
    "1.2.840.10008.3.1.2.1.1": "Detached Patient Management",
    "1.2.840.10008.3.1.2.1.4": "Detached Patient Management Meta",
    "1.2.840.10008.3.1.2.2.1": "Detached Visit Management",
    "1.2.840.10008.3.1.2.3.1": "Detached Study Management",
    "1.2.840.10008.3.1.2.3.2": "Study Component Management",
    "1.2.840.10008.3.1.2.3.3": "Modality Performed Procedure Step",
    "1.2.840.10008.3.1.2.3.4": "Modality Performed Procedure Step Retrieve",
    "1.2.840.10008.3.1.2.3.5": "Modality Performed Procedure Step Notification",
    "1.2.840.10008.3.1.2.5.1": "Detached Results Management",
    "1.2.840.10008.3.1.2.5.4": "Detached Results Management Meta",
    "1.2.840.10008.3.1.2.5.5": "Detached Study Management Meta",
    "1.2.840.10008.3.1.2.6.1": "Detached Interpretation Management",
    "1.2.840.10008.5.1.1.1": "Basic Film Session",
    "1.2.840.10008.5.1.1.2": "Basic Film Box",
    "1.2.840.10008.5.1.1.4": "Basic Grayscale Image Box",
    "1.2.840.10008.5.1.1.4.1": "Basic Color Image Box",
    "1.2.840.10008.5.1.1.4.2": "Referenced Image Box",
    "1.2.840.10008.5.1.1.9": "Basic Grayscale Print Management Meta",
    "1.2.840.10008.5.1.1.9.1": "Referenced Grayscale Print Management Meta",
    "1.2.840.10008.5.1.1.14": "Print Job",
    "1.2.840.10008.5.1.1.15": "Basic Annotation Box",
    "1.2.840.10008.5.1.1.16": "Printer",
    "1.2.840.10008.5.1.1.16.376": "Printer Configuration Retrieval",
    "1.2.840.10008.5.1.1.18": "Basic Color Print Management Meta",
    "1.2.840.10008.5.1.1.18.1": "Referenced Color Print Management Meta",
    "1.2.840.10008.5.1.1.22": "VOI LUT Box",
    "1.2.840.10008.5.1.1.23": "Presentation LUT",
    "1.2.840.10008.5.1.1.24": "Image Overlay Box",
    "1.2.840.10008.5.1.1.24.1": "Basic Print Image Overlay Box",
    "1.2.840.10008.5.1.1.26": "Print Queue Management",
    "1.2.840.10008.5.1.1.27": "Stored Print Storage",
    "1.2.840.10008.5.1.1.29": "Hardcopy Grayscale Image Storage",
    "1.2.840.10008.5.1.1.30": "Hardcopy Color Image Storage",
    "1.2.840.10008.5.1.1.31": "Pull Print Request",
    "1.2.840.10008.5.1.1.32": "Pull Stored Print Management Meta",
    "1.2.840.10008.5.1.1.33": "Media Creation Management",
    "1.2.840.10008.5.1.1.40": "Display System",
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image Storage",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "Digital X-Ray Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.1.2": "Digital Mammography X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "Digital Mammography X-Ray Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.1.3": "Digital Intra-Oral X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.1.3.1": "Digital Intra-Oral X-Ray Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.2": "CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.3": "Ultrasound Multi-frame Image Storage (Retired)",
    "1.2.840.10008.5.1.4.1.1.3.1": "Ultrasound Multi-frame Image Storage",
    "1.2.840.10008.5.1.4.1.1.4": "MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.2": "MR Spectroscopy Storage",
    "1.2.840.10008.5.1.4.1.1.4.3": "Enhanced MR Color Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.5": "Nuclear Medicine Image Storage (Retired)",
    "1.2.840.10008.5.1.4.1.1.6": "Ultrasound Image Storage (Retired)",
    "1.2.840.10008.5.1.4.1.1.6.1": "Ultrasound Image Storage",
    "1.2.840.10008.5.1.4.1.1.6.2": "Enhanced US Volume Storage",
    "1.2.840.10008.5.1.4.1.1.6.3": "Photoacoustic Image Storage",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.1": "Multi-frame Single Bit Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.2": "Multi-frame Grayscale Byte Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.3": "Multi-frame Grayscale Word Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.8": "Standalone Overlay Storage",
    "1.2.840.10008.5.1.4.1.1.9": "Standalone Curve Storage",
    "1.2.840.10008.5.1.4.1.1.9.1": "Waveform Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.9.1.1": "12-lead ECG Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.1.2": "General ECG Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.1.3": "Ambulatory ECG Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.1.4": "General 32-bit ECG Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.2.1": "Hemodynamic Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.3.1": "Cardiac Electrophysiology Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.4.1": "Basic Voice Audio Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.4.2": "General Audio Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.5.1": "Arterial Pulse Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.6.1": "Respiratory Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.6.2": "Multi-channel Respiratory Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.7.1": "Routine Scalp Electroencephalogram Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.7.2": "Electromyogram Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.7.3": "Electrooculogram Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.7.4": "Sleep Electroencephalogram Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.8.1": "Body Position Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.10": "Standalone Modality LUT Storage",
    "1.2.840.10008.5.1.4.1.1.11": "Standalone VOI LUT Storage",
    "1.2.840.10008.5.1.4.1.1.11.1": "Grayscale Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.2": "Color Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.3": "Pseudo-Color Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.4": "Blending Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.5": "XA/XRF Grayscale Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.6": "Grayscale Planar MPR Volumetric Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.7": "Compositing Planar MPR Volumetric Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.8": "Advanced Blending Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.9": "Volume Rendering Volumetric Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.10": "Segmented Volume Rendering Volumetric Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.11": "Multiple Volume Rendering Volumetric Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.12": "Variable Modality LUT Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.12.1": "X-Ray Angiographic Image Storage",
    "1.2.840.10008.5.1.4.1.1.12.1.1": "Enhanced XA Image Storage",
    "1.2.840.10008.5.1.4.1.1.12.2": "X-Ray Radiofluoroscopic Image Storage",
    "1.2.840.10008.5.1.4.1.1.12.2.1": "Enhanced XRF Image Storage",
    "1.2.840.10008.5.1.4.1.1.12.3": "X-Ray Angiographic Bi-Plane Image Storage",
    "1.2.840.10008.5.1.4.1.1.12.77": "Zernike Retinal Storage (retired number)",
    "1.2.840.10008.5.1.4.1.1.13.1.1": "X-Ray 3D Angiographic Image Storage",
    "1.2.840.10008.5.1.4.1.1.13.1.2": "X-Ray 3D Craniofacial Image Storage",
    "1.2.840.10008.5.1.4.1.1.13.1.3": "Breast Tomosynthesis Image Storage",
    "1.2.840.10008.5.1.4.1.1.13.1.4": "Breast Projection X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.13.1.5": "Breast Projection X-Ray Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.14.1": "Intravascular Optical Coherence Tomography Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.14.2": "Intravascular Optical Coherence Tomography Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.20": "Nuclear Medicine Image Storage",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map Storage",
    "1.2.840.10008.5.1.4.1.1.40": "MR Image Storage Zero Padded",
    "1.2.840.10008.5.1.4.1.1.66": "Raw Data Storage",
    "1.2.840.10008.5.1.4.1.1.66.1": "Spatial Registration Storage",
    "1.2.840.10008.5.1.4.1.1.66.2": "Spatial Fiducials Storage",
    "1.2.840.10008.5.1.4.1.1.66.3": "Deformable Spatial Registration Storage",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.5": "Surface Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.6": "Tractography Results Storage",
    "1.2.840.10008.5.1.4.1.1.67": "Real World Value Mapping Storage",
    "1.2.840.10008.5.1.4.1.1.68.1": "Surface Scan Mesh Storage",
    "1.2.840.10008.5.1.4.1.1.68.2": "Surface Scan Point Cloud Storage",
    "1.2.840.10008.5.1.4.1.1.77.1": "VL Image Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.77.1.1": "VL Endoscopic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.1.1": "Video Endoscopic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.2": "VL Microscopic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.2.1": "Video Microscopic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.3": "VL Slide-Coordinates Microscopic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.4.1": "Video Photographic Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.1": "Ophthalmic Photography 8 Bit Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.2": "Ophthalmic Photography 16 Bit Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.3": "Stereometric Relationship Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.4": "Ophthalmic Tomography Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.5": "Wide Field Ophthalmic Photography Stereographic Projection Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.6": "Wide Field Ophthalmic Photography 3D Coordinates Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.7": "Ophthalmic Optical Coherence Tomography En Face Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.5.8": "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "VL Whole Slide Microscopy Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.8": "Confocal Microscopy Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.9": "Confocal Microscopy Tiled Pyramidal Image Storage",
    "1.2.840.10008.5.1.4.1.1.77.2": "VL Multi-frame Image Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.78.1": "Lensometry Measurements Storage",
    "1.2.840.10008.5.1.4.1.1.78.2": "Autorefraction Measurements Storage",
    "1.2.840.10008.5.1.4.1.1.78.3": "Keratometry Measurements Storage",
    "1.2.840.10008.5.1.4.1.1.78.4": "Subjective Refraction Measurements Storage",
    "1.2.840.10008.5.1.4.1.1.78.5": "Visual Acuity Measurements Storage",
    "1.2.840.10008.5.1.4.1.1.78.6": "Spectacle Prescription Report Storage",
    "1.2.840.10008.5.1.4.1.1.78.7": "Ophthalmic Axial Measurements Storage",
    "1.2.840.10008.5.1.4.1.1.78.8": "Intraocular Lens Calculations Storage",
    "1.2.840.10008.5.1.4.1.1.79.1": "Macular Grid Thickness and Volume Report Storage",
    "1.2.840.10008.5.1.4.1.1.80.1": "Ophthalmic Visual Field Static Perimetry Measurements Storage",
    "1.2.840.10008.5.1.4.1.1.81.1": "Ophthalmic Thickness Map Storage",
    "1.2.840.10008.5.1.4.1.1.82.1": "Corneal Topography Map Storage",
    "1.2.840.10008.5.1.4.1.1.88.1": "Text SR Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.88.2": "Audio SR Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.88.3": "Detail SR Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.88.4": "Comprehensive SR Storage - Trial",
    "1.2.840.10008.5.1.4.1.1.88.11": "Basic Text SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.35": "Extensible SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.40": "Procedure Log Storage",
    "1.2.840.10008.5.1.4.1.1.88.50": "Mammography CAD SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection Document Storage",
    "1.2.840.10008.5.1.4.1.1.88.65": "Chest CAD SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.67": "X-Ray Radiation Dose SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.68": "Radiopharmaceutical Radiation Dose SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.69": "Colon CAD SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.70": "Implantation Plan SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.71": "Acquisition Context SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.72": "Simplified Adult Echo SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.73": "Patient Radiation Dose SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.74": "Planned Imaging Agent Administration SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.75": "Performed Imaging Agent Administration SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.76": "Enhanced X-Ray Radiation Dose SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.77": "Waveform Annotation SR Storage",
    "1.2.840.10008.5.1.4.1.1.90.1": "Content Assessment Results Storage",
    "1.2.840.10008.5.1.4.1.1.91.1": "Microscopy Bulk Simple Annotations Storage",
    "1.2.840.10008.5.1.4.1.1.104.1": "Encapsulated PDF Storage",
    "1.2.840.10008.5.1.4.1.1.104.2": "Encapsulated CDA Storage",
    "1.2.840.10008.5.1.4.1.1.104.3": "Encapsulated STL Storage",
    "1.2.840.10008.5.1.4.1.1.104.4": "Encapsulated OBJ Storage",
    "1.2.840.10008.5.1.4.1.1.104.5": "Encapsulated MTL Storage",
    "1.2.840.10008.5.1.4.1.1.128": "Positron Emission Tomography Image Storage",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET Image Storage",
    "1.2.840.10008.5.1.4.1.1.129": "Standalone PET Curve Storage",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET Image Storage",
    "1.2.840.10008.5.1.4.1.1.131": "Basic Structured Display Storage",
    "1.2.840.10008.5.1.4.1.1.200.1": "CT Defined Procedure Protocol Storage",
    "1.2.840.10008.5.1.4.1.1.200.2": "CT Performed Procedure Protocol Storage",
    "1.2.840.10008.5.1.4.1.1.200.3": "Protocol Approval Storage",
    "1.2.840.10008.5.1.4.1.1.200.4": "Protocol Approval Information Model - FIND",
    "1.2.840.10008.5.1.4.1.1.200.5": "Protocol Approval Information Model - MOVE",
    "1.2.840.10008.5.1.4.1.1.200.6": "Protocol Approval Information Model - GET",
    "1.2.840.10008.5.1.4.1.1.200.7": "XA Defined Procedure Protocol Storage",
    "1.2.840.10008.5.1.4.1.1.200.8": "XA Performed Procedure Protocol Storage",
    "1.2.840.10008.5.1.4.1.1.201.1": "Inventory Storage",
    "1.2.840.10008.5.1.4.1.1.201.2": "Inventory - FIND",
    "1.2.840.10008.5.1.4.1.1.201.3": "Inventory - MOVE",
    "1.2.840.10008.5.1.4.1.1.201.4": "Inventory - GET",
    "1.2.840.10008.5.1.4.1.1.201.5": "Inventory Creation",
    "1.2.840.10008.5.1.4.1.1.201.6": "Repository Query",
    "1.2.840.10008.5.1.4.1.1.481.1": "RT Image Storage",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose Storage",
    "1.2.840.10008.5.1.4.1.1.481.3": "RT Structure Set Storage",
    "1.2.840.10008.5.1.4.1.1.481.4": "RT Beams Treatment Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.5": "RT Plan Storage",
    "1.2.840.10008.5.1.4.1.1.481.6": "RT Brachy Treatment Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.7": "RT Treatment Summary Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.8": "RT Ion Plan Storage",
    "1.2.840.10008.5.1.4.1.1.481.9": "RT Ion Beams Treatment Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.10": "RT Physician Intent Storage",
    "1.2.840.10008.5.1.4.1.1.481.11": "RT Segment Annotation Storage",
    "1.2.840.10008.5.1.4.1.1.481.12": "RT Radiation Set Storage",
    "1.2.840.10008.5.1.4.1.1.481.13": "C-Arm Photon-Electron Radiation Storage",
    "1.2.840.10008.5.1.4.1.1.481.14": "Tomotherapeutic Radiation Storage",
    "1.2.840.10008.5.1.4.1.1.481.15": "Robotic-Arm Radiation Storage",
    "1.2.840.10008.5.1.4.1.1.481.16": "RT Radiation Record Set Storage",
    "1.2.840.10008.5.1.4.1.1.481.17": "RT Radiation Salvage Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.18": "Tomotherapeutic Radiation Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.19": "C-Arm Photon-Electron Radiation Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.20": "Robotic Radiation Record Storage",
    "1.2.840.10008.5.1.4.1.1.481.21": "RT Radiation Set Delivery Instruction Storage",
    "1.2.840.10008.5.1.4.1.1.481.22": "RT Treatment Preparation Storage",
    "1.2.840.10008.5.1.4.1.1.481.23": "Enhanced RT Image Storage",
    "1.2.840.10008.5.1.4.1.1.481.24": "Enhanced Continuous RT Image Storage",
    "1.2.840.10008.5.1.4.1.1.481.25": "RT Patient Position Acquisition Instruction Storage",
    "1.2.840.10008.5.1.4.1.1.501.1": "DICOS CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.501.2.1": "DICOS Digital X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.501.2.2": "DICOS Digital X-Ray Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.501.3": "DICOS Threat Detection Report Storage",
    "1.2.840.10008.5.1.4.1.1.501.4": "DICOS 2D AIT Storage",
    "1.2.840.10008.5.1.4.1.1.501.5": "DICOS 3D AIT Storage",
    "1.2.840.10008.5.1.4.1.1.501.6": "DICOS Quadrupole Resonance (QR) Storage",
    "1.2.840.10008.5.1.4.1.1.601.1": "Eddy Current Image Storage",
    "1.2.840.10008.5.1.4.1.1.601.2": "Eddy Current Multi-frame Image Storage",
    "1.2.840.10008.5.1.4.1.2.1.1": "Patient Root Query/Retrieve Information Model - FIND",
    "1.2.840.10008.5.1.4.1.2.1.2": "Patient Root Query/Retrieve Information Model - MOVE",
    "1.2.840.10008.5.1.4.1.2.1.3": "Patient Root Query/Retrieve Information Model - GET",
    "1.2.840.10008.5.1.4.1.2.2.1": "Study Root Query/Retrieve Information Model - FIND",
    "1.2.840.10008.5.1.4.1.2.2.2": "Study Root Query/Retrieve Information Model - MOVE",
    "1.2.840.10008.5.1.4.1.2.2.3": "Study Root Query/Retrieve Information Model - GET",
    "1.2.840.10008.5.1.4.1.2.3.1": "Patient/Study Only Query/Retrieve Information Model - FIND",
    "1.2.840.10008.5.1.4.1.2.3.2": "Patient/Study Only Query/Retrieve Information Model - MOVE",
    "1.2.840.10008.5.1.4.1.2.3.3": "Patient/Study Only Query/Retrieve Information Model - GET",
    "1.2.840.10008.5.1.4.1.2.4.2": "Composite Instance Root Retrieve - MOVE",
    "1.2.840.10008.5.1.4.1.2.4.3": "Composite Instance Root Retrieve - GET",
    "1.2.840.10008.5.1.4.1.2.5.3": "Composite Instance Retrieve Without Bulk Data - GET",
    "1.2.840.10008.5.1.4.20.1": "Defined Procedure Protocol Information Model - FIND",
    "1.2.840.10008.5.1.4.20.2": "Defined Procedure Protocol Information Model - MOVE",
    "1.2.840.10008.5.1.4.20.3": "Defined Procedure Protocol Information Model - GET",
    "1.2.840.10008.5.1.4.31": "Modality Worklist Information Model - FIND",
    "1.2.840.10008.5.1.4.32": "General Purpose Worklist Management Meta",
    "1.2.840.10008.5.1.4.32.1": "General Purpose Worklist Information Model - FIND",
    "1.2.840.10008.5.1.4.32.2": "General Purpose Scheduled Procedure Step",
    "1.2.840.10008.5.1.4.32.3": "General Purpose Performed Procedure Step",
    "1.2.840.10008.5.1.4.33": "Instance Availability Notification",
    "1.2.840.10008.5.1.4.34.1": "RT Beams Delivery Instruction Storage - Trial",
    "1.2.840.10008.5.1.4.34.2": "RT Conventional Machine Verification - Trial",
    "1.2.840.10008.5.1.4.34.3": "RT Ion Machine Verification - Trial",
    "1.2.840.10008.5.1.4.34.4.1": "Unified Procedure Step - Push SOP Class - Trial",
    "1.2.840.10008.5.1.4.34.4.2": "Unified Procedure Step - Watch SOP Class - Trial",
    "1.2.840.10008.5.1.4.34.4.3": "Unified Procedure Step - Pull SOP Class - Trial",
    "1.2.840.10008.5.1.4.34.4.4": "Unified Procedure Step - Event SOP Class - Trial",
    "1.2.840.10008.5.1.4.34.6.1": "Unified Procedure Step - Push",
    "1.2.840.10008.5.1.4.34.6.2": "Unified Procedure Step - Watch",
    "1.2.840.10008.5.1.4.34.6.3": "Unified Procedure Step - Pull",
    "1.2.840.10008.5.1.4.34.6.4": "Unified Procedure Step - Event",
    "1.2.840.10008.5.1.4.34.6.5": "Unified Procedure Step - Query",
    "1.2.840.10008.5.1.4.34.7": "RT Beams Delivery Instruction Storage",
    "1.2.840.10008.5.1.4.34.8": "RT Conventional Machine Verification",
    "1.2.840.10008.5.1.4.34.9": "RT Ion Machine Verification",
    "1.2.840.10008.5.1.4.34.10": "RT Brachy Application Setup Delivery Instruction Storage",
    "1.2.840.10008.5.1.4.37.1": "General Relevant Patient Information Query",
    "1.2.840.10008.5.1.4.37.2": "Breast Imaging Relevant Patient Information Query",
    "1.2.840.10008.5.1.4.37.3": "Cardiac Relevant Patient Information Query",
    "1.2.840.10008.5.1.4.38.1": "Hanging Protocol Storage",
    "1.2.840.10008.5.1.4.38.2": "Hanging Protocol Information Model - FIND",
    "1.2.840.10008.5.1.4.38.3": "Hanging Protocol Information Model - MOVE",
    "1.2.840.10008.5.1.4.38.4": "Hanging Protocol Information Model - GET",
    "1.2.840.10008.5.1.4.39.1": "Color Palette Storage",
    "1.2.840.10008.5.1.4.39.2": "Color Palette Query/Retrieve Information Model - FIND",
    "1.2.840.10008.5.1.4.39.3": "Color Palette Query/Retrieve Information Model - MOVE",
    "1.2.840.10008.5.1.4.39.4": "Color Palette Query/Retrieve Information Model - GET",
    "1.2.840.10008.5.1.4.41": "Product Characteristics Query",
    "1.2.840.10008.5.1.4.42": "Substance Approval Query",
    "1.2.840.10008.5.1.4.43.1": "Generic Implant Template Storage",
    "1.2.840.10008.5.1.4.43.2": "Generic Implant Template Information Model - FIND",
    "1.2.840.10008.5.1.4.43.3": "Generic Implant Template Information Model - MOVE",
    "1.2.840.10008.5.1.4.43.4": "Generic Implant Template Information Model - GET",
    "1.2.840.10008.5.1.4.44.1": "Implant Assembly Template Storage",
    "1.2.840.10008.5.1.4.44.2": "Implant Assembly Template Information Model - FIND",
    "1.2.840.10008.5.1.4.44.3": "Implant Assembly Template Information Model - MOVE",
    "1.2.840.10008.5.1.4.44.4": "Implant Assembly Template Information Model - GET",
    "1.2.840.10008.5.1.4.45.1": "Implant Template Group Storage",
    "1.2.840.10008.5.1.4.45.2": "Implant Template Group Information Model - FIND",
    "1.2.840.10008.5.1.4.45.3": "Implant Template Group Information Model - MOVE",
    "1.2.840.10008.5.1.4.45.4": "Implant Template Group Information Model - GET",
    "1.2.840.10008.10.1": "Video Endoscopic Image Real-Time Communication",
    "1.2.840.10008.10.2": "Video Photographic Image Real-Time Communication",
    "1.2.840.10008.10.3": "Audio Waveform Real-Time Communication",
    "1.2.840.10008.10.4": "Rendition Selection Document Real-Time Communication",
}

STORAGE_SOP_CLASSES: frozenset[str] = frozenset(
    uid
    for uid, name in SOP_CLASSES.items()
    if "Storage" in name and "Storage Commitment" not in name and "Storage Directory" not in name
)
"""What C-STORE may carry: the Storage service class (PS3.4 B.5) and Non-Patient Object Storage (PS3.4 GG)."""

_OTHER_KEYWORDS = {
    "TwelveLeadECGWaveformStorage": "1.2.840.10008.5.1.4.1.1.9.1.1",
    "DICOSQuadrupoleResonanceStorage": "1.2.840.10008.5.1.4.1.1.501.6",
}
"""Those that are not the letters of the name."""

# PS3.6 Table A-1
WELL_KNOWN_INSTANCES: dict[str, str] = {
    "1.2.840.10008.1.20.1.1": "Storage Commitment Push Model SOP Instance",
    "1.2.840.10008.1.40.1": "Procedural Event Logging SOP Instance",
    "1.2.840.10008.1.42.1": "Substance Administration Logging SOP Instance",
    "1.2.840.10008.5.1.1.17": "Printer SOP Instance",
    "1.2.840.10008.5.1.1.17.376": "Printer Configuration Retrieval SOP Instance",
    "1.2.840.10008.5.1.1.40.1": "Display System SOP Instance",
    "1.2.840.10008.5.1.4.1.1.201.1.1": "Storage Management SOP Instance",
    "1.2.840.10008.5.1.4.34.5": "UPS Global Subscription SOP Instance",
    "1.2.840.10008.5.1.4.34.5.1": "UPS Filtered Global Subscription SOP Instance",
}
"""SOP instances that are the same at every SCP, to be named in DIMSE-N requests."""

# PS3.4 H.3.2 and H.3.3: Basic Film Session, Basic Film Box, the Image Box of its kind, Printer
META_SOP_CLASSES: dict[str, tuple[str, ...]] = {
    "1.2.840.10008.5.1.1.9": (
        "1.2.840.10008.5.1.1.1",
        "1.2.840.10008.5.1.1.2",
        "1.2.840.10008.5.1.1.4",
        "1.2.840.10008.5.1.1.16",
    ),
    "1.2.840.10008.5.1.1.18": (
        "1.2.840.10008.5.1.1.1",
        "1.2.840.10008.5.1.1.2",
        "1.2.840.10008.5.1.1.4.1",
        "1.2.840.10008.5.1.1.16",
    ),
}
"""The SOP classes whose messages a context for a meta SOP class carries (PS3.7 10.1)."""

CONTEXTS_FOR: dict[str, tuple[str, ...]] = {
    member: tuple(meta for meta, members in META_SOP_CLASSES.items() if member in members)
    for member in dict.fromkeys(each for members in META_SOP_CLASSES.values() for each in members)
} | {
    # PS3.4 CC.3.1.1: DIMSE-N messages name UPS Push, whatever UPS class the context is for.
    UNIFIED_PROCEDURE_STEP_PUSH: (
        UNIFIED_PROCEDURE_STEP_PULL,
        UNIFIED_PROCEDURE_STEP_WATCH,
        UNIFIED_PROCEDURE_STEP_EVENT,
        UNIFIED_PROCEDURE_STEP_QUERY,
    )
}
"""The abstract syntaxes, beside itself, whose contexts may carry messages that name a SOP class."""

# The service classes of PS3.4 by annex, with what is to be proposed for them; UIDs below 1.2.840.10008
_SERVICE_CLASSES = (
    ("verification", "1.1"),  # A
    ("storage commitment", "1.20.1"),  # J
    ("patient root", "5.1.4.1.2.1.1 5.1.4.1.2.1.2 5.1.4.1.2.1.3"),  # C.6.1
    ("study root", "5.1.4.1.2.2.1 5.1.4.1.2.2.2 5.1.4.1.2.2.3"),  # C.6.2
    ("patient/study only", "5.1.4.1.2.3.1 5.1.4.1.2.3.2 5.1.4.1.2.3.3"),  # C.6.3, retired
    ("repository query", "5.1.4.1.1.201.6"),  # C.6.4
    ("modality performed procedure step", "3.1.2.3.3"),  # F.7
    ("modality performed procedure step retrieve", "3.1.2.3.4"),  # F.8
    ("modality performed procedure step notification", "3.1.2.3.5"),  # F.9
    ("basic grayscale print management", "5.1.1.9"),  # H.3.2
    ("basic color print management", "5.1.1.18"),  # H.3.3
    ("print management", "5.1.1.9 5.1.1.18 5.1.1.14 5.1.1.15 5.1.1.16 5.1.1.16.376 5.1.1.23"),  # H
    ("modality worklist", "5.1.4.31"),  # K
    ("application event logging", "1.40 1.42"),  # P
    ("relevant patient information query", "5.1.4.37.1 5.1.4.37.2 5.1.4.37.3"),  # Q
    ("instance availability notification", "5.1.4.33"),  # R
    ("media creation management", "5.1.1.33"),  # S
    ("hanging protocol query/retrieve", "5.1.4.38.2 5.1.4.38.3 5.1.4.38.4"),  # U
    ("substance administration query", "5.1.4.41 5.1.4.42"),  # V
    ("color palette query/retrieve", "5.1.4.39.2 5.1.4.39.3 5.1.4.39.4"),  # X
    ("composite instance root retrieve", "5.1.4.1.2.4.2 5.1.4.1.2.4.3"),  # Y
    ("composite instance retrieve without bulk data", "5.1.4.1.2.5.3"),  # Z
    (
        "implant template query/retrieve",  # BB
        "5.1.4.43.2 5.1.4.43.3 5.1.4.43.4 5.1.4.44.2 5.1.4.44.3 5.1.4.44.4 5.1.4.45.2 5.1.4.45.3 5.1.4.45.4",
    ),
    ("unified procedure step", "5.1.4.34.6.1 5.1.4.34.6.2 5.1.4.34.6.3 5.1.4.34.6.4 5.1.4.34.6.5"),  # CC
    ("rt machine verification", "5.1.4.34.8 5.1.4.34.9"),  # DD
    ("display system management", "5.1.1.40"),  # EE
    (
        "non-patient object storage",  # GG
        "5.1.4.38.1 5.1.4.39.1 5.1.4.43.1 5.1.4.44.1 5.1.4.45.1 "
        "5.1.4.1.1.200.1 5.1.4.1.1.200.3 5.1.4.1.1.200.7 5.1.4.1.1.201.1",
    ),
    ("defined procedure protocol query/retrieve", "5.1.4.20.1 5.1.4.20.2 5.1.4.20.3"),  # HH
    ("protocol approval query/retrieve", "5.1.4.1.1.200.4 5.1.4.1.1.200.5 5.1.4.1.1.200.6"),  # II
    ("inventory query/retrieve", "5.1.4.1.1.201.2 5.1.4.1.1.201.3 5.1.4.1.1.201.4"),  # JJ
    ("storage management", "5.1.4.1.1.201.5"),  # KK
)

SERVICE_CLASSES: dict[str, tuple[str, ...]] = {
    name: tuple(f"1.2.840.10008.{uid}" for uid in uids.split()) for name, uids in _SERVICE_CLASSES
}
"""The service classes of PS3.4, and the SOP classes and meta SOP classes to propose for them.

"storage" has about 200, more than an association can hold; "query/retrieve" is patient root and study root.
"""

SERVICE_CLASSES["query/retrieve"] = SERVICE_CLASSES["patient root"] + SERVICE_CLASSES["study root"]
SERVICE_CLASSES["storage"] = tuple(
    uid
    for uid in SOP_CLASSES
    if uid in STORAGE_SOP_CLASSES and uid not in SERVICE_CLASSES["non-patient object storage"]
)
