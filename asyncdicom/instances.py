"""Composite instances that are to be sent, and the crossing to pydicom.

A file is looked at, not loaded: its file meta information and the first elements of its data set say all that a
C-STORE needs; the data set goes out as it lies on disk. Only what nobody accepts as it is gets decoded and encoded
anew. pydicom is imported when that happens, as its import takes longer than everything else here together.
"""

from __future__ import annotations

import contextlib
import copy
import os
import stat
import threading
import zlib
from array import array
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from .elements import inflate_head, scan
from .errors import DataSetError, FileFormatError, NoAcceptedContext
from .part10 import MAX_FILE_META_LENGTH, FileMeta
from .presentation import DEFAULT_TRANSFER_SYNTAXES, MAX_CONTEXTS, Context
from .uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED,
    name_of,
    transfer_syntax,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom import Dataset

__all__ = [
    "Instance",
    "contexts_for",
    "convert",
    "decode",
    "decode_data_set",
    "describe_data_set",
    "encode",
    "new_uid",
    "read_instance",
    "split_by_contexts",
]

_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_DICOMDIR = "1.2.840.10008.1.3.10"
_HEAD_LENGTH = 8192
"""Bytes that are read of a file at first: file meta information and SOP Common fit, in all files of the test data."""

_CONVERTIBLE = (*UNCOMPRESSED, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


class Instance(NamedTuple):
    """A composite SOP instance, ready to be sent."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str = ""
    """The file that holds it; empty when ``data`` does."""
    offset: int = 0
    """Where the data set begins in the file."""
    length: int = 0
    """Bytes of the data set."""
    data: bytes | memoryview = b""
    """The encoded data set, when there is no file."""
    modified: int = 0
    """When the file was changed last, in nanoseconds as the file system has it; 0 if that does not matter."""


def read_instance(path: str | os.PathLike[str]) -> Instance:
    """What a DICOM file holds, from its first bytes.

    The SOP class and instance are those of the data set, as receivers compare them with it; the file meta information
    counts where the data set's head does not say. Raises FileFormatError for what cannot be sent, and OSError.
    """
    # Without waiting: a pipe that nobody writes to would stop the event loop.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError("not a regular file")
        size = status.st_size
        head = file.read(_HEAD_LENGTH)
        try:
            meta, offset = FileMeta.decode(head)
        except FileFormatError:
            if head[128:132] != b"DICM" or len(head) == size:
                raise
            head += file.read(MAX_FILE_META_LENGTH - len(head))
            meta, offset = FileMeta.decode(head)
    length = size - offset
    if length <= 0:
        raise FileFormatError("the file has no data set")
    sop_class_uid, sop_instance_uid = meta.sop_class_uid, meta.sop_instance_uid
    if sop_class_uid == _DICOMDIR:
        raise FileFormatError("a DICOMDIR stays with its files, it is not an instance to send")
    syntax = transfer_syntax(meta.transfer_syntax_uid)
    if length % 2 and not syntax.deflated:
        raise FileFormatError(f"the data set ends at an odd byte ({length}): the file is truncated or damaged")
    try:
        start = head[offset:]
        if syntax.deflated:
            start = inflate_head(start, _HEAD_LENGTH)
        found, _ = scan(start, syntax, (_SOP_CLASS_UID, _SOP_INSTANCE_UID))
    except DataSetError as error:
        raise FileFormatError(f"the data set is not {syntax.name}: {error}") from None
    sop_class_uid = _text(found.get(_SOP_CLASS_UID)) or sop_class_uid
    sop_instance_uid = _text(found.get(_SOP_INSTANCE_UID)) or sop_instance_uid
    if not sop_class_uid or not sop_instance_uid:
        missing = "SOP Class UID" if not sop_class_uid else "SOP Instance UID"
        raise FileFormatError(f"neither the file meta information nor the data set's head has a {missing}")
    if meta.transfer_syntax_uid not in TRANSFER_SYNTAXES and not meta.transfer_syntax_uid.replace(".", "").isdigit():
        raise FileFormatError(f"transfer syntax {meta.transfer_syntax_uid!r} is not a UID")
    return Instance(
        sop_class_uid,
        sop_instance_uid,
        meta.transfer_syntax_uid,
        os.fspath(path),
        offset,
        length,
        modified=status.st_mtime_ns,
    )


def _text(value: bytes | None) -> str:
    return value.decode("latin-1").strip("\0 ") if value else ""


def contexts_for(
    instances: Instance | Iterable[Instance | str | os.PathLike[str] | Dataset], *, only_required: bool = False
) -> list[Context]:
    """The presentation contexts that sending these instances, files or pydicom data sets takes.

    Each transfer syntax has a context of its own, so that a receiver that takes it cannot choose another one; beside
    it, unless ``only_required``, stand the default syntaxes (PS3.5 10.1), to which uncompressed data can be converted.
    """
    several = [instances] if isinstance(instances, Instance) else instances
    pairs = dict.fromkeys(_class_and_syntax(each) for each in several)
    contexts = [Context(sop_class, (syntax,)) for sop_class, syntax in pairs]
    if not only_required:
        for sop_class in dict.fromkeys(sop_class for sop_class, _ in pairs):
            others = tuple(uid for uid in DEFAULT_TRANSFER_SYNTAXES if (sop_class, uid) not in pairs)
            if others:
                contexts.append(Context(sop_class, others))
    return contexts


def _class_and_syntax(instance: Instance | str | os.PathLike[str] | Dataset) -> tuple[str, str]:
    if isinstance(instance, (str, os.PathLike)):
        instance = read_instance(instance)
    if isinstance(instance, Instance):
        return instance.sop_class_uid, instance.transfer_syntax_uid
    sop_class, _, syntax = describe_data_set(instance)
    return sop_class, syntax


def split_by_contexts(
    instances: Iterable[Instance], *, only_required: bool = False, limit: int = MAX_CONTEXTS
) -> list[list[Instance]]:
    """Groups of instances none of which takes more than ``limit`` presentation contexts, their order kept."""
    groups: list[list[Instance]] = []
    pairs: set[tuple[str, str]] = set()
    for instance in instances:
        more = pairs | {(instance.sop_class_uid, instance.transfer_syntax_uid)}
        classes = len({sop_class for sop_class, _ in more})
        if not groups or (len(more) > len(pairs) and len(more) + (0 if only_required else classes) > limit):
            groups.append([])
            more = {(instance.sop_class_uid, instance.transfer_syntax_uid)}
        pairs = more
        groups[-1].append(instance)
    return groups


def decode(data: bytes, meta: FileMeta, limit: int) -> Dataset:
    """A pydicom data set from its encoded bytes. Raises DataSetError; inflated it has at most ``limit`` bytes."""
    from pydicom import dcmread  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    written = meta
    if transfer_syntax(meta.transfer_syntax_uid).deflated:
        # pydicom inflates without a bound, so it gets the inflated bytes.
        data = _inflate(data, limit)
        written = FileMeta(meta.sop_class_uid, meta.sop_instance_uid, EXPLICIT_VR_LITTLE_ENDIAN)
    try:
        data_set = dcmread(BytesIO(written.encode() + data))
        for _ in data_set.iterall():
            pass  # pydicom decodes when it is asked: ask now, so that errors are met here
    except Exception as error:  # pydicom raises what happens to it
        raise DataSetError(f"the data set cannot be decoded: {error}") from error
    if written is not meta:
        data_set.file_meta.TransferSyntaxUID = UID(meta.transfer_syntax_uid)
    return data_set


def decode_data_set(data: bytes, syntax_uid: str, limit: int = 1 << 28, *, validate: bool = False) -> Dataset:
    """A pydicom data set without file meta information: an identifier, attributes, ...

    ``limit`` bounds what it inflates to. Unless ``validate``, pydicom does not warn of values that are not valid, as
    keys with wild cards are; that makes threads wait for each other, so it is for small data sets. Raises DataSetError
    for what cannot be decoded.
    """
    from pydicom.config import disable_value_validation  # noqa: PLC0415
    from pydicom.filereader import read_dataset  # noqa: PLC0415

    syntax = transfer_syntax(syntax_uid)
    if syntax.deflated:
        data = _inflate(data, limit)
    try:
        with contextlib.ExitStack() as stack:
            if not validate:
                stack.enter_context(_validation)
                stack.enter_context(disable_value_validation())
            data_set = read_dataset(
                BytesIO(data), is_implicit_VR=not syntax.explicit_vr, is_little_endian=syntax.little_endian
            )
            data_set.set_original_encoding(not syntax.explicit_vr, syntax.little_endian)
            for _ in data_set.iterall():
                pass  # pydicom decodes when it is asked: ask now, so that errors are met here
    except Exception as error:  # pydicom raises what happens to it
        raise DataSetError(f"the data set cannot be decoded: {error}") from error
    return data_set


_validation = threading.Lock()
"""What pydicom has for that is one setting for all threads."""


def _inflate(data: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, limit)
    except zlib.error as error:
        raise DataSetError(f"not a deflated data set: {error}") from None
    if inflater.unconsumed_tail:
        raise DataSetError(f"the data set inflates to more than {limit} bytes, which is the limit given")
    return inflated  # what follows the end of the stream is padding


def describe_data_set(data_set: Dataset) -> tuple[str, str, str]:
    """SOP class, SOP instance and transfer syntax UID of a pydicom data set. Raises FileFormatError if it lacks one."""
    if not hasattr(data_set, "original_encoding"):
        raise TypeError(f"a path, an Instance or a pydicom Dataset can be sent, not {type(data_set).__name__}")
    sop_class, sop_instance = data_set.get("SOPClassUID"), data_set.get("SOPInstanceUID")
    if not sop_class or not sop_instance:
        raise FileFormatError("the data set needs a SOP Class UID and a SOP Instance UID to be sent")
    meta = getattr(data_set, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if not syntax:
        implicit, little = data_set.original_encoding
        if little is None:
            implicit, little = False, True
        syntax = UNCOMPRESSED[1] if implicit else UNCOMPRESSED[0] if little else UNCOMPRESSED[2]
    return str(sop_class), str(sop_instance), str(syntax)


def encode(data_set: Dataset, syntax_uid: str) -> bytes:
    """The bytes of a pydicom data set in a transfer syntax that it is in or can be written in."""
    from pydicom.filebase import DicomBytesIO  # noqa: PLC0415
    from pydicom.filewriter import write_dataset  # noqa: PLC0415

    syntax = transfer_syntax(syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = not syntax.explicit_vr
    buffer.is_little_endian = syntax.little_endian
    write_dataset(buffer, data_set)
    data: bytes = buffer.getvalue()
    if syntax.deflated:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    return data + b"\0" if len(data) % 2 else data


def convert(instance: Instance | Dataset, accepted: Iterable[str], *, decompress: bool) -> tuple[str, bytes]:
    """A data set in one of the accepted transfer syntaxes; returns which, and the bytes.

    Between uncompressed syntaxes always, from compressed ones when ``decompress`` allows it and pydicom has a codec.
    Raises NoAcceptedContext otherwise.
    """
    from pydicom import dcmread  # noqa: PLC0415

    if isinstance(instance, Instance):
        source = instance.transfer_syntax_uid
        data_set = None
    else:
        source = describe_data_set(instance)[2]
        data_set = copy.deepcopy(instance)  # what is done to it below is not for the caller's
    targets = [uid for uid in _CONVERTIBLE if uid in set(accepted)]
    what = f"{name_of(source)} is not accepted"
    if not targets:
        raise NoAcceptedContext(f"{what}, and no syntax is that it could be converted to")
    if source not in _CONVERTIBLE and not decompress:
        raise NoAcceptedContext(f"{what}, and decompressing it was not allowed")
    if data_set is None:
        assert isinstance(instance, Instance)
        data_set = dcmread(instance.path or BytesIO(_part10(instance)))
    if source not in _CONVERTIBLE:
        try:
            data_set.decompress(generate_instance_uid=False)
        except Exception as error:  # pydicom raises what its codecs raise
            raise NoAcceptedContext(f"{what}, and pydicom cannot decompress it: {error}") from error
        source = EXPLICIT_VR_LITTLE_ENDIAN
    target = targets[0]
    if transfer_syntax(source).little_endian != transfer_syntax(target).little_endian:
        _swap_words(data_set, little_endian=transfer_syntax(source).little_endian)
    return target, encode(data_set, target)


_WORDS = {"OW": "H", "OF": "I", "OL": "I", "OD": "Q", "OV": "Q"}
"""Array type codes by value representation: pydicom keeps these values as bytes, in the order of the file."""


def _swap_words(data_set: Dataset, *, little_endian: bool) -> None:
    """Turn the byte order of the values that are kept as bytes (PS3.5 7.3)."""
    from pydicom.filewriter import correct_ambiguous_vr  # noqa: PLC0415

    for element in correct_ambiguous_vr(data_set, little_endian).iterall():
        if (code := _WORDS.get(element.VR)) and isinstance(element.value, bytes):
            words = array(code, element.value)
            words.byteswap()
            element.value = words.tobytes()


def _part10(instance: Instance) -> bytes:
    meta = FileMeta(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
    return meta.encode() + bytes(instance.data)


def new_uid() -> str:
    """A UID that nobody else has, for an instance, a transaction or a study: a random UUID below 2.25 (PS3.5 B.2)."""
    from uuid import uuid4  # noqa: PLC0415

    return f"2.25.{uuid4().int}"
