"""A store for tests, bucket://..., that can only do what object stores can; and a config for it.

Its objects are the files below $BUCKET_ROOT, so that several processes see one store. An object is
put whole; there is no append, no rename, no lock. What `.orders.json` there says of a name's ending
happens to its puts: {"manifest.json": {"fail": 2}} lets the next two fail.
"""

import importlib.util
import io
import json
import os
import pathlib
import shutil
import sys
import uuid

import fsspec
from fsspec.spec import AbstractFileSystem


class Put(io.BytesIO):
    """An object under way: there at its close, whole, or not at all."""

    def __init__(self, path, only_new):
        super().__init__()
        self.path, self.only_new = path, only_new

    def close(self):
        if not self.closed:
            data = self.getvalue()
            super().close()  # first: what is put in vain is not put once more when this is freed
            put(self.path, data, self.only_new)

    def __exit__(self, kind, *rest):
        if kind is not None:  # a writer that failed puts nothing
            super().close()
        super().__exit__(kind, *rest)


class Bucket(AbstractFileSystem):
    """Whole objects."""

    protocol = "bucket"
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
            }
            for one in found
            if not one.name.startswith(".")
        ]
        return entries if detail else [entry["name"] for entry in entries]

    def _open(self, path, mode="rb", block_size=None, **_):
        place = root() / self._strip_protocol(path)
        if mode == "rb":
            return io.BytesIO(place.read_bytes())
        if mode in ("wb", "xb"):
            return Put(place, mode == "xb")
        raise NotImplementedError(f"{path}: an object store has no mode {mode!r}")

    def cp_file(self, path1, path2, **_):
        put(root() / self._strip_protocol(path2), self.cat_file(path1))

    def rm_file(self, path):
        (root() / self._strip_protocol(path)).unlink()

    def makedirs(self, path, exist_ok=False):
        """Object stores have none."""

    mkdir = makedirs

    def mv(self, path1, path2, **_):
        raise NotImplementedError("an object store renames nothing")

    rename = move = mv


def put(place, data, only_new=False):
    for ending, order in orders().items():
        if str(place).endswith(ending) and order.get("fail", 0) > 0:
            failing(**{**orders(), ending: {"fail": order["fail"] - 1}})
            raise OSError("ordered to fail")
    place.parent.mkdir(parents=True, exist_ok=True)
    under_way = place.with_name(f".{uuid.uuid4().hex}")
    under_way.write_bytes(data)
    if only_new:
        os.link(under_way, place)
        under_way.unlink()
    else:
        under_way.replace(place)


def root():
    return pathlib.Path(os.environ["BUCKET_ROOT"])


def orders():
    file = root() / ".orders.json"
    return json.loads(file.read_text()) if file.exists() else {}


def failing(**what):
    """Orders anew: {ending of a name: {"fail": how many puts}}."""
    (root() / ".orders.json").write_text(json.dumps(what))


def as_local(url, folder):
    """A copy of what lies at an address, as a local workdir, with the metrics in one file."""
    shutil.copytree(root() / url.removeprefix("bucket://"), folder)
    parts = sorted(folder.glob("metrics-*.jsonl"))
    (folder / "metrics.jsonl").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder


def get_config(variant=""):
    """tiny.py's, in a process that then knows this store."""
    place = pathlib.Path(__file__).with_name("tiny.py")
    found = importlib.util.spec_from_file_location("mmjax_config_tiny", place)
    tiny = importlib.util.module_from_spec(found)
    sys.modules[found.name] = tiny  # so that targets defined there can be found
    found.loader.exec_module(tiny)
    return tiny.get_config(variant)


fsspec.register_implementation("bucket", Bucket, clobber=True)
