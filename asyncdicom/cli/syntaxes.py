"""The transfer syntaxes that DCMTK's flags name: ``-xs`` of a sender, ``+xs`` of a receiver."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncdicom.instances import contexts_for
from asyncdicom.presentation import DEFAULT_TRANSFER_SYNTAXES, MAX_CONTEXTS, Context
from asyncdicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED,
)

from .options import Effect, Group, flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncdicom.instances import Instance

__all__ = ["ACCEPTED", "PROPOSED", "PROPOSED_FOR_QUERIES", "PROPOSED_UNCOMPRESSED", "RECEIVED", "Proposal"]

_LITTLE_FIRST: Final = (EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_BIG_FIRST: Final = (EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_IMPLICIT: Final = (IMPLICIT_VR_LITTLE_ENDIAN,)

_OTHERS: Final = (
    ("xs", "lossless", "JPEG lossless", "1.2.840.10008.1.2.4.70"),
    ("xy", "jpeg8", "JPEG lossy for 8 bit data", "1.2.840.10008.1.2.4.50"),
    ("xx", "jpeg12", "JPEG lossy for 12 bit data", "1.2.840.10008.1.2.4.51"),
    ("xv", "j2k-lossless", "JPEG 2000 lossless", "1.2.840.10008.1.2.4.90"),
    ("xw", "j2k-lossy", "JPEG 2000 lossy", "1.2.840.10008.1.2.4.91"),
    ("xt", "jls-lossless", "JPEG-LS lossless", "1.2.840.10008.1.2.4.80"),
    ("xu", "jls-lossy", "JPEG-LS lossy", "1.2.840.10008.1.2.4.81"),
    ("xm", "mpeg2", "MPEG2 Main Profile at Main Level", "1.2.840.10008.1.2.4.100"),
    ("xh", "mpeg2-high", "MPEG2 Main Profile at High Level", "1.2.840.10008.1.2.4.101"),
    ("xn", "mpeg4", "MPEG4 AVC/H.264 Level 4.1", "1.2.840.10008.1.2.4.102"),
    ("xl", "mpeg4-bd", "MPEG4 AVC/H.264 BD-compatible", "1.2.840.10008.1.2.4.103"),
    ("x2", "mpeg4-2-2d", "MPEG4 AVC/H.264 Level 4.2, 2D", "1.2.840.10008.1.2.4.104"),
    ("x3", "mpeg4-2-3d", "MPEG4 AVC/H.264 Level 4.2, 3D", "1.2.840.10008.1.2.4.105"),
    ("xo", "mpeg4-2-st", "MPEG4 AVC/H.264 Stereo Level 4.2", "1.2.840.10008.1.2.4.106"),
    ("x4", "hevc", "HEVC/H.265 Main Profile", "1.2.840.10008.1.2.4.107"),
    ("x5", "hevc10", "HEVC/H.265 Main 10 Profile", "1.2.840.10008.1.2.4.108"),
    ("xr", "rle", "RLE lossless", "1.2.840.10008.1.2.5"),
    ("xd", "deflated", "deflated explicit VR little endian", DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
)
"""The letters, the word of the long name, what it is, the UID."""

PROPOSED_UNCOMPRESSED: Final = (
    flag("-x= --propose-uncompr", "uncompressed", "propose all uncompressed ones, explicit VR first", _LITTLE_FIRST),
    flag(
        "-xe --propose-little --request-little",
        "uncompressed",
        "propose all uncompressed ones, explicit VR little endian first",
        _LITTLE_FIRST,
    ),
    flag(
        "-xb --propose-big --request-big",
        "uncompressed",
        "propose all uncompressed ones, explicit VR big endian first",
        _BIG_FIRST,
    ),
    flag(
        "-xi --propose-implicit --request-implicit",
        "uncompressed",
        "propose implicit VR little endian, and no other uncompressed one",
        _IMPLICIT,
    ),
)

PROPOSED_FOR_QUERIES: Final = (
    *PROPOSED_UNCOMPRESSED,
    flag(
        "-xd --propose-deflated",
        "uncompressed",
        "propose deflated explicit VR little endian, then all uncompressed ones",
        (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, *_LITTLE_FIRST),
    ),
)
"""For identifiers, which are never compressed otherwise."""

PROPOSED: Final = Group(
    "transfer syntaxes to propose, beside those that the files are in",
    (
        *PROPOSED_UNCOMPRESSED,
        *(
            flag(f"-{letters} --propose-{word}", "also", f"propose {text} too", uid, Effect.APPEND)
            for letters, word, text, uid in _OTHERS
        ),
        flag("-R --required -cx --required-contexts", "only_required", "propose only what the files are in"),
        flag("+C --combine", "combine", "one presentation context per SOP class, with all its transfer syntaxes"),
    ),
)


ACCEPTED: Final = Group(
    "transfer syntaxes to accept (without any of these: all, in the sender's order)",
    (
        flag("+x= --prefer-uncompr -x=", "accepted", "uncompressed ones only, explicit VR first", _LITTLE_FIRST),
        flag("+xe --prefer-little -xe", "accepted", "uncompressed ones only, little endian first", _LITTLE_FIRST),
        flag("+xb --prefer-big -xb", "accepted", "uncompressed ones only, big endian first", _BIG_FIRST),
        flag("+xi --implicit --prefer-implicit -xi", "accepted", "implicit VR little endian only", _IMPLICIT),
        *(
            flag(f"+{letters} --prefer-{word}", "accepted", f"{text}, then uncompressed ones", (uid, *UNCOMPRESSED))
            for letters, word, text, uid in _OTHERS
        ),
        flag("+xa --accept-all", "accepted", "all, in the sender's order, as without the flag", ()),
    ),
)

RECEIVED: Final = tuple(
    replace(option, names=tuple(name for name in option.names if name[0] == "+" or name[:2] == "--"))
    for option in ACCEPTED.options
)
"""The same for a tool whose options with ``-`` say what it proposes."""


class Proposal(NamedTuple):
    """What a sender offers for the files that it has."""

    uncompressed: tuple[str, ...] = DEFAULT_TRANSFER_SYNTAXES
    also: tuple[str, ...] = ()
    only_required: bool = False
    combine: bool = False

    @property
    def limit(self) -> int:
        """What :func:`~asyncdicom.split_by_contexts` may count so that :meth:`contexts` stays within 128.

        It counts a context per transfer syntax that is needed and one per SOP class; here a SOP class may get more.
        """
        return MAX_CONTEXTS if self.only_required else 2 * MAX_CONTEXTS // (len(set(self.also)) + 2)

    def contexts(self, instances: Sequence[Instance]) -> list[Context]:
        """The presentation contexts to propose."""
        needed = contexts_for(instances, only_required=True)
        if self.uncompressed == _IMPLICIT and not self.only_required:
            needed = [each for each in needed if each.transfer_syntaxes[0] not in UNCOMPRESSED]
        contexts = list(needed)
        if not self.only_required:
            for sop_class in dict.fromkeys(instance.sop_class_uid for instance in instances):
                contexts += self._beside(sop_class, needed)
        return _combined(contexts) if self.combine else contexts

    def _beside(self, sop_class: str, needed: list[Context]) -> list[Context]:
        offered = {each.transfer_syntaxes[0] for each in needed if each.abstract_syntax == sop_class}
        also = [(uid,) for uid in dict.fromkeys(self.also) if uid not in offered]
        rest = tuple(uid for uid in self.uncompressed if uid not in offered)
        return [Context(sop_class, syntaxes) for syntaxes in (*also, rest) if syntaxes]


def _combined(contexts: list[Context]) -> list[Context]:
    by_class: dict[str, tuple[str, ...]] = {}
    for context in contexts:
        by_class[context.abstract_syntax] = (*by_class.get(context.abstract_syntax, ()), *context.transfer_syntaxes)
    return [Context(sop_class, tuple(dict.fromkeys(syntaxes))) for sop_class, syntaxes in by_class.items()]
