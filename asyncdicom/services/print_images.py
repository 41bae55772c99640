"""The pixels of an image as a printer takes them: an item of a Basic Grayscale or Color Image Sequence (PS3.3 C.13.5).

A printer knows no windows and no palettes: it takes 8 or 12 bits of grayscale, or 8 bits of red, green and blue by
plane. What comes before, the modality and VOI transformations (PS3.3 C.11.1, C.11.2), pydicom applies, and needs numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from asyncdicom.errors import FileFormatError, LocalProtocolError

if TYPE_CHECKING:
    from os import PathLike

    from pydicom import Dataset

__all__ = ["image_item"]

_GRAYSCALE: Final = ("MONOCHROME1", "MONOCHROME2")


def image_item(
    source: Dataset | str | PathLike[str] | Any,
    *,
    color: bool = False,
    frame: int = 1,
    bits: int | None = None,
) -> Dataset:
    """The item that goes into an image box.

    ``source`` is an image instance or the path of one, of which ``frame`` is taken, counted from 1; or an array: rows
    by columns of grayscale (uint8, or uint16 with 12 bits, 0 black), or rows by columns by 3 of uint8.

    Of a grayscale instance the first VOI LUT or window is applied. Where there is none, the stored values are taken as
    they are if they are unsigned, without rescaling and have at most 12 bits; else the frame's own smallest and largest
    value become black and white. ``bits`` is 8 or 12, by default 8 for images that have no more, else 12. In color,
    palettes and YBR become RGB, and grayscale becomes gray.

    Raises FileFormatError for what is no image, or cannot be decoded, LocalProtocolError for a color image that is to
    be printed in grayscale, and OSError for a path that cannot be read.
    """
    from pydicom import Dataset  # noqa: PLC0415

    if bits not in (None, 8, 12):
        raise LocalProtocolError(f"a printer takes 8 or 12 bits of grayscale, not {bits}")
    pixels: Any = source
    instance: Dataset | None = None
    if hasattr(source, "shape"):
        photometric, bits = _of_array(pixels, bits)
    else:
        instance = source if isinstance(source, Dataset) else _read(pixels)
        photometric, pixels, bits = _of_instance(instance, frame, bits)
    if color:
        item = _color(pixels if photometric == "RGB" else _gray(pixels, photometric, bits))
    elif photometric == "RGB":
        raise LocalProtocolError("an image in color cannot be printed in grayscale; print it in a color session")
    else:
        item = _grayscale(pixels, photometric, bits)
    ratio = _aspect_ratio(instance) if instance is not None else None
    if ratio:
        item.PixelAspectRatio = ratio
    return item


def _read(path: str | PathLike[str]) -> Dataset:
    from pydicom import dcmread  # noqa: PLC0415
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    try:
        return dcmread(path)
    except InvalidDicomError as error:
        raise FileFormatError(f"no DICOM file: {error}") from error


def _of_array(pixels: Any, bits: int | None) -> tuple[str, int]:
    """What an array is, and how many bits are used of it; arrays are not scaled."""
    kind = (pixels.ndim, str(pixels.dtype))
    if kind == (3, "uint8") and pixels.shape[2] == 3:
        return "RGB", 8
    if kind == (2, "uint8") and bits in (None, 8):
        return "MONOCHROME2", 8
    if kind == (2, "uint16") and bits in (None, 12) and int(pixels.max(initial=0)) < 4096:
        return "MONOCHROME2", 12
    raise FileFormatError("an array for a printer has two dimensions of 8 bits or of 12 in uint16, or three of RGB")


def _of_instance(instance: Dataset, frame: int, bits: int | None) -> tuple[str, Any, int]:
    """Photometric interpretation, pixels and bits of a frame, ready to be printed."""
    from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415

    try:
        photometric = str(instance.PhotometricInterpretation)
        stored = int(instance.BitsStored)
        pixels = pixel_array(instance, index=frame - 1)  # YBR becomes RGB here
        if photometric in _GRAYSCALE:
            bits = bits or (8 if stored <= 8 else 12)
            return photometric, _window(pixels, instance, 2**bits - 1), bits
        if photometric == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, instance)
            stored = 8 * pixels.itemsize
        return "RGB", (pixels >> max(0, stored - 8)).astype("uint8"), 8
    except Exception as error:  # pydicom and its codecs raise what happens to them
        words = " ".join(str(error).split())
        raise FileFormatError(f"the image cannot be made ready to print: {words}") from error


def _window(pixels: Any, instance: Dataset, top: int) -> Any:
    """Grayscale values through the modality and VOI transformations, from 0 to ``top``."""
    import numpy as np  # noqa: PLC0415
    from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing  # noqa: PLC0415

    values = apply_modality_lut(pixels, instance)
    if instance.get("VOILUTSequence"):
        values = apply_voi(values.round().astype("int64"), instance)
        low, high = 0.0, 2.0 ** instance.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif instance.get("WindowWidth") is not None and instance.get("WindowCenter") is not None:
        low, high = map(float, apply_windowing(_far_ends(instance), instance))
        with np.errstate(over="ignore"):  # far from a sigmoid's center
            values = apply_windowing(values, instance)
    elif values is pixels and instance.PixelRepresentation == 0 and instance.BitsStored <= 12:
        low, high = 0.0, 2.0**instance.BitsStored - 1
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values.astype("float64") - low) * (top / (high - low or 1.0))
    return scaled.round().clip(0, top).astype("uint8" if top < 256 else "uint16")


def _far_ends(instance: Dataset) -> Any:
    """Values far below and above the window: what becomes of them is black and white."""
    import numpy as np  # noqa: PLC0415

    center, width = (
        float(element.value[0] if element.VM > 1 else element.value)
        for element in (instance["WindowCenter"], instance["WindowWidth"])
    )
    return np.array([center - 50 * width, center + 50 * width])


def _gray(pixels: Any, photometric: str, bits: int) -> Any:
    """Grayscale as RGB."""
    import numpy as np  # noqa: PLC0415

    values = (pixels >> (bits - 8)).astype("uint8")
    if photometric == "MONOCHROME1":
        values = 255 - values
    return np.stack((values, values, values), axis=-1)


def _grayscale(pixels: Any, photometric: str, bits: int) -> Dataset:
    data = pixels.tobytes() if bits == 8 else pixels.astype("<u2").tobytes()
    item = _item(pixels, photometric, bits, data)
    item.SamplesPerPixel = 1
    return item


def _color(pixels: Any) -> Dataset:
    item = _item(pixels, "RGB", 8, pixels.transpose(2, 0, 1).tobytes())
    item.SamplesPerPixel = 3
    item.PlanarConfiguration = 1
    return item


def _item(pixels: Any, photometric: str, bits: int, data: bytes) -> Dataset:
    from pydicom import Dataset  # noqa: PLC0415

    item = Dataset()
    item.PhotometricInterpretation = photometric
    item.Rows, item.Columns = pixels.shape[:2]
    item.BitsAllocated = 8 if bits == 8 else 16
    item.BitsStored = bits
    item.HighBit = bits - 1
    item.PixelRepresentation = 0
    item.add_new(0x7FE00010, "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
    return item


def _aspect_ratio(instance: Dataset) -> list[int] | None:
    """Pixel Aspect Ratio, vertical by horizontal, of pixels that are not square (PS3.3 C.7.6.3.1.7)."""
    ratio = instance.get("PixelAspectRatio")
    if not ratio:
        spacing = instance.get("PixelSpacing") or instance.get("ImagerPixelSpacing") or (1, 1)
        ratio = [round(float(each) * 10000) for each in spacing]
    vertical, horizontal = map(int, ratio)
    return None if vertical == horizontal else [vertical, horizontal]
