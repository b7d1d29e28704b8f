"""A store for tests, flaky://..., whose troubles are ordered; and a config that trains from it.

It holds the files below $FLAKY_ROOT. What `.orders.json` there says of a file's name happens to its
next reads, in whatever process: {"name": {"fail": 2, "cut": 1, "slow": 0.1}} lets two fail and one
end at half, and makes each piece wait.
"""

import importlib.util
import io
import json
import os
import pathlib
import sys
import time

import fsspec
from fsspec.spec import AbstractFileSystem

from mmjax.config import spec
from mmjax.data.sources.fetching import Fetching


class Slow(io.BytesIO):
    """Content of which each piece takes a while."""

    def __init__(self, data, seconds):
        super().__init__(data)
        self.seconds = seconds

    def read(self, size=-1):
        time.sleep(self.seconds)
        return super().read(min(size, 100_000) if self.seconds else size)


class Flaky(AbstractFileSystem):
    """Files of a local folder, and what was ordered."""

    protocol = "flaky"
    cachable = False

    def ls(self, path, detail=True, **_):
        place = root() / self._strip_protocol(path)
        if not place.exists():
            raise FileNotFoundError(path)
        found = [place] if place.is_file() else sorted(place.iterdir())
        entries = [
            {
                "name": str(one.relative_to(root())),
                "size": one.stat().st_size,
                "type": "directory" if one.is_dir() else "file",
                "mtime": one.stat().st_mtime,
            }
            for one in found
        ]
        return entries if detail else [entry["name"] for entry in entries]

    def _open(self, path, mode="rb", block_size=None, **_):
        place = root() / self._strip_protocol(path)
        order = orders().get(place.name, {})
        log = root() / f".reads-{place.name}"
        with open(log, "ab") as file:
            file.write(b".")
        number = log.stat().st_size - 1
        if number < order.get("fail", 0):
            raise OSError("ordered to fail")
        data = place.read_bytes()
        if number < order.get("cut", 0):
            data = data[: len(data) // 2]
        return Slow(data, order.get("slow", 0))


def root():
    return pathlib.Path(os.environ["FLAKY_ROOT"])


def orders():
    file = root() / ".orders.json"
    return json.loads(file.read_text()) if file.exists() else {}


def order(**what):
    """Orders anew, for names with '.' written as '_'; counting begins again."""
    for log in root().glob(".reads-*"):
        log.unlink()
    named = {name.replace("_", "."): troubles for name, troubles in what.items()}
    (root() / ".orders.json").write_text(json.dumps(named))


def reads(name):
    """How often a file was opened since."""
    log = root() / f".reads-{name}"
    return log.stat().st_size if log.exists() else 0


def get_config(variant=""):
    """tiny.py's, which then knows this store."""
    place = pathlib.Path(__file__).with_name("tiny.py")
    found = importlib.util.spec_from_file_location("mmjax_config_tiny", place)
    tiny = importlib.util.module_from_spec(found)
    sys.modules[found.name] = tiny  # so that targets defined there can be found
    found.loader.exec_module(tiny)
    config = tiny.get_config(variant)
    config.data.fetching = spec(Fetching, window=1, tries=3)
    return config


fsspec.register_implementation("flaky", Flaky, clobber=True)
