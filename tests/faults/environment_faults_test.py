"""Odd surroundings: clocks that jump, no terminal, no home, no network, no UTF-8."""

import json
import os
import pathlib
import pty
import re
import subprocess
import sys
import threading

import pytest

C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """shim/world.c, built; to be given as LD_PRELOAD."""
    library = tmp_path_factory.mktemp("world") / "world.so"
    source = pathlib.Path(__file__).with_name("shim") / "world.c"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)


def python(code, **environment):
    """What a line of Python prints in these surroundings."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def sensible(run, lab, workdir):
    """No estimate, rate or share is negative; the state is that of any other run."""
    times = re.findall(r"ETA (\S+)", run.err)
    assert len(times) >= 20
    assert all(re.fullmatch(r"\d+:\d\d:\d\d|-:--:--", text) for text in times), times
    for entry in lab.log(workdir):
        assert entry.get("step_seconds", 1) > 0
        assert entry.get("images_per_second", 1) > 0
        assert 0 <= entry.get("data_wait_fraction", 0) <= 1
    assert "Traceback" not in run.err + run.out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clock_that_leaps_by_days_changes_nothing(
    trainer, lab, undisturbed, world, tmp_path, workers
):
    jumping = {"LD_PRELOAD": world, "WORLD_CLOCK": "1"}
    seen = python(
        "import time; t = []\n"
        "for _ in range(30): t.append(time.time()); time.sleep(0.05)\n"
        "print(max(t) - min(t) > 13 * 86400, any(a > b for a, b in zip(t, t[1:])))",
        **jumping,
    )
    assert seen == "True True"
    flags = ("--config.tensorboard=True", f"--config.reading.workers={workers}")
    run = trainer.finish(tmp_path, *flags, **jumping)
    sensible(run, lab, tmp_path)
    lab.assert_same(lab.state(tmp_path), lab.state(undisturbed))
    assert lab.losses(tmp_path) == lab.losses(undisturbed)
    assert any((tmp_path / "tensorboard").iterdir())
    again = trainer.start(tmp_path, *flags, "--config.steps=26", "--resume", **jumping)
    assert again.wait() == 0, again.err
    assert again.resumed_from() == 24


def test_no_network_is_asked_for_anything(trainer, lab, undisturbed, world, tmp_path):
    note = tmp_path / "asked"
    cut = {"LD_PRELOAD": world, "WORLD_NETWORK": str(note)}
    code = (
        "import socket\n"
        "try: socket.create_connection(('example.org', 80), 1)\n"
        "except OSError: print('cut off')"
    )
    assert python(code, **cut) == "cut off"
    assert note.read_text() == "example.org\n"
    note.unlink()
    trainer.finish(tmp_path / "run", **cut)
    assert not note.exists(), note.read_text()
    lab.assert_same(lab.state(tmp_path / "run"), lab.state(undisturbed))


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null", None])
def test_a_home_that_cannot_be_written_costs_only_the_cache(
    trainer, lab, undisturbed, tmp_path, home
):
    if home is None:  # neither home nor cache folder is known, yet both may be found otherwise
        without = {"HOME": None, "MMJAX_CACHE": None, "XDG_CACHE_HOME": "/proc/nowhere"}
    else:
        with pytest.raises(OSError, match=re.escape(home)):
            pathlib.Path(home, ".cache").mkdir(parents=True)
        without = {"HOME": home, "MMJAX_CACHE": None, "XDG_CACHE_HOME": None}
    run = trainer.finish(tmp_path, **without)
    (line,) = [line for line in run.out.splitlines() if "no compilation cache in" in line]
    assert line.endswith("; each start compiles anew.")
    lab.assert_same(lab.state(tmp_path), lab.state(undisturbed))  # a cold start gives the same
    assert run.lines == []


def test_a_locale_without_utf8_reads_and_writes_all_letters(trainer, lab, tmp_path):
    assert python("import locale; print(locale.getpreferredencoding(False))", **C_LOCALE) != "UTF-8"
    samples = lab.good_samples(30)
    for number, sample in enumerate(samples):
        sample["txt"] = f"Größe {number} 猫 écru\nfünf".encode()
    folder = tmp_path / "Bilder für später"
    folder.mkdir()
    tar = lab.write_tar(folder / "Züge.tar", samples)
    tar = tar.replace(" ", "?")  # a space parts two patterns
    flags = ("--config.steps=3",)
    trainer.finish(tmp_path / "plain", *flags, data=tar)
    workdir = tmp_path / "run"
    run = trainer.finish(workdir, *flags, data=tar, **C_LOCALE)
    assert "Traceback" not in run.err + run.out
    lab.assert_same(lab.state(workdir), lab.state(tmp_path / "plain"))
    assert (workdir / "tokenizer.json").read_bytes() == (
        tmp_path / "plain" / "tokenizer.json"
    ).read_bytes()
    json.loads((workdir / "config.json").read_text("utf-8"))
    refused = trainer.start(workdir, "--config.steps=4", data=tar, **C_LOCALE)
    assert refused.wait() == 2
    (line,) = refused.err.splitlines()
    assert "steps: 3" in line
    unknown = trainer.start(tmp_path / "läuft", *flags, data=tar, **C_LOCALE)
    assert unknown.wait() == 2
    (line,) = unknown.err.splitlines()
    assert "Set PYTHONUTF8=1" in line
    assert not (tmp_path / "läuft").exists()
    on = trainer.finish(workdir, "--config.steps=4", "--resume", data=tar, **C_LOCALE)
    assert on.resumed_from() == 3


def start_on(trainer, workdir, stream):
    paths = [f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}"]
    config = pathlib.Path(__file__).parents[1] / "tiny.py"
    root = config.parents[1]
    return subprocess.Popen(
        [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}", *paths],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=stream,
        env=trainer.environment(),
        start_new_session=True,
    )


def test_a_reader_that_goes_away_does_not_end_the_run(trainer, lab, undisturbed, tmp_path):
    read, write = os.pipe()
    process = start_on(trainer, tmp_path, write)
    os.close(write)
    os.close(read)  # as `train.py | head` does
    assert process.wait(240) == 0
    lab.assert_same(lab.state(tmp_path), lab.state(undisturbed))


@pytest.mark.parametrize("stays", [True, False])
def test_a_terminal_shows_a_bar_and_may_go_away(trainer, lab, undisturbed, tmp_path, stays):
    master, slave = pty.openpty()
    process = start_on(trainer, tmp_path, slave)
    os.close(slave)
    shown = bytearray()
    seen = threading.Event()

    def read():
        while stays or not seen.is_set():
            try:
                part = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown.extend(part)
            if b"/24" in shown:
                seen.set()
        os.close(master)

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(240) == 0
    reader.join(30)
    assert not reader.is_alive()
    assert seen.is_set()  # the bar was there, before it went away
    assert not re.search(rb"ETA -\d", shown)
    lab.assert_same(lab.state(tmp_path), lab.state(undisturbed))
