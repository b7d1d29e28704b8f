"""What the first bytes of a picture say: its format, size and EXIF rotation.

Read with the standard library alone and before any decoder sees the file, so that a picture which
would take gigabytes or minutes to decode is refused at the cost of a few microseconds.
"""

import struct
from typing import NamedTuple

from mmjax.data.sources.base import BadSample

__all__ = ["MAX_PIXELS", "MAX_SCANS", "MAX_SIDE", "Header", "read_header"]

MAX_PIXELS = 64_000_000
MAX_SIDE = 16_384
MAX_SCANS = 100  # ten are usual; crushers of JPEGs use up to some thirty
MAX_SCANNED_PIXELS = 16 * MAX_PIXELS  # pixels × scans: about half a second of decoding
MAX_SEGMENTS = 10_000

# Start-of-frame markers: the ones for Huffman tables differ by 8 from those for arithmetic coding.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})  # no markers, or ones without a length


class Header(NamedTuple):
    """What a picture says of itself before it is decoded.

    Attributes:
      format: Pillow's name of the format: 'JPEG', 'PNG', 'WEBP' or 'GIF'.
      height: rows as stored, in pixels.
      width: columns as stored, in pixels.
      orientation: EXIF orientation, 1 (upright) to 8.
      channels: colour components of a JPEG (1, 3 or 4), 0 for the other formats.
    """

    format: str
    height: int
    width: int
    orientation: int
    channels: int


def exif_orientation(exif: bytes) -> int:
    """The orientation that a block of EXIF says, 1 where it says none or makes no sense.

    Source: TIFF 6.0, section 2; EXIF 2.32, tag 0x0112.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (offset,) = struct.unpack_from(order + "I", exif, 4)
    if offset + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, offset)
    for entry in range(offset + 2, min(offset + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == 0x0112 and kind == 3:
            (orientation,) = struct.unpack_from(order + "H", exif, entry + 8)
            return orientation if 1 <= orientation <= 8 else 1
    return 1


def _jpeg(data: bytes) -> Header:
    """Walks the segments up to the first scan (ITU-T T.81, annex B)."""
    position, orientation, frame = 2, 1, None
    for _ in range(MAX_SEGMENTS):
        position = data.find(b"\xff", position) + 1
        if not position or position >= len(data):
            raise BadSample("decode", "ends before its first row of pixels")
        marker = data[position]
        if marker == 0xFF:  # fill bytes
            continue
        if marker in _BARE:
            position += 1
            continue
        length = int.from_bytes(data[position + 1 : position + 3], "big")
        body = position + 3
        position += 1 + length
        if marker == 0xD9 or length < 2 or position > len(data):
            raise BadSample("decode", "ends before its first row of pixels")
        if marker in _FRAMES and frame is None and length >= 8:
            precision, height, width, channels = struct.unpack_from(">BHHB", data, body)
            frame = marker
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[body + 6 : position])
        elif marker == 0xDA and length >= 3:
            break
    else:
        raise BadSample("decode", f"over {MAX_SEGMENTS:,} segments before the picture")
    if frame is None:
        raise BadSample("decode", "pixels before any size")
    if precision != 8:
        raise BadSample("format", f"a JPEG of {precision} bits a channel, where only 8 are read")
    pixels = height * width
    # A block of 8 × 8 takes at least two Huffman codes, or one when progressive: what is shorter
    # was cut, and would be found cut only after all its pixels were made up.
    if frame < 0xC8 and len(data) < pixels // (512 if frame in _PROGRESSIVE else 256):
        raise BadSample("decode", f"{len(data):,} bytes cannot hold {height} × {width} pixels")
    if frame in _PROGRESSIVE or data[body] < channels:
        scans = 1 + data.count(b"\xff\xda", position)
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
            raise BadSample("too_large", f"{scans} scans of {height} × {width} pixels")
    return Header("JPEG", height, width, orientation, channels)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise BadSample("decode", "a PNG that ends in its header")
    width, height = struct.unpack_from(">II", data, 16)
    position, orientation = 33, 1
    for _ in range(MAX_SEGMENTS):
        if position + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
            break
        position += 12 + length
    return Header("PNG", height, width, orientation, 0)


def _webp(data: bytes) -> Header:
    """Reads the first chunk, and in the extended form looks for EXIF (RFC 9649)."""
    kind, orientation = data[12:16], 1
    if len(data) < 30:
        raise BadSample("decode", "a WebP that ends in its header")
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        position = 30
        for _ in range(MAX_SEGMENTS):
            if position + 8 > len(data):
                break
            name, length = struct.unpack_from("<4sI", data, position)
            if name == b"EXIF":
                exif = data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
                orientation = exif_orientation(exif)
                break
            position += 8 + length + length % 2
    else:
        raise BadSample("decode", f"a WebP whose first chunk is {kind!r}")
    return Header("WEBP", height, width, orientation, 0)


def _gif(data: bytes) -> Header:
    if len(data) < 13:
        raise BadSample("decode", "a GIF that ends in its header")
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", height, width, 1, 0)


def read_header(data: bytes, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> Header:
    """The header of a JPEG, PNG, WebP or GIF, with the size checked.

    Args:
      data: the whole file.
      max_pixels: the most pixels that are allowed.
      max_side: the longest side that is allowed, in pixels.

    Raises:
      BadSample: 'format' where it is none of the four, 'too_large' where the size or the number of
        scans is beyond the limits, 'decode' where the header is broken or cut.
    """
    if data.startswith(b"\xff\xd8\xff"):
        header = _jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        header = _png(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        header = _webp(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        header = _gif(data)
    else:
        start = bytes(data[:12])
        raise BadSample(
            "format",
            f"{len(data):,} bytes that begin with {start!r}: not a JPEG, PNG, WebP or GIF",
        )
    height, width = header.height, header.width
    if not height or not width:
        raise BadSample("decode", f"a size of {height} × {width} pixels")
    if height * width > max_pixels or max(height, width) > max_side:
        raise BadSample(
            "too_large",
            f"{height:,} × {width:,} pixels; at most {max_pixels:,} in all and {max_side:,} a side",
        )
    return header
