import numpy as np
import pytest
from printing import image
from pydicom import Dataset
from pydicom.data import get_testdata_file

from asyncdicom import FileFormatError, LocalProtocolError
from asyncdicom.services.print_images import image_item


def values(item):
    kind = "uint8" if item.BitsAllocated == 8 else "<u2"
    samples = item.Rows * item.Columns * item.SamplesPerPixel
    return np.frombuffer(item.PixelData, kind)[:samples].tolist()


def described(item):
    return item.SamplesPerPixel, item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation


def test_an_array_of_8_bits_is_taken_as_it_is():
    item = image_item(np.array([[0, 100, 255]], "uint8"))
    assert (item.Rows, item.Columns, item.PhotometricInterpretation) == (1, 3, "MONOCHROME2")
    assert described(item) == (1, 8, 8, 7, 0)
    assert item.PixelData == bytes((0, 100, 255, 0))


def test_an_array_of_12_bits_is_taken_as_it_is():
    item = image_item(np.array([[0, 4095]], "uint16"))
    assert described(item) == (1, 16, 12, 11, 0)
    assert item.PixelData == b"\0\0\xff\x0f"


def test_an_array_of_colors_goes_plane_by_plane():
    item = image_item(np.array([[[1, 2, 3], [4, 5, 6]]], "uint8"), color=True)
    assert (described(item), item.PhotometricInterpretation, item.PlanarConfiguration) == ((3, 8, 8, 7, 0), "RGB", 1)
    assert item.PixelData == bytes((1, 4, 2, 5, 3, 6))


@pytest.mark.parametrize(
    ("array", "bits"),
    [
        (np.array([[4096]], "uint16"), None),
        (np.array([[1]], "int16"), None),
        (np.array([1], "uint8"), None),
        (np.array([[1]], "uint8"), 12),
        (np.array([[[1, 2]]], "uint8"), None),
    ],
)
def test_other_arrays_are_refused(array, bits):
    with pytest.raises(FileFormatError):
        image_item(array, bits=bits)


def test_a_window_becomes_black_and_white():
    stored = np.array([[-100, 0, 50, 100, 1000]], "int16")
    item = image_item(image(stored, WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"), bits=8)
    assert values(item) == [0, 0, 128, 255, 255]


def test_a_window_is_over_rescaled_values_also_by_a_negative_slope():
    stored = np.array([[0, 10, 20]], "uint16")
    instance = image(stored, RescaleSlope=-1, RescaleIntercept=10, WindowCenter=0, WindowWidth=20)
    instance.VOILUTFunction = "LINEAR_EXACT"
    assert values(image_item(instance)) == [4095, 2048, 0]


def test_the_first_of_several_windows_counts():
    instance = image(np.array([[-10, 110]], "int16"), WindowCenter=[50, -500], WindowWidth=[100, 2])
    assert values(image_item(instance, bits=8)) == [0, 255]


def test_a_sigmoid_window_reaches_from_black_to_white():
    instance = image(np.array([[-30000, 0, 30000]], "int16"), WindowCenter=0, WindowWidth=100)
    instance.VOILUTFunction = "SIGMOID"
    assert values(image_item(instance, bits=8)) == [0, 128, 255]


def test_a_voi_lut_goes_before_a_window():
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4, 0, 16], [0, 65535, 0, 65535]
    instance = image(np.array([[0, 1, 2, 9]], "uint16"), VOILUTSequence=[lut], WindowCenter=0, WindowWidth=1)
    instance.VOILUTSequence[0]["LUTData"].VR = "US"
    assert values(image_item(instance)) == [0, 4095, 0, 4095]


@pytest.mark.parametrize(("bits", "expected"), [(None, [0, 2048, 4095]), (8, [0, 128, 255])])
def test_12_bits_without_a_window_keep_their_place_in_the_range(bits, expected):
    assert values(image_item(image(np.array([[0, 2048, 4095]], "uint16"), BitsStored=12), bits=bits)) == expected


def test_8_bits_stay_what_they_are():
    instance = image(np.array([[3, 200]], "uint8"))
    assert (image_item(instance).BitsStored, values(image_item(instance))) == (8, [3, 200])


def test_16_bits_without_a_window_are_stretched():
    assert values(image_item(image(np.array([[1000, 1200, 2000]], "int16")))) == [0, 819, 4095]


def test_an_image_of_one_value_is_black():
    assert values(image_item(image(np.array([[7, 7]], "int16")))) == [0, 0]


def test_monochrome1_stays_monochrome1():
    item = image_item(image(np.array([[0, 255]], "uint8"), PhotometricInterpretation="MONOCHROME1"))
    assert (item.PhotometricInterpretation, values(item)) == ("MONOCHROME1", [0, 255])


def test_grayscale_in_color_is_gray():
    item = image_item(image(np.array([[0, 255]], "uint8"), PhotometricInterpretation="MONOCHROME1"), color=True)
    assert values(item) == [255, 0] * 3


def test_a_frame_is_chosen():
    instance = image(np.array([[[1, 2]], [[3, 4]]], "uint8"), NumberOfFrames=2)
    assert [values(image_item(instance, frame=number)) for number in (1, 2)] == [[1, 2], [3, 4]]


def test_pixels_that_are_not_square_say_so():
    assert image_item(image(np.zeros((2, 2), "uint8"), PixelSpacing=["0.5", "0.25"])).PixelAspectRatio == [5000, 2500]
    assert image_item(image(np.zeros((2, 2), "uint8"), PixelAspectRatio=[2, 1])).PixelAspectRatio == [2, 1]
    assert "PixelAspectRatio" not in image_item(image(np.zeros((2, 2), "uint8"), PixelSpacing=["1", "1.0"]))


@pytest.mark.parametrize("name", ["SC_rgb_small_odd.dcm", "SC_ybr_full_422_uncompressed.dcm", "examples_palette.dcm"])
def test_every_kind_of_color_becomes_rgb(name):
    item = image_item(get_testdata_file(name), color=True)
    assert (described(item), item.PhotometricInterpretation) == ((3, 8, 8, 7, 0), "RGB")
    assert len(item.PixelData) == item.Rows * item.Columns * 3 + item.Rows * item.Columns % 2


def test_color_is_not_printed_in_grayscale():
    with pytest.raises(LocalProtocolError, match="color session"):
        image_item(get_testdata_file("examples_rgb_color.dcm"))


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text").write_text("no image")
    for source in (tmp_path / "text", Dataset()):
        with pytest.raises(FileFormatError):
            image_item(source)


def test_other_depths_are_refused():
    with pytest.raises(LocalProtocolError):
        image_item(np.zeros((1, 1), "uint8"), bits=10)
