"""Sizes, rotations and limits are read from the first bytes, however strange these are."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.header import (
    MAX_PIXELS,
    MAX_SCANS,
    MAX_SIDE,
    Header,
    exif_orientation,
    read_header,
)


def saved(format: str, height: int = 40, width: int = 60, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 120 if mode == "L" else None).save(file, format, **options)
    return file.getvalue()


def with_jpeg_size(data: bytes, height: int, width: int) -> bytes:
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def cause_of(data: bytes) -> str:
    try:
        read_header(data)
    except BadSample as problem:
        return problem.cause
    return ""


def exif_block(order: str, *entries: tuple[int, int, int]) -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    body = struct.pack(order + "IH", 8, len(entries))
    for tag, kind, value in entries:
        body += struct.pack(order + "HHIHH", tag, kind, 1, value, 0)
    return head + body


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_header_tells_format_and_size(format):
    header = read_header(saved(format))
    assert header == Header(format, 40, 60, 1, 3 if format == "JPEG" else 0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_found_among_other_tags_in_both_byte_orders(order):
    block = exif_block(order, (0x010F, 2, 7), (0x0112, 3, 6), (0x0131, 3, 2))
    assert exif_orientation(block) == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\x7f",
        b"XX*\0" + bytes(40),
        exif_block("<", (0x0112, 3, 9)),
        exif_block("<", (0x0112, 3, 0)),
        exif_block("<", (0x0112, 2, 6)),
        exif_block("<", (0x0112, 3, 6))[:-6],
        exif_block("<"),
    ],
)
def test_an_orientation_that_makes_no_sense_is_upright(block):
    assert exif_orientation(block) == 1


@pytest.mark.parametrize(
    ("height", "width"), [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (8000, 8001), (65535, 65535)]
)
def test_sizes_beyond_the_limits_are_refused_in_every_format(height, width):
    jpeg = with_jpeg_size(saved("JPEG"), height, width) + bytes(height * width // 200)
    png = saved("PNG")
    png = png[:16] + struct.pack(">II", width, height) + png[24:]
    gif = saved("GIF")
    gif = gif[:6] + struct.pack("<HH", width, height) + gif[10:]
    webp = saved("WEBP", mode="RGBA", exif=b"II*\0")
    assert webp[12:16] == b"VP8X"
    webp = webp[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    for data in (jpeg, png, gif, webp + bytes(60)):
        with pytest.raises(BadSample, match=f"{height:,} × {width:,}") as caught:
            read_header(data)
        assert caught.value.cause == "too_large"


def test_sizes_at_the_limits_are_taken():
    for height, width in ((MAX_SIDE, 3000), (8000, MAX_PIXELS // 8000)):
        data = with_jpeg_size(saved("JPEG"), height, width) + bytes(height * width // 200)
        assert read_header(data)[1:3] == (height, width)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_a_size_of_nothing_is_broken(format):
    data = bytearray(saved(format))
    if format == "JPEG":
        data = bytearray(with_jpeg_size(bytes(data), 0, 60))
    else:
        start = 20 if format == "PNG" else 8
        data[start : start + (4 if format == "PNG" else 2)] = bytes(4 if format == "PNG" else 2)
    with pytest.raises(BadSample) as caught:
        read_header(bytes(data))
    assert caught.value.cause == "decode"


@pytest.mark.parametrize("progressive", [False, True])
def test_the_emptiest_real_jpeg_is_not_taken_for_a_cut_one(progressive):
    data = saved("JPEG", 2000, 2000, mode="L", progressive=progressive, optimize=True)
    assert read_header(data)[1:3] == (2000, 2000)
    # A single colour needs the fewest bytes there are; a size four times that is a lie.
    with pytest.raises(BadSample, match="cannot hold") as caught:
        read_header(with_jpeg_size(data, 4000 if not progressive else 8000, 4000))
    assert caught.value.cause == "decode"


def test_too_many_scans_are_refused_by_number_and_by_work():
    data = saved("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    usual = data.count(b"\xff\xda")
    assert usual == 10
    assert read_header(data[:-2] + scan * (MAX_SCANS - usual) + b"\xff\xd9").format == "JPEG"
    with pytest.raises(BadSample, match=f"{MAX_SCANS + 1} scans") as caught:
        read_header(data[:-2] + scan * (MAX_SCANS - usual + 1) + b"\xff\xd9")
    assert caught.value.cause == "too_large"

    large = with_jpeg_size(data, 8000, 8000) + bytes(200_000)
    assert read_header(large).height == 8000
    with pytest.raises(BadSample, match="20 scans") as caught:
        read_header(large[:-2] + scan * 10)
    assert caught.value.cause == "too_large"


def test_scans_are_counted_where_each_colour_has_its_own():
    data = saved("JPEG")
    start = data.index(b"\xff\xda")
    alone = data[:start] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x11" * 40
    with pytest.raises(BadSample, match="scans"):
        read_header(alone + alone[start:] * MAX_SCANS)


def test_fill_bytes_and_stray_bytes_between_segments_are_passed_over():
    data = saved("JPEG")
    assert read_header(data[:2] + b"\xff\xff\xff" + data[3:]) == read_header(data)
    app0 = 4 + int.from_bytes(data[4:6], "big")
    stray = data[:app0] + b"\x00\x12\xff\x00\xff\x01" + data[app0:]
    assert read_header(stray) == read_header(data)


def test_every_cut_of_a_header_is_a_bad_sample():
    for format in ("JPEG", "PNG", "WEBP", "GIF"):
        data = saved(format, 8, 8)
        causes = [cause_of(data[:length]) for length in range(len(data))]
        assert set(causes) <= {"", "format", "decode"}
        # Once enough is there the size is known, and stays known.
        known = causes.index("")
        assert 10 < known < len(data)
        assert set(causes[known:]) == {""}


def test_segments_without_end_are_refused():
    rng = np.random.default_rng(0)
    for marker in (0xE0, 0xFE):
        data = b"\xff\xd8" + bytes([0xFF, marker, 0, 2]) * 200_000 + rng.bytes(100)
        with pytest.raises(BadSample, match="segments") as caught:
            read_header(data)
        assert caught.value.cause == "decode"


def test_twelve_bits_a_channel_are_refused_by_format():
    data = saved("JPEG")
    frame = data.index(b"\xff\xc0")
    with pytest.raises(BadSample, match="12 bits") as caught:
        read_header(data[: frame + 4] + b"\x0c" + data[frame + 5 :])
    assert caught.value.cause == "format"
