"""Hostile pictures: bombs are refused from the header, mutations neither crash, hang nor grow.

Run by itself this file is the worker that the tests watch from outside, so that a crash of a
decoder below Python is seen as one.
"""

import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
from PIL import Image, ImageOps

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.decode import EncodedImage
from mmjax.data.transforms.image import RandomResizedCrop
from mmjax.data.transforms.resize import Resize

MUTATIONS = 10_000
CONTROL = "49 megapixels, within the limits"


def saved(picture: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.integers(-8, 9, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def flat_png(height: int, width: int) -> bytes:
    """A real PNG of one grey, made row by row, whatever its size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def resized_jpeg(height: int, width: int, **options) -> bytes:
    """A JPEG that says another size than it has."""
    data = saved(photo(64, 64), "JPEG", **options)
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def scan_bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG that repeats a scan of a few bytes over all its pixels."""
    data = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def bombs() -> dict[str, tuple[bytes, str]]:
    """Name to (bytes, the cause they must be refused with)."""
    gif = saved(Image.new("L", (8, 8)), "GIF")
    webp = saved(Image.new("RGBA", (8, 8)), "WEBP", exif=b"II*\0")
    wide = (16_000).to_bytes(3, "little")
    return {
        "144 megapixels of PNG": (flat_png(12_000, 12_000), "too_large"),
        "50,000 × 1": (flat_png(50_000, 1), "too_large"),
        "1 × 50,000": (flat_png(1, 50_000), "too_large"),
        "144 megapixels of JPEG": (resized_jpeg(12_000, 12_000) + bytes(140_000), "decode"),
        "the same with bytes enough": (resized_jpeg(12_000, 12_000) + bytes(600_000), "too_large"),
        "a progressive one": (
            resized_jpeg(12_000, 12_000, progressive=True) + bytes(300_000),
            "too_large",
        ),
        "50,000 × 1 of JPEG": (resized_jpeg(50_000, 1), "too_large"),
        "a million scans": (scan_bomb(1000, 20_000), "too_large"),
        "64 megapixels, 100 scans": (
            resized_jpeg(8000, 8000, progressive=True) + scan_bomb(64, 90)[2:] + bytes(200_000),
            "too_large",
        ),
        "a GIF of 65,535 squared": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "too_large"),
        "a WebP of 16,000 squared": (webp[:24] + wide + wide + webp[30:], "too_large"),
    }


def peak_bytes() -> int:
    # Not getrusage's, which begins with the memory of the process that started this one.
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def refuse_bombs() -> dict[str, dict]:
    """What each bomb did in this process: cause, seconds, growth of the peak of memory."""
    made = {**bombs(), CONTROL: (flat_png(7000, 7000), "")}
    EncodedImage(saved(photo(8, 8), "JPEG"), "warm-up").decode()
    outcomes = {}
    for name, (data, _) in made.items():
        before, start, cause = peak_bytes(), time.perf_counter(), ""
        try:
            EncodedImage(data, "bomb").decode()
        except BadSample as problem:
            cause = problem.cause
        seconds = time.perf_counter() - start
        outcomes[name] = {"cause": cause, "seconds": seconds, "growth": peak_bytes() - before}
    return outcomes


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four random damages, half of them among the first bytes, where the tables are."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 700)
        place = int(rng.integers(2, max(end, 3)))
        length = int(rng.integers(1, 40))
        match int(rng.integers(0, 7)):
            case 0:
                changed[place : place + 1] = bytes([int(rng.integers(0, 256))])
            case 1 if place < len(changed):
                changed[place] ^= 1 << int(rng.integers(0, 8))
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = rng.bytes(length)
            case 4:
                changed[place : place + length] = bytes([0xFF if rng.random() < 0.5 else 0]) * (
                    length
                )
            case 5:
                other = int(rng.integers(2, max(len(changed) - length, 3)))
                changed[place:place] = changed[other : other + 10 * length]
            case _:
                if rng.random() < 0.2:
                    del changed[place:]
                else:  # a marker out of place: sizes, scans, tables
                    marker = (0xC0, 0xC2, 0xC4, 0xC9, 0xDA, 0xDB, 0xDD, 0xE1, 0xD9)
                    changed[place : place + 2] = bytes([0xFF, int(rng.choice(marker))])
    return bytes(changed)


def run_mutations(seed: int, count: int) -> dict:
    """Puts damaged JPEGs through the transforms; what came of them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    bases = [
        saved(photo(48, 64), "JPEG", quality=80),
        saved(photo(40, 40), "JPEG", quality=90, subsampling=0, restart_marker_blocks=2),
        saved(photo(50, 70), "JPEG", progressive=True),
        saved(photo(96, 90), "JPEG", progressive=True, subsampling=0),
        saved(photo(48, 64).convert("L"), "JPEG"),
        saved(photo(32, 48).convert("CMYK"), "JPEG"),
        saved(photo(60, 30), "JPEG", exif=exif, optimize=True),
    ]
    transforms = (RandomResizedCrop(16, (0.2, 1.0)), Resize(24, "shortest"))
    rng = np.random.default_rng(seed)
    outcome = {"good": 0, "slowest": 0.0, "causes": {}, "growth": 0}
    start = 0
    for number in range(count):
        if number == count // 10:
            start = peak_bytes()
        data = mutate(bases[number % len(bases)], rng)
        began = time.perf_counter()
        try:
            sample = {"image": EncodedImage(data, "mutation")}
            image = transforms[number % 2](sample, np.random.default_rng(number))["image"]
            assert image.dtype == np.uint8
            assert image.shape in ((16, 16, 3), (24, 24, 3))
            outcome["good"] += 1
        except BadSample as problem:
            outcome["causes"][problem.cause] = outcome["causes"].get(problem.cause, 0) + 1
        outcome["slowest"] = max(outcome["slowest"], time.perf_counter() - began)
    outcome["growth"] = peak_bytes() - start
    return outcome


def in_a_process_of_its_own(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


def test_bombs_are_refused_from_their_headers_in_50_ms_and_50_mb():
    made, outcomes = bombs(), in_a_process_of_its_own("bombs")
    assert len(made["144 megapixels of PNG"][0]) < 150_000
    control = outcomes.pop(CONTROL)  # the watch over time and memory sees a large picture
    assert control["cause"] == ""
    assert control["growth"] > 50e6
    assert control["seconds"] > 0.05
    assert {name: outcome["cause"] for name, outcome in outcomes.items()} == {
        name: cause for name, (_, cause) in made.items()
    }
    for name, outcome in outcomes.items():
        assert outcome["seconds"] < 0.05, name
        assert outcome["growth"] < 50e6, name


def test_odd_but_honest_pictures_are_taken_by_every_transform():
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = photo(40, 60)
    grey = Image.fromarray((np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60))
    faded = Image.merge("LA", (rgb.convert("L"), Image.new("L", rgb.size, 128)))
    frames = {"save_all": True, "append_images": [photo(40, 60, 1), photo(40, 60, 2)]}
    white = Image.new("L", rgb.size, 255)
    blend = Image.blend(rgb.convert("L"), white, 127 / 255).convert("RGB")
    pictures = {
        "1 × 1": (saved(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), None),
        "1 × 1 JPEG": (saved(Image.new("L", (1, 1), 7), "JPEG"), None),
        "CMYK": (saved(rgb.convert("CMYK"), "JPEG", quality=95, subsampling=0), rgb),
        "16 bits": (
            saved(grey, "PNG"),
            Image.fromarray((np.asarray(grey) >> 8).astype(np.uint8)).convert("RGB"),
        ),
        "grey and alpha": (saved(faded, "PNG"), blend),
        "animated GIF": (saved(rgb, "GIF", **frames), rgb.quantize().convert("RGB")),
        "animated WebP": (saved(rgb, "WEBP", lossless=True, **frames), rgb),
        "animated PNG": (saved(rgb, "PNG", **frames), rgb),
        "rotated": (
            saved(rgb, "JPEG", exif=exif, quality=95, subsampling=0),
            rgb.transpose(Image.Transpose.ROTATE_270),
        ),
    }
    rng = np.random.default_rng(0)
    for name, (data, expected) in pictures.items():
        if expected is not None:
            array = EncodedImage(data, name).decode()
            assert np.abs(array.astype(int) - np.asarray(expected)).mean() < 4, name
            opened = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            assert opened.size == array.shape[1::-1]
        for transform in (RandomResizedCrop(16), Resize(16), Resize(16, "longest")):
            image = transform({"image": EncodedImage(data, name)}, rng)["image"]
            assert image.shape == (16, 16, 3), name


def test_ten_thousand_mutations_neither_crash_nor_hang_nor_grow():
    outcome = in_a_process_of_its_own("mutate", "17", str(MUTATIONS))
    assert outcome["good"] + sum(outcome["causes"].values()) == MUTATIONS
    assert set(outcome["causes"]) <= {"format", "decode", "too_large"}
    # Both ends were reached: some damage is harmless, most is noticed by the decoder.
    assert outcome["good"] > 500
    assert outcome["causes"]["decode"] > 2000
    assert outcome["slowest"] < 1.0
    assert outcome["growth"] < 30e6


def test_the_same_mutations_come_out_the_same_again():
    first, second = (in_a_process_of_its_own("mutate", "3", "600") for _ in range(2))
    assert (first["good"], first["causes"]) == (second["good"], second["causes"])


if __name__ == "__main__":
    if sys.argv[1] == "mutate":
        print(json.dumps(run_mutations(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        print(json.dumps(refuse_bombs()))
