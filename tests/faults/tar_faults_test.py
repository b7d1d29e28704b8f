"""Hostile tars: nothing outside is touched, nothing is run, memory stays flat."""

import hashlib
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from mmjax.data import fields
from mmjax.data.sources import array_record, folder, index, webdataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))


def entry(name, data=b"", kind=tarfile.REGTYPE, link="", **headers):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, link
    member.pax_headers = headers
    return member, data


def write(path, entries, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as archive:
        for member, data in entries:
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def snapshot(root):
    """Everything below a folder: {path: what it is}."""
    found = {}
    for path in sorted(pathlib.Path(root).rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (os.lstat(path).st_mode, hashlib.sha256(data).hexdigest())
    return found


def keys(shard):
    source = webdataset.WebDataset(shard)
    return [source[position]["__key__"] for position in range(len(source))]


def test_members_that_lead_elsewhere_are_ignored_and_nothing_outside_is_touched(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "set").mkdir()
    outside = str(tmp_path / "secret.jpg")
    hostile = [
        entry("../secret.jpg", b"gone"),
        entry("a/../../secret.jpg", b"gone"),
        entry("..", b"gone"),
        entry(outside, b"gone"),
        entry("/etc/passwd.jpg", b"gone"),
        entry("soft.jpg", kind=tarfile.SYMTYPE, link=outside),
        entry("soft.txt", b"", kind=tarfile.SYMTYPE, link="../secret.jpg"),
        entry("hard.jpg", kind=tarfile.LNKTYPE, link=outside),
        entry("null.jpg", kind=tarfile.CHRTYPE),
        entry("disk.jpg", kind=tarfile.BLKTYPE),
        entry("pipe.jpg", kind=tarfile.FIFOTYPE),
        entry("folder.jpg", kind=tarfile.DIRTYPE),
        entry("unknown.jpg", b"data of an unknown kind", kind=b"Z"),
        entry("x" * 200 + "/../../secret.jpg", b"gone"),
    ]
    good = [entry(f"good{n}.{kind}", b"fine") for n in range(3) for kind in ("jpg", "txt")]
    mixed = [item for pair in zip(hostile, [*good, *good]) for item in pair]
    for number, form in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        members = mixed if form != tarfile.USTAR_FORMAT else [*mixed[:-4], *good]
        shard = write(tmp_path / "set" / f"{number}.tar", members, form)
        before = snapshot(tmp_path)
        assert set(keys(shard)) == {"good0", "good1", "good2"}
        kept = shard + index.SUFFIX
        after = snapshot(tmp_path)
        assert after.pop(kept)
        assert after == before
        source = webdataset.WebDataset(shard)
        for position in range(len(source)):
            record = source[position]
            assert {record["jpg"], record["txt"]} == {b"fine"}


PEAK = r"""
import re

def peak_bytes():  # not getrusage's, which begins with the memory of the process that started it
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read())[1])
"""

MILLION = """
import json, os, sys, time
import numpy as np
from mmjax.data.sources import index

def write(path, count):  # headers in bulk: members of no bytes
    with open(path, "wb") as file:
        for begin in range(0, count, 50_000):
            numbers = range(begin, min(count, begin + 50_000))
            names = [b"set/sample-%07d.%s" % (n // 2, (b"jpg", b"txt")[n % 2]) for n in numbers]
            headers = np.zeros((len(names), 512), np.uint8)
            headers[:, :100] = np.array(names, "S100").view(np.uint8).reshape(-1, 100)
            for at, field in ((100, b"0000644"), (124, b"0" * 11), (136, b"0" * 11),
                              (148, b" " * 8), (156, b"0"), (257, b"ustar\\x0000")):
                headers[:, at : at + len(field)] = np.frombuffer(field, np.uint8)
            sums = [b"%06o\\0 " % total for total in headers.sum(1, dtype=np.int64).tolist()]
            headers[:, 148:156] = np.array(sums, "V8").view(np.uint8).reshape(-1, 8)
            file.write(headers.tobytes())
        file.write(bytes(1024))

path, count = sys.argv[1], 1_000_000
if sys.argv[2] == "make":
    write(path, count)
if sys.argv[2] == "index":
    before = peak_bytes()
    opened = index.load_index(path)
if sys.argv[2] == "open":
    before, start = peak_bytes(), time.perf_counter()
    opened = index.load_index(path)
    seconds = time.perf_counter() - start
    print(json.dumps({
        "seconds": seconds,
        "bytes": os.path.getsize(opened.path),
        "samples": len(opened),
        "ends": [opened.sample(0)[0], opened.sample(len(opened) - 1)[0]],
        "members": sum(len(opened.sample(n)[1]) for n in range(0, len(opened), 1000)),
        "peak": peak_bytes() - before,
    }))
if sys.argv[2] == "index":
    print(json.dumps({"peak": peak_bytes() - before}))
"""


def test_a_million_members_are_indexed_in_flat_memory_and_opened_within_a_second(tmp_path):
    path = str(tmp_path / "a.tar")

    def run(what):
        command = [sys.executable, "-c", PEAK + MILLION, path, what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout else None

    try:
        run("make")
        made, opened = run("index"), run("open")
    finally:
        os.remove(path)
    assert made["peak"] < 150e6
    assert opened["seconds"] < 1
    assert opened["bytes"] < 100e6
    assert opened["peak"] < 100e6
    assert opened["samples"] == 500_000
    assert opened["ends"] == ["set/sample-0000000", "set/sample-0499999"]
    assert opened["members"] == 1000


def header(name, size, kind=b"0"):
    """A tar header that claims a size, whatever follows."""
    block = bytearray(512)
    block[: len(name)] = name
    claimed = b"\x80" + size.to_bytes(11, "big")
    for at, field in ((100, b"0000644"), (124, claimed), (136, b"0" * 11), (156, kind)):
        block[at : at + len(field)] = field
    block[257:265] = b"ustar  \0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


TEN_GB = 10_000_000_000
GOOD = header(b"good.jpg", 4) + b"fine".ljust(512, b"\0")
END = bytes(1024)

FLAT = """
import json, sys, time
from mmjax.data.sources import base, webdataset

before = peak_bytes()
start, answer = time.perf_counter(), []
try:
    source = webdataset.WebDataset(sys.argv[1])
    for position in range(len(source)):
        try:
            answer.append(source[position]["jpg"].decode())
        except base.BadSample as error:
            answer.append(error.cause)
except ValueError as error:
    answer = str(error)
peak = peak_bytes() - before
print(json.dumps([answer, peak, time.perf_counter() - start]))
"""


def flat(path):
    """What reading a shard gives, with memory and time watched from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + FLAT, str(path)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    answer, peak, seconds = json.loads(done.stdout)
    assert peak < 32e6
    return answer, seconds


@pytest.mark.parametrize(
    "claim",
    [
        header(b"big.jpg", TEN_GB),
        header(b"big.jpg", (1 << 88) - 1),
        header(b"long", TEN_GB, b"L"),
        header(b"link", TEN_GB, b"K"),
        header(b"pax", TEN_GB, b"x"),
        header(b"pax", TEN_GB, b"g"),
        header(b"pax", 512, b"x")
        + b"20 size=10000000000\n".ljust(512, b"\0")
        + header(b"a.jpg", 4),
    ],
    ids=["plain", "huge", "long name", "long link", "pax", "global pax", "size by pax"],
)
def test_a_header_that_claims_ten_gigabytes_is_refused_at_once(tmp_path, claim):
    path = tmp_path / "a.tar"
    path.write_bytes(GOOD + claim + bytes(512) + END)
    answer, seconds = flat(path)
    assert "a.tar" in answer
    assert "claims" in answer
    assert seconds < 1


def old_sparse():
    """GNU's old sparse member: 10 GB of holes and 4 bytes, its map going on in a second block."""
    block = bytearray(header(b"big.jpg", 512, b"S"))
    block[482], block[483:495] = 1, b"\x80" + TEN_GB.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512) + b"data".ljust(512, b"\0")


def test_sparse_members_of_ten_gigabytes_are_ignored(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(old_sparse() + GOOD + END)
    assert flat(path)[0] == ["fine"]
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "big.jpg",
        "GNU.sparse.realsize": str(TEN_GB),
    }
    write(path, [entry("GNUSparseFile.1/big.jpg", b"1\n0\n4\n".ljust(516), **pax),
                 entry("good.jpg", b"fine")])  # fmt: skip
    assert flat(path)[0] == ["fine"]


def test_a_member_that_truly_has_a_gigabyte_is_passed_over_in_flat_memory(tmp_path):
    path, size = tmp_path / "a.tar", 1 << 30
    with open(path, "wb") as file:
        file.write(GOOD + header(b"big.jpg", size))
        file.seek(size, os.SEEK_CUR)  # a hole: the disk holds none of it
        file.write(END)
    assert flat(path)[0] == ["fine", "too_large"]


@pytest.mark.parametrize(
    "path",
    [
        "pipe:touch {canary}",
        "{{pipe:touch ,x}}{canary}",
        ("good.tar", "pipe:touch {canary}; cat good.tar"),
        "file://{canary}",
        "http://127.0.0.1:9/a.tar",
        "gs://bucket/a.tar",
        "s3://bucket/a.tar",
        "PIPE:touch {canary}",
    ],
)
def test_addresses_are_refused_and_nothing_is_run(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.tar").write_bytes(GOOD + END)
    canary = str(tmp_path / "canary")
    several = isinstance(path, tuple)
    path = (
        tuple(part.format(canary=canary) for part in path)
        if several
        else path.format(canary=canary)
    )
    before = snapshot(tmp_path)
    for make in (webdataset.WebDataset, array_record.ArrayRecordSource):
        with pytest.raises(ValueError, match="is an address, not a file"):
            make(path)
    if not several and "{" not in path:
        for make in (folder.Folder, folder.Table):
            with pytest.raises(ValueError, match="is an address, not a file"):
                make(path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "path", ["|touch {0}", "; touch {0}", "$(touch {0})", "`touch {0}`", " pipe:touch {0}"]
)
def test_words_of_a_shell_are_only_names_of_files_that_are_not_there(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for make in (
        webdataset.WebDataset,
        array_record.ArrayRecordSource,
        folder.Folder,
        folder.Table,
    ):
        with pytest.raises(FileNotFoundError):
            make(path.format(tmp_path / "canary"))
    assert os.listdir(tmp_path) == []


class Canary:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def use(record, **options):
    """Everything that is done to a record's members before a transform sees them."""
    fields.Fields(**options)(record)["image"].decode()


def test_pickled_members_are_never_unpickled(tmp_path):
    canary = str(tmp_path / "canary")
    bomb = pickle.dumps(Canary(canary))
    array = io.BytesIO()
    np.save(array, np.array([Canary(canary)], object), allow_pickle=True)
    names = ("pkl", "pickle", "pyd", "pth", "pt", "cls", "json", "txt", "jpg", "ten", "mp", "index")
    entries = [entry(f"a.{name}", bomb) for name in names]
    entries += [entry(f"a.{name}", array.getvalue()) for name in ("npy", "npz")]
    entries += [entry("pipe:touch canary.jpg", b"fine"), entry("pipe:touch canary.txt", b"fine")]
    shard = write(tmp_path / "a.tar", entries)
    pathlib.Path(shard + index.SUFFIX).write_bytes(bomb)
    source = webdataset.WebDataset(shard)
    record = source[0]
    assert record["pkl"] == bomb
    assert record["npy"] == array.getvalue()
    for options in ({"caption_from": "txt"}, {"caption_from": "json:a"}, {"caption_from": "pkl"},
                    {"image_from": "npy", "label_from": "cls"}):  # fmt: skip
        with pytest.raises(fields.BadSample):
            use(record, **options)
    files = array_record.convert(source, str(tmp_path / "converted"))
    assert array_record.ArrayRecordSource(tuple(files))[0]["pkl"] == bomb
    assert source[1]["__key__"] == "pipe:touch canary"
    assert not os.path.exists(canary)
    pickle.loads(bomb)
    assert os.path.exists(canary)  # it would have sung
