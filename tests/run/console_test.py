"""What a disk refuses is told as the disk's fault, what was typed as the person's."""

import errno
import pathlib

import pytest

from mmjax.config import ConfigError
from mmjax.data.tokenizers.base import write_whole
from mmjax.run.config_file import load
from mmjax.run.console import refusing
from mmjax.run.options import Options
from mmjax.run.training import train
from mmjax.training import manifest, workdir
from mmjax.training.failing import Failed

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "features.py"


@pytest.fixture
def full(monkeypatch):
    """Makes writes of the files of these names fail, half done."""

    def fill(*names):
        write = pathlib.Path.write_bytes

        def refused(path, data):
            write(path, data[: len(data) // 2])
            if any(name in path.name for name in names):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, data)

        monkeypatch.setattr(pathlib.Path, "write_bytes", refused)
        monkeypatch.setattr(manifest, "write_synced", refused)

    return fill


def test_a_full_disk_is_no_wrong_input(tmp_path):
    told = r"x\.json could not be written: No space left.* Make room"
    with pytest.raises(Failed, match=told), refusing():
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x.json"))
    with pytest.raises(ConfigError, match="Permission denied"), refusing():
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))


def test_all_processes_hear_which_file_had_no_room(tmp_path):
    def act():
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "lock.json"))

    with pytest.raises(OSError, match=r"Disk quota exceeded: .*lock\.json"):
        workdir.together(act)


@pytest.mark.parametrize("write", [manifest.write_atomic, write_whole])
def test_a_write_that_fails_names_its_file_and_leaves_none(full, tmp_path, write):
    full("x.json")
    with pytest.raises(OSError, match=r"No space left on device: .*/x\.json'"):
        write(tmp_path / "x.json", b"{}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lock.json", "config.json", "preprocess.json"])
def test_a_start_on_a_full_disk_says_which_file_and_leaves_no_half_of_it(full, tmp_path, name):
    full(name)
    with pytest.raises(Failed, match=rf"{name} could not be written: No space .* same command"):
        train(load(f"{CONFIG}:smoke"), str(tmp_path / "run"), Options())
    assert not list((tmp_path / "run").rglob(f"*{name}*"))
