"""Hostile and damaged weights: one line that says what is wrong, nothing half loaded or written."""

import ast
import io
import json
import pathlib
import pickle
import re
import shlex
import shutil
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import __main__
from mmjax.config import ConfigError
from mmjax.interop.tensors import Npz, Safetensors, WeightsError
from mmjax.run.flags import parse_train
from mmjax.run.training import train

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "whole" / "clip_hf"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture
def folder(tmp_path):
    """A copy of a small CLIP in Hugging Face layout."""
    return pathlib.Path(shutil.copytree(GOLDEN, tmp_path / "weights"))


def snapshot(root):
    return {str(path): path.lstat().st_mtime_ns for path in sorted(root.rglob("*"))}


def refused(source, *words):
    """The one line with which a source is refused by `mmjax.load`."""
    with pytest.raises(WeightsError) as raised:
        mmjax.load(source)
    told = str(raised.value)
    assert len(told.splitlines()) == 1
    for word in words:
        assert word in told
    return told


def shard(header, data=b"", length=None):
    """The bytes of a .safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HEADERS = {
    "empty": (b"", "0 bytes"),
    "shorter than a length": (b"abc", "3 bytes"),
    "a length past the end": (shard({}, length=10**6), "a header of 1000000 bytes"),
    "a length of 2^63": (shard({}, length=2**63), "a header of"),
    "not JSON": (shard(b"{nonsense"), "no JSON"),
    "not UTF-8": (shard(b"\xff\xfe{}"), "no JSON"),
    "a list": (shard(b"[]"), "no object"),
    "deep": (shard(b'{"a":' + DEEP.encode() + b"}"), "no JSON"),
    "a name twice": (
        shard(f'{{"a": {json.dumps(one())}, "a": {json.dumps(one())}}}'.encode(), bytes(8)),
        "twice",
    ),
    "overlapping": (shard({"a": one(), "b": one(offsets=(4, 12))}, bytes(12)), "does not begin"),
    "the same bytes twice": (shard({"a": one(), "b": one()}, bytes(8)), "does not begin"),
    "a hole": (shard({"a": one(), "b": one(offsets=(9, 17))}, bytes(17)), "does not begin"),
    "bytes left over": (shard({"a": one()}, bytes(9)), "end at byte"),
    "cut": (shard({"a": one()}, bytes(7)), "end at byte"),
    "backwards": (shard({"a": one(offsets=(8, 0))}, bytes(8)), "does not take -8 bytes"),
    "a huge shape": (shard({"a": one(shape=(10**12, 10**12))}, bytes(8)), "does not take"),
    "a product past 64 bits": (shard({"a": one(shape=(2**32, 2**32))}, bytes(8)), "not take"),
    "a negative side": (shard({"a": one(shape=(-1, -2))}, bytes(8)), "has the shape"),
    "a shape of truths": (shard({"a": one(shape=(True, 2))}, bytes(8)), "has the shape"),
    "a shape of text": (shard({"a": {**one(), "shape": "22"}}, bytes(8)), "has the shape"),
    "an unknown dtype": (shard({"a": one("F4")}, bytes(8)), "dtype 'F4'"),
    "a dtype that is no text": (shard({"a": one(["F32"])}, bytes(8)), "dtype"),
    "no dtype": (shard({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "needs dtype"),
    "an entry that is none": (shard({"a": 3}), "needs dtype"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_lying_header_is_refused(folder, name):
    content, word = HEADERS[name]
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, WEIGHTS, word)


def test_every_cut_of_a_file_is_noticed(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for length in np.linspace(0, len(whole) - 1, 20).astype(int):
        (folder / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="no safetensors file"):
            Safetensors([folder / WEIGHTS])


def test_a_file_that_is_cut_after_it_was_opened_is_an_error_not_a_signal(folder):
    tensors = Safetensors([folder / WEIGHTS])
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(WeightsError, match="bytes too early"):
        tensors.get("vision_model.pre_layrnorm.weight")


def test_a_name_that_moves_the_cursor_is_shown_as_its_number(folder):
    arrays = load_file(folder / WEIGHTS)
    save_file({**arrays, "evil\n\x1b[2J\u202e": np.zeros(2, np.float32)}, folder / WEIGHTS)
    assert "evil\\n\\x1b[2J\\u202e" in refused(folder, "holds besides")


@pytest.fixture
def sharded(folder):
    """The same in two shards with an index; ({name: file}, write the index)."""
    arrays = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(arrays)}
    for file in set(places.values()):
        save_file({name: arrays[name] for name in arrays if places[name] == file}, folder / file)

    def index(**changes):
        told = json.dumps({"metadata": {}, "weight_map": {**places, **changes}})
        (folder / INDEX).write_text(told)

    index()
    return places, index


def test_shards_are_joined_by_their_index(folder, sharded):
    shards, whole = mmjax.load(folder), mmjax.load(GOLDEN)
    np.testing.assert_array_equal(shards.params["log_scale"], whole.params["log_scale"])


def test_an_index_that_does_not_fit_its_shards_is_refused(folder, sharded):
    places, index = sharded
    first, second = sorted(set(places.values()))
    name = next(name for name, file in places.items() if file == first)
    index(**{name: second})
    refused(folder, name, "is not where")
    index(more=first)
    refused(folder, "more", "in no shard")
    index(**{name: "../x.safetensors"})
    (folder.parent / "x.safetensors").write_bytes((folder / first).read_bytes())
    refused(folder, "'../x.safetensors'", "no name of a shard")
    index(**{name: str(folder / first)})
    refused(folder, "no name of a shard")
    index(**{name: "model-00003-of-00003.safetensors"})
    refused(folder, "model-00003-of-00003.safetensors", "missing")
    index()
    save_file({**load_file(folder / second), name: np.zeros(1, np.float32)}, folder / second)
    refused(folder, name, "another shard too")
    (folder / second).unlink()
    refused(folder, second, "missing")
    for told in ("[]", "{}", "{nonsense", '{"weight_map": 3}', DEEP, '{"weight_map": {"a": [1]}}'):
        (folder / INDEX).write_text(told)
        refused(folder, INDEX)


class Canary:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "names",
    [
        ("pytorch_model.bin",),
        ("model.pt",),
        ("open_clip_pytorch_model.bin",),
        ("weights.ckpt",),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
    ],
    ids=lambda names: names[0],
)
@pytest.mark.parametrize("config", ["hf", "none"])
def test_pickles_are_refused_with_the_command_that_converts_them(folder, names, config, tmp_path):
    canary = tmp_path / "canary"
    (folder / WEIGHTS).unlink()
    if config == "none":
        (folder / "config.json").unlink()
    for name in (*names, "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    told = refused(folder, names[0], "a pickle", "@refs/pr/N")
    command = shlex.split(told[told.index("python -c ") :])
    assert command[:2] == ["python", "-c"]
    (program,) = command[2:]  # nothing is behind it
    ast.parse(program)
    for name in names:
        assert str(folder / name) in program
    assert ("training_args.bin" in program) == (names == ("weights.ckpt",))
    assert str(folder / WEIGHTS) in program
    assert "weights_only=True" in program
    refused(folder / names[0], "a pickle", "python -c ")
    assert not canary.exists()


def test_a_pickle_under_another_ending_is_not_opened(folder, tmp_path):
    canary = tmp_path / "canary"
    content = pickle.dumps(Canary(canary))
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, "no safetensors file")
    for name in ("siglip.npz", "siglip.npy", "siglip"):
        (folder / name).write_bytes(content)
        refused(folder / name, name)
    assert not canary.exists()


def npy(array=None, header=None, data=b""):
    """The bytes of a member of an .npz."""
    file = io.BytesIO()
    if array is not None:
        np.save(file, array, allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(data)
    return file.getvalue()


def header(shape, descr="<f4"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def archive(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def complains(path, word, name="a"):
    """An .npz, or an array of it, is refused."""
    with pytest.raises(WeightsError, match=word) as raised:
        Npz(path).get(name)
    assert len(str(raised.value).splitlines()) == 1


def test_arrays_of_objects_are_refused_and_not_unpickled(tmp_path):
    canary = tmp_path / "canary"
    objects = np.array([Canary(canary)], object)
    complains(archive(tmp_path / "a.npz", [("a.npy", npy(objects))]), "holds objects")
    raw = pickle.dumps(Canary(canary))
    complains(archive(tmp_path / "b.npz", [("a.npy", raw)]), "magic string")
    complains(archive(tmp_path / "c.npz", [("a.pkl", raw)]), "is no array")
    fields = npy(np.zeros(2, [("x", "<f4"), ("y", "O")]))
    complains(archive(tmp_path / "d.npz", [("a.npy", fields)]), "holds objects")
    refused(archive(tmp_path / "e.npz", [("a.npy", npy(objects))]), "no SigLIP")
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_an_npz_that_lie_are_refused(tmp_path):
    def made(content, name="a.npy"):
        return archive(tmp_path / "a.npz", [(name, content)])

    complains(made(npy(header=header((10**12,)), data=bytes(8))), "takes 4000000000128 bytes")
    complains(made(npy(header=header((1,)), data=bytes(8))), "takes 132 bytes, not 136")
    complains(made(npy(header=header((-1, -2)), data=bytes(8))), "shape")
    complains(made(npy(header=header((2**40, 2**40)), data=bytes(8))), "takes")
    complains(made(b"\x93NUMPY\x01\x00\xff\xff{"), "EOF")
    complains(made(b"\x93NUMPY\x01\x00\x05\x00{{{{{"), "a:")
    complains(made(b"\x93NUMPY\x07\x00"), "version|format")
    twice = [("a.npy", npy(np.zeros(2))), ("a.npy", npy(np.ones(2)))]
    complains(archive(tmp_path / "b.npz", twice), "twice")


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    many = npy(header=header((1 << 28,)), data=bytes(1 << 20))  # a MiB of a GiB that it tells of
    path = archive(tmp_path / "a.npz", [("a.npy", many)])
    content = bytearray(path.read_bytes())
    size = struct.pack("<I", len(many))
    assert content.count(size) == 2
    told = struct.pack("<I", (1 << 30) + len(many) - (1 << 20))
    path.write_bytes(bytes(content).replace(size, told))
    complains(path, "would unfold to 1073741952")


def test_an_npz_that_is_cut_or_changed_is_noticed(tmp_path):
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    path = tmp_path / "a.npz"
    np.savez(path, a=values)
    whole = path.read_bytes()
    np.testing.assert_array_equal(Npz(path).get("a"), values)
    for length in np.linspace(0, len(whole) - 1, 10).astype(int):
        path.write_bytes(whole[:length])
        complains(path, "no .npz file")
    for place in (0, 200, 9000, len(whole) - 120):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        complains(path, "a.npz")


def test_arrays_by_columns_and_compressed_ones_are_read(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez_compressed(tmp_path / "a.npz", a=values, b=np.asfortranarray(values), c=values[0, 0])
    tensors = Npz(tmp_path / "a.npz")
    for name in ("a", "b"):
        np.testing.assert_array_equal(tensors.get(name), values)
    assert tensors.get("c").shape == ()


def damage(folder, how):
    """Makes the weights of a folder unusable."""
    weights = (folder / WEIGHTS).read_bytes()
    if how == "cut":
        (folder / WEIGHTS).write_bytes(weights[:-1])
    elif how == "pickle":
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(b"")
    elif how == "config":
        (folder / "config.json").write_text('{"model_type": "clip", "vision_config": 3}')
    elif how == "left over":
        arrays = load_file(folder / WEIGHTS)
        save_file({**arrays, "more": np.zeros(2, np.float32)}, folder / WEIGHTS)


@pytest.mark.parametrize("how", ["cut", "pickle", "config", "left over"])
def test_commands_say_it_in_one_line_and_write_nothing(folder, how, tmp_path, capsys):
    damage(folder, how)
    before = snapshot(tmp_path)
    status = __main__.main(["export", "weights", str(folder), str(tmp_path / "out")])
    told = capsys.readouterr()
    assert status == 2
    assert not told.out
    assert re.fullmatch(r"error: [^\n]+\n", told.err)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", ["cut", "pickle", "config", "left over"])
def test_a_run_that_would_begin_with_them_is_refused(folder, how, tmp_path, lab):
    shard = lab.write_tar(tmp_path / "a.tar", lab.good_samples(8))
    damage(folder, how)
    arguments = [f"--config={ROOT / 'configs' / 'finetune.py'}", f"--workdir={tmp_path / 'run'}"]
    small = {"steps": 1, "batch_size": 8, "dtype": "float32", "eval_steps": 0}
    small |= {"data.path": shard, "eval_data.path": shard, "init_from": folder}
    arguments += [f"--config.{name}={value}" for name, value in small.items()]
    with pytest.raises(ConfigError, match="init_from") as raised:
        train(*parse_train(arguments))
    assert len(str(raised.value).splitlines()) == 1
    assert not list((tmp_path / "run").rglob("checkpoints/*"))
    assert not (tmp_path / "run" / "origin.json").exists()
