"""Eight simulated CPU devices for every test; set before JAX is first imported."""

import gc
import importlib.util
import io
import os
import pathlib
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

# What the tests compile runs a few times, so kernels are made in the way that compiles quickest:
# two fifths of XLA's time less, the sums in the same order (docs/log.md). Runs of train.py that
# tests start in a process of their own have none of this; they compile as a user's do.
QUICK = (
    "xla_cpu_disable_loop_unrolling,xla_cpu_disable_new_fusion_emitters,xla_cpu_optimize_for_size"
)
given = os.environ.get("XLA_FLAGS", "")
if "--xla_backend_extra_options" not in given:
    given += f" --xla_backend_extra_options={QUICK}"
os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # processes side by side wait for each other
# Traced programs are hundreds of thousands of objects, which the collector would go through again
# and again: a twentieth of the tests' time.
gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles without most optimisations; with them what a test that is `optimised` compiles."""
    import jax

    quick = item.get_closest_marker("optimised") is None
    jax.config.update("jax_disable_most_optimizations", quick)


def beside(name: str) -> Any:
    """A module beside this file."""
    place = pathlib.Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def lab() -> Any:
    """The module trainer.py."""
    return beside("trainer")


@pytest.fixture
def flaky(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module flaky.py, with an empty store in tmp_path/flaky."""
    (tmp_path / "flaky").mkdir()
    monkeypatch.setenv("FLAKY_ROOT", str(tmp_path / "flaky"))
    return beside("flaky")


@pytest.fixture
def bucket(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module bucket.py, with an empty store in tmp_path/bucket."""
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("BUCKET_ROOT", str(tmp_path / "bucket"))
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    return beside("bucket")


@pytest.fixture(scope="session")
def trainer(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts runs of train.py; ends those that a failed test has left."""
    made = lab.Trainer(tmp_path_factory.mktemp("trainer"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(trainer: Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The workdir of a run of the tiny config that nothing happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    trainer.finish(workdir)
    return workdir


@pytest.fixture(scope="session")
def write_tar() -> Any:
    """Writes {name: bytes} as a plain tar to a path, which it returns as text."""

    def write(path: pathlib.Path, files: dict[str, bytes]) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return str(path)

    return write
