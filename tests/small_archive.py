"""A small archive over files: C-FIND at every level, C-GET and C-MOVE, as tests of queries need a peer for."""

import asyncio
import contextlib
import fnmatch
from pathlib import Path

import pydicom

import asyncdicom

LEVELS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
"""The levels of PS3.4 C.6.1 and their unique keys."""


def both_ways(transfer_syntaxes=asyncdicom.presentation.STORAGE_TRANSFER_SYNTAXES):
    """The storage contexts of a server that also sends, for C-GET."""
    return [each._replace(scu=True, scp=True) for each in asyncdicom.storage_contexts(transfer_syntaxes)]


class SmallArchive:
    """Answers queries about files, and sends them; give ``handlers()`` to serve()."""

    def __init__(self, paths):
        self.files = {Path(path): pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths}
        self.identifiers = []
        """What was asked, as it came."""
        self.was_cancelled = asyncio.Event()
        self.hold = None
        """After how many matches or instances to wait for a C-CANCEL; None for never."""

    def handlers(self):
        return {"c_find": self.find, "c_get": self.send, "c_move": self.send}

    def matching(self, identifier):
        """The files that match, with what is known of them."""
        return [(path, each) for path, each in self.files.items() if all(matches(each, key) for key in identifier)]

    async def find(self, request):
        self.identifiers.append(request.identifier)
        level = request.identifier.get("QueryRetrieveLevel")
        if level not in LEVELS:
            yield asyncdicom.Status(0xA900, "no level")
            return
        found = {each.get(LEVELS[level]): each for _, each in self.matching(request.identifier)}
        with self._noting_cancel():
            for count, each in enumerate(found.values()):
                await self._hold(count)
                yield answer(request.identifier, each)

    async def send(self, request):
        self.identifiers.append(request.identifier)
        found = self.matching(request.identifier)
        request.total = len(found)
        with self._noting_cancel():
            for count, (path, _) in enumerate(found):
                await self._hold(count)
                yield path

    async def _hold(self, count):
        if count == self.hold:
            await asyncio.Event().wait()

    @contextlib.contextmanager
    def _noting_cancel(self):
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):  # while it waits, and while a match is on its way
            self.was_cancelled.set()
            raise


def matches(each, key):
    """Single value, list of UID, wildcard and universal matching (PS3.4 C.2.2.2)."""
    if key.keyword in ("QueryRetrieveLevel", "SpecificCharacterSet") or key.VR == "SQ" or key.is_empty:
        return True
    wanted = [str(value) for value in key.value] if key.VM > 1 else [str(key.value)]
    return any(fnmatch.fnmatchcase(str(each.get(key.tag).value if key.tag in each else ""), one) for one in wanted)


def answer(identifier, each):
    """A match: what the identifier asks for."""
    found = pydicom.Dataset()
    for key in identifier:
        if key.keyword == "QueryRetrieveLevel":
            found[key.tag] = key
        elif key.tag in each:
            found[key.tag] = each[key.tag]
        else:
            found.add_new(key.tag, key.VR, None)
    if "SpecificCharacterSet" in each:
        found.SpecificCharacterSet = each.SpecificCharacterSet
    return found


def ct_slices(folder, count, *, study="1.2.826.0.1.3680043.10.999.1", patient="P1"):
    """Files of a small CT series, and their paths by SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number in range(1, count + 1):
        slice_ = pydicom.Dataset()
        slice_.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        slice_.SOPInstanceUID = f"{study}.1.{number}"
        slice_.StudyDate, slice_.Modality, slice_.StudyDescription = "20240102", "CT", "Thorax"
        slice_.PatientName, slice_.PatientID = f"Test^{patient}", patient
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID = study, f"{study}.1"
        slice_.StudyID, slice_.SeriesNumber, slice_.InstanceNumber = "1", 1, number
        slice_.AccessionNumber, slice_.StudyTime, slice_.PatientBirthDate, slice_.PatientSex = "A1", "101112", "", "O"
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.Rows = slice_.Columns = 16
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 12, 11, 0
        slice_.PixelData = bytes(range(256)) * 2
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        path = folder / f"{study}-{number:03}.dcm"
        slice_.save_as(path, enforce_file_format=True)
        paths[slice_.SOPInstanceUID] = path
    return paths
