"""Pictures of every odd kind decode to the pixels they mean."""

import concurrent.futures
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.decode import DENOMINATORS, EncodedImage, pixels

RED, WHITE = (255, 0, 0), (255, 255, 255)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, as a camera gives them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def saved(image: np.ndarray | Image.Image, format: str, **options) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, bits: int, kind: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG made by hand: `rows` are the filtered rows, `chunks` stand before them."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *(chunk(c[:4], c[4:]) for c in chunks)]
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def decoded(data: bytes, **options) -> np.ndarray:
    image = EncodedImage(data, "picture", **options)
    array = image.decode()
    assert array.dtype == np.uint8
    assert array.shape == (*image.size, 3)
    return array


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (101, 133), (9, 600)])
def test_a_jpeg_decodes_to_pillows_pixels_bit_for_bit(mode, subsampling, progressive, size):
    picture = Image.fromarray(photo(*size)).convert(mode)
    data = saved(picture, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (97, 130), (8, 600)])
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_a_reduced_jpeg_has_the_rounded_up_size_and_the_same_picture(size, denominator):
    data = saved(photo(*size), "JPEG", quality=95, subsampling=0)
    reduced = EncodedImage(data, "x").decode(denominator)
    height, width = (-(-side // denominator) for side in size)
    assert reduced.shape == (height, width, 3)
    height, width = (side // denominator for side in size)
    if min(height, width) > 8:  # whole blocks: each is about the mean of its pixels
        whole = decoded(data)[: height * denominator, : width * denominator]
        blocks = whole.reshape(height, denominator, width, denominator, 3).mean(axis=(1, 3))
        assert np.abs(blocks - reduced[:height, :width]).mean() < 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone_and_counts_in_the_size(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(photo(24, 40), format, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = EncodedImage(data, "x")
    assert image.header.orientation == orientation
    assert image.size == (expected.height, expected.width)
    np.testing.assert_array_equal(decoded(data), np.asarray(expected.convert("RGB")))


def test_a_cmyk_jpeg_decodes_whatever_transform_its_adobe_marker_names():
    ink = (10, 200, 90, 40)
    data = saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100, subsampling=0)
    # Photoshop's way, and Pillow's: inks are stored inverted.
    plain = [(255 - c) * (255 - ink[3]) / 255 for c in ink[:3]]
    np.testing.assert_allclose(decoded(data)[8, 8], plain, atol=2)

    marker = data.index(b"Adobe")
    as_ycck = bytearray(data)
    as_ycck[marker + 11] = 2
    y, cb, cr, black = (255 - c for c in ink)
    rgb = (y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128))
    rgb = (*rgb, y + 1.772 * (cb - 128))
    # A decoder turns YCC into RGB and calls 255 - RGB the stored inks; inverted once more.
    expected = [(255 - np.clip(c, 0, 255)) * black / 255 for c in rgb]
    np.testing.assert_allclose(decoded(bytes(as_ycck))[8, 8], expected, atol=2)


def test_sixteen_bit_grey_keeps_its_upper_eight_bits():
    values = (np.arange(16 * 16) * 257).astype(np.uint16).reshape(16, 16)
    array = decoded(saved(values, "PNG"))
    for channel in range(3):
        np.testing.assert_array_equal(array[:, :, channel], values >> 8)


def test_sixteen_bit_colour_and_sixteen_bit_transparency_decode():
    colour = struct.pack(">B6H", 0, 0x1234, 0x8000, 0xFFFF, 0x0100, 0x00FF, 0x7F00)
    array = decoded(png(2, 1, 16, 2, colour))
    np.testing.assert_array_equal(array, [[[0x12, 0x80, 0xFF], [0x01, 0x00, 0x7F]]])

    grey = struct.pack(">B3H", 0, 0x1200, 0x1234, 0xFFFF)
    clear = b"tRNS" + struct.pack(">H", 0x1234)
    array = decoded(png(3, 1, 16, 0, grey, clear), background=RED)
    np.testing.assert_array_equal(array, [[[0x12] * 3, list(RED), [0xFF] * 3]])

    grey_alpha = struct.pack(">B4H", 0, 0x4000, 0xFFFF, 0x4000, 0)
    array = decoded(png(2, 1, 16, 4, grey_alpha), background=RED)
    np.testing.assert_array_equal(array, [[[0x40] * 3, list(RED)]])


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 120, 250)])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_is_laid_on_the_background(background, format):
    image = np.zeros((2, 3, 4), np.uint8)
    image[..., :3] = (200, 100, 50)
    image[..., 3] = [[0, 128, 255], [255, 51, 0]]
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    alpha = image[..., 3:] / 255
    expected = image[..., :3] * alpha + np.array(background) * (1 - alpha)
    array = decoded(saved(image, format, **options), background=background)
    assert np.abs(array - expected).max() <= 1
    np.testing.assert_array_equal(array[0, 0], background)
    np.testing.assert_array_equal(array[0, 2], (200, 100, 50))


def test_grey_with_alpha_and_transparent_palettes_are_laid_on_the_background():
    grey = Image.merge("LA", (Image.new("L", (4, 4), 80), Image.new("L", (4, 4), 0)))
    np.testing.assert_array_equal(decoded(saved(grey, "PNG"), background=RED)[0, 0], RED)

    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 255, 0, 255, 0])
    palette.putpixel((0, 0), 0)
    for data in (
        saved(palette, "PNG", transparency=0),
        saved(palette, "PNG", transparency=b"\x00\xff"),
        saved(palette, "GIF", transparency=0),
    ):
        array = decoded(data, background=RED)
        np.testing.assert_array_equal(array[0, 0], RED)
        np.testing.assert_array_equal(array[2, 2], (0, 255, 0))
    np.testing.assert_array_equal(decoded(saved(palette, "PNG"))[0, 0], (0, 0, 255))

    one_colour = saved(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    np.testing.assert_array_equal(decoded(one_colour, background=RED)[0, 0], RED)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (12, 10), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    np.testing.assert_array_equal(decoded(data), np.full((10, 12, 3), RED))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_a_single_pixel_decodes(format, mode):
    array = decoded(saved(Image.new("RGB", (1, 1), WHITE).convert(mode), format))
    np.testing.assert_array_equal(array, [[WHITE]])


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_every_kind_of_webp_tells_its_size(lossless, alpha):
    image = photo(31, 17)
    if alpha:
        image = np.concatenate([image, image[:, :, :1]], axis=-1)
    data = saved(image, "WEBP", lossless=lossless)
    assert EncodedImage(data, "x").size == (31, 17)
    assert decoded(data).shape == (31, 17, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_picture_is_bad_and_not_filled_up(format, part):
    data = saved(photo(60, 80), format)
    with pytest.raises(BadSample, match="shard-7/cut") as caught:
        EncodedImage(data[: int(len(data) * part)], "shard-7/cut").decode()
    assert caught.value.cause == "decode"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_noticed_at_every_scale(progressive):
    data = saved(photo(60, 80), "JPEG", progressive=progressive)
    for denominator in (1, *DENOMINATORS):
        assert EncodedImage(data + b"trailing", "x").decode(denominator).size
        with pytest.raises(BadSample, match="Premature end") as caught:
            EncodedImage(data[:-40], "x").decode(denominator)
        assert caught.value.cause == "decode"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(4096),
        b"<!DOCTYPE html><html><body>Not found</body></html>",
        b"\xff\xd8",
        saved(photo(8, 8), "BMP"),
        saved(photo(8, 8), "TIFF"),
        saved(photo(8, 8), "PPM"),
        saved(photo(8, 8), "JPEG2000"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
    ],
)
def test_what_is_none_of_the_four_formats_is_refused(data):
    for use in (lambda image: image.size, lambda image: image.decode()):
        with pytest.raises(BadSample, match=r"page\.jpg") as caught:
            use(EncodedImage(data, "page.jpg"))
        assert caught.value.cause == "format"


def test_a_format_hidden_behind_another_ones_header_is_not_opened():
    gif = saved(photo(8, 8), "GIF")
    with pytest.raises(BadSample) as caught:
        EncodedImage(b"\x89PNG\r\n\x1a\n" + gif, "x").decode()
    assert caught.value.cause == "decode"


def test_a_denominator_that_does_not_apply_is_an_error_in_the_caller():
    with pytest.raises(ValueError, match="1/2"):
        EncodedImage(saved(photo(8, 8), "PNG"), "x").decode(2)
    with pytest.raises(ValueError, match="1/3"):
        EncodedImage(saved(photo(8, 8), "JPEG"), "x").decode(3)
    with pytest.raises(ValueError, match="1/2"):
        EncodedImage(saved(Image.new("CMYK", (8, 8)), "JPEG"), "x").decode(2)


def test_limits_may_be_set_for_a_picture():
    data = saved(photo(20, 30), "PNG")
    assert decoded(data, max_pixels=600, max_side=30).shape == (20, 30, 3)
    for limits in ({"max_pixels": 599}, {"max_side": 29}):
        with pytest.raises(BadSample) as caught:
            EncodedImage(data, "x", **limits).decode()
        assert caught.value.cause == "too_large"


def test_threads_with_scratch_memory_do_not_see_each_others_pictures():
    images = [photo(90 + 7 * n, 120 + 5 * n, n) for n in range(12)]
    encoded = [EncodedImage(saved(image, "JPEG"), str(n)) for n, image in enumerate(images)]
    expected = [image.decode() for image in encoded]

    def same(number: int) -> bool:
        return np.array_equal(encoded[number % 12].decode(scratch=True), expected[number % 12])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, range(400)))


def test_results_without_scratch_memory_stay_as_they_are():
    first = EncodedImage(saved(photo(40, 50, 1), "JPEG"), "1").decode()
    before = first.copy()
    EncodedImage(saved(photo(40, 50, 2), "JPEG"), "2").decode(scratch=True)
    EncodedImage(saved(photo(40, 50, 3), "JPEG"), "3").decode()
    np.testing.assert_array_equal(first, before)


def test_an_encoded_image_travels_between_processes_and_hides_its_bytes():
    image = EncodedImage(saved(photo(8, 9), "PNG"), "x", background=(1, 2, 3))
    assert image.size == (8, 9)
    again = pickle.loads(pickle.dumps(image))
    assert again == image
    np.testing.assert_array_equal(again.decode(), image.decode())
    assert len(repr(image)) < 200


def test_pixels_takes_arrays_as_they_are_and_refuses_other_shapes():
    array = photo(5, 6)
    assert pixels(array) is array
    for wrong in (array[:, :, 0], array[:, :, :2], array.astype(np.float32), array[:0]):
        with pytest.raises(BadSample) as caught:
            pixels(wrong)
        assert caught.value.cause == "format"
