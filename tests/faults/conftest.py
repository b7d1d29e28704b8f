"""What the fault tests share: the library that makes calls below Python fail."""

import pathlib
import subprocess

import pytest


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """shim/shim.c, built; to be given as LD_PRELOAD."""
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = pathlib.Path(__file__).with_name("shim") / "shim.c"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(source), "-ldl"], check=True)
    return library
