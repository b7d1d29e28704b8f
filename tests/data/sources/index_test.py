"""A tar's index: samples, where it is kept, and when it is made anew."""

import io
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tarfile
import zlib

import pytest

from mmjax.data.sources import index, index_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path, files, mtime=0):
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), mtime
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def samples(shard):
    """[(key, {extension: bytes})] as the index of a shard tells it."""
    opened, raw, found = index.load_index(shard), open_bytes(shard), []
    for number in range(len(opened)):
        key, members = opened.sample(number)
        for _, at, size, crc in members:
            assert zlib.crc32(raw[at : at + size]) == crc
        found.append((key, {opened.kinds[k]: raw[at : at + n] for k, at, n, _ in members}))
    return found


def open_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def test_neighbours_with_one_key_are_a_sample(tmp_path):
    shard = write(
        tmp_path / "a.tar",
        [("b.jpg", b"1"), ("b.txt", b"2"), ("a.jpg", b"3"), ("a.txt", b"4"), ("c.txt", b"")],
    )
    assert samples(shard) == [
        ("b", {"jpg": b"1", "txt": b"2"}),
        ("a", {"jpg": b"3", "txt": b"4"}),
        ("c", {"txt": b""}),
    ]


def test_the_key_ends_at_the_first_dot_of_the_name_without_folders(tmp_path):
    files = [
        "./v1.0/x.seg.PNG",
        "v1.0/x.JPG",
        "v1.0/y.jpg",
        "noending",
        ".hidden.jpg",
        "v1.0/._x.jpg",
    ]
    shard = write(tmp_path / "a.tar", [(name, b"?") for name in [*files, "dot.", "ü.jpg"]])
    assert [(key, sorted(members)) for key, members in samples(shard)] == [
        ("v1.0/x", ["jpg", "seg.png"]),
        ("v1.0/y", ["jpg"]),
        ("ü", ["jpg"]),
    ]


def test_members_of_one_key_meet_wherever_they_stand(tmp_path):
    keys = [f"{number:03d}" for number in random.Random(0).sample(range(1000), 50)]
    files = [(f"{key}.jpg", key.encode()) for key in keys]
    files += [(f"{key}.txt", key[::-1].encode()) for key in sorted(keys)]
    shard = write(tmp_path / "a.tar", files)
    assert samples(shard) == [
        (key, {"jpg": key.encode(), "txt": key[::-1].encode()}) for key in keys
    ]


def test_two_sets_with_the_same_keys_in_one_tar_do_not_hide_each_other(tmp_path):
    files = [(f"{key}.{kind}", f"{which}{key}{kind}".encode())
             for which in "AB" for key in "012" for kind in ("jpg", "txt")]  # fmt: skip
    shard = write(tmp_path / "a.tar", files)
    assert samples(shard) == [
        (key, {"jpg": f"{which}{key}jpg".encode(), "txt": f"{which}{key}txt".encode()})
        for which in "AB"
        for key in "012"
    ]


def test_an_index_is_kept_beside_the_shard_and_opened_again(tmp_path, cache):
    shard = write(tmp_path / "a.tar", [("a.txt", b"1")])
    assert index.load_index(shard).path == shard + index.SUFFIX
    before = os.stat(shard + index.SUFFIX)
    index.load_index(shard)
    after = os.stat(shard + index.SUFFIX)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not cache.exists()
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar" + index.SUFFIX]


def test_beside_a_read_only_shard_nothing_is_written_and_the_cache_keeps_the_index(tmp_path, cache):
    folder = tmp_path / "set"
    folder.mkdir()
    shard = write(folder / "a.tar", [("a.txt", b"1")])
    folder.chmod(0o555)
    path = index.load_index(shard).path
    assert pathlib.Path(path).parent == cache / "index"
    assert index.load_index(shard).path == path
    assert os.listdir(folder) == ["a.tar"]
    os.remove(path)
    cache.joinpath("index").chmod(0o555)
    with pytest.raises(OSError, match="Set MMJAX_CACHE"):
        index.load_index(shard)
    cache.joinpath("index").chmod(0o755)
    folder.chmod(0o755)


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    assert index.cache_folder() == str(tmp_path / "cache")
    monkeypatch.delenv("MMJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert index.cache_folder() == str(tmp_path / "xdg" / "mmjax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert index.cache_folder() == str(home / ".cache" / "mmjax")
    shutil.rmtree(home)
    home.write_text("a home that cannot be written")
    monkeypatch.setattr(index.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    assert index.cache_folder() == str(tmp_path / "temporary" / f"mmjax-{os.getuid()}")


def test_a_shard_replaced_by_one_of_the_same_size_gets_a_new_index(tmp_path):
    shard = write(tmp_path / "a.tar", [("a.txt", b"1"), ("b.txt", b"2")])
    assert samples(shard)[0] == ("a", {"txt": b"1"})
    os.utime(write(tmp_path / "a.tar", [("c.txt", b"3"), ("d.txt", b"4")]), (1, 1))
    assert samples(shard) == [("c", {"txt": b"3"}), ("d", {"txt": b"4"})]


def test_a_grown_shard_gets_a_new_index(tmp_path):
    shard = write(tmp_path / "a.tar", [("a.txt", b"1")])
    index.load_index(shard)
    write(tmp_path / "a.tar", [(f"{number}.txt", b"1") for number in range(100)])
    assert len(index.load_index(shard)) == 100


def test_a_copy_keeps_the_checksums_that_were_taken_before_it(tmp_path):
    shard = write(tmp_path / "a.tar", [("a.txt", b"good"), ("b.txt", b"good")])
    checksum = index.load_index(shard).sample(0)[1][0][3]
    raw = bytearray(open_bytes(shard))
    raw[512] ^= 1
    (tmp_path / "a.tar").write_bytes(raw)
    os.utime(shard, (1, 1))
    assert index.load_index(shard).sample(0)[1][0][3] == checksum == zlib.crc32(b"good")


def test_no_flipped_bit_of_an_index_changes_what_is_read(tmp_path):
    files = [(f"{n}.{kind}", bytes([n]) * n) for n in range(30) for kind in ("jpg", "txt")]
    shard = write(tmp_path / "a.tar", files)
    expected, raw = samples(shard), open_bytes(shard + index.SUFFIX)
    draw = random.Random(0)
    for at in [*range(60), *(draw.randrange(len(raw)) for _ in range(100))]:
        damaged = bytearray(raw)
        damaged[at] ^= 1 << draw.randrange(8)
        pathlib.Path(shard + index.SUFFIX).write_bytes(damaged)
        assert samples(shard) == expected
    for cut in (0, 1, 15, 100, len(raw) - 1):
        pathlib.Path(shard + index.SUFFIX).write_bytes(raw[:cut])
        assert samples(shard) == expected
    assert open_bytes(shard + index.SUFFIX) == raw


@pytest.mark.parametrize(
    ("column", "value"),
    [("block", 1 << 31), ("size", 1 << 40), ("kind", 60_000), ("key_at", 1 << 40), ("first", 7)],
)
def test_a_sound_file_that_would_lead_out_of_the_shard_is_not_believed(tmp_path, column, value):
    shard = write(tmp_path / "a.tar", [("a.txt", b"1"), ("b.txt", b"2")])
    header, columns = index._make(shard)
    forged = columns[column].copy()
    forged[0] = value
    index_file.write_index(shard + index.SUFFIX, header, {**columns, column: forged})
    with pytest.raises(index_file.StaleIndex, match="does not describe"):
        index_file.open_index(shard + index.SUFFIX)
    assert samples(shard) == [("a", {"txt": b"1"}), ("b", {"txt": b"2"})]


def test_an_index_replaced_while_in_use_is_noticed(tmp_path):
    shard = write(tmp_path / "a.tar", [("a.txt", b"1")])
    body = index.load_index(shard).body
    index.load_index(write(tmp_path / "b.tar", [("b.txt", b"22")]))
    assert len(index_file.open_index(shard + index.SUFFIX, body)) == 1
    os.replace(tmp_path / ("b.tar" + index.SUFFIX), shard + index.SUFFIX)
    with pytest.raises(index_file.StaleIndex, match="replaced"):
        index_file.open_index(shard + index.SUFFIX, body)


def test_names_whose_keys_have_dots_are_explained(tmp_path):
    files = [(f"img.{number:06d}.jpg", b"") for number in range(4200)]
    with pytest.raises(ValueError, match="first dot"):
        index.load_index(write(tmp_path / "a.tar", files))


def test_several_processes_may_make_an_index_at_once(tmp_path):
    files = [(f"{number:05d}.txt", b"x" * number) for number in range(2000)]
    shard = write(tmp_path / "a.tar", files)
    script = (
        "import sys, time\nfrom mmjax.data.sources import index\nprint('ready', flush=True)\n"
        "sys.stdin.readline()\nopened = index.load_index(sys.argv[1])\n"
        "print(len(opened), opened.body, opened.sample(1999))\n"
    )
    made = [
        subprocess.Popen(
            [sys.executable, "-c", script, shard],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in made:
        assert process.stdout.readline() == "ready\n"
    for process in made:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0] for process in made}
    assert len(answers) == 1
    assert answers.pop().startswith("2000 ")
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar" + index.SUFFIX]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_an_index_is_not_opened(tmp_path, make):
    shard = write(tmp_path / "a.tar", [("0.txt", b"one")])
    make(shard + index.SUFFIX)
    for _ in range(2):
        assert samples(shard) == [("0", {"txt": b"one"})]
    kept = index.load_index(shard).path
    assert (kept == shard + index.SUFFIX) == (make is os.mkfifo)  # a folder stays, and all in it
