"""Where the tools write what they receive: the options that say so, and the writing.

A data set goes to its file as it comes, in the transfer syntax that was negotiated; nothing is decoded.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .exit_codes import ExitCode, ToolError
from .naming import DEFAULT_PATTERN, FIELDS, Pattern
from .options import UsageError, flag, nothing_to_do, refused, value

if TYPE_CHECKING:
    from asyncdicom.requests import CStoreRequest

__all__ = ["AS_RECEIVED", "AS_RECEIVED_IN_FULL", "FILES", "Files", "FilesOptions", "check_folder"]


@dataclass(frozen=True, kw_only=True)
class FilesOptions:
    """What a command line says of the files that are written."""

    folder: str = "."
    pattern: str = DEFAULT_PATTERN
    extension: str | None = None
    study_prefix: str | None = None
    ignore: bool = False
    sync: bool = False


def _pattern(text: str) -> str:
    Pattern(text)
    return text


def _extension(text: str) -> str:
    Pattern(f"x{text}")
    if "/" in text or "{" in text:
        raise ValueError("an extension is the end of a name, such as .dcm")
    return text


FILES: Final = (
    value("-od --output-directory", "folder", "FOLDER", "write instances below this folder"),
    value(
        "--pattern",
        "pattern",
        "TEXT",
        f"name of the files below the folder, with fields in braces: {', '.join(FIELDS)}",
        _pattern,
    ),
    value("-fe --filename-extension", "extension", "TEXT", "end of the files' names", _extension),
    value(
        "-su --sort-on-study-uid",
        "study_prefix",
        "PREFIX",
        "a folder per study, PREFIX_{StudyInstanceUID}; as --pattern does it",
    ),
    flag("--ignore", "ignore", "receive, answer, and write nothing"),
    flag("--sync", "sync", "answer once the file is on stable storage"),
)

_AS_RECEIVED: Final = "instances are written as they are received, in every transfer syntax"
_NOT_WRITTEN_ANEW: Final = "instances are written as they are received, never encoded anew"

AS_RECEIVED: Final = (
    nothing_to_do("+B --bit-preserving", _AS_RECEIVED),
    nothing_to_do("-B --normal", _AS_RECEIVED),
)
"""DCMTK's options on how files are written, as far as all its tools have them."""

AS_RECEIVED_IN_FULL: Final = (
    *AS_RECEIVED,
    nothing_to_do("+F --write-file", "files have file meta information"),
    refused("-F --write-dataset", "files have file meta information"),
    nothing_to_do("+t= --write-xfer-same", _AS_RECEIVED),
    refused("+te --write-xfer-little", _NOT_WRITTEN_ANEW),
    refused("+tb --write-xfer-big", _NOT_WRITTEN_ANEW),
    refused("+ti --write-xfer-implicit", _NOT_WRITTEN_ANEW),
    refused("+td --write-xfer-deflated", _NOT_WRITTEN_ANEW),
    nothing_to_do("+u --enable-new-vr", _AS_RECEIVED),
    refused("-u --disable-new-vr", _NOT_WRITTEN_ANEW),
    refused("+g --group-length-create", _NOT_WRITTEN_ANEW),
    refused("-g --group-length-remove", _NOT_WRITTEN_ANEW),
    nothing_to_do("+g= --group-length-recalc", _AS_RECEIVED),
    nothing_to_do("+e --length-explicit", _AS_RECEIVED),
    refused("-e --length-undefined", _NOT_WRITTEN_ANEW),
    nothing_to_do("-p --padding-off", _AS_RECEIVED),
    refused("+p --padding-create", _NOT_WRITTEN_ANEW, "FILE-PAD", "ITEM-PAD"),
    refused("+cl --compression-level", _NOT_WRITTEN_ANEW, "LEVEL"),
)
"""Those of its servers too."""

_HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a data set in which the fields of a pattern are looked for; real objects have them in the first few KiB."""


def check_folder(name: str) -> Path:
    """The folder of this name. Raises ToolError when nothing can be written there."""
    folder = Path(name).absolute()
    if not folder.is_dir():
        raise ToolError(ExitCode.OUTPUT_FOLDER, f"the output folder {folder} does not exist", "create it, or name -od")
    probe = folder / f".{secrets.token_hex(8)}.probe"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        message = f"the output folder {folder} cannot be written to: {error.strerror}"
        raise ToolError(ExitCode.OUTPUT_FOLDER, message) from error
    return folder


class Files:
    """Writes received instances below a folder; may be sent to other processes."""

    def __init__(self, options: FilesOptions) -> None:
        """Look at the folder and the pattern. Raises UsageError and ToolError for those that will not do."""
        text = options.pattern
        if options.extension is not None:
            text = text.removesuffix(".dcm") + options.extension
        if options.study_prefix is not None:
            prefix = f"{options.study_prefix}_" if options.study_prefix else ""
            text = f"{prefix}{{StudyInstanceUID}}/{text}"
        try:
            self._pattern = Pattern(text)
        except ValueError as error:
            raise UsageError(f"the pattern {text}: {error}") from None
        self._folder = None if options.ignore else check_folder(options.folder)
        self._sync = options.sync

    async def save(self, request: CStoreRequest) -> str:
        """Write the instance that comes; returns its path, empty where nothing is to be written.

        Raises what :meth:`~asyncdicom.IncomingDataSet.save_as` does; then there is no file.
        """
        if self._folder is None:
            await request.data_set.drop()
            return ""
        tags = self._pattern.tags
        head = await request.data_set.head(tags, _HEAD_LIMIT) if tags else {}
        path = self._pattern.path(self._folder, self._pattern.values(request, head))
        if path.parent != self._folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        await request.data_set.save_as(path, sync=self._sync)
        return str(path)
