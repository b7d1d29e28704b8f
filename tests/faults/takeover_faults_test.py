"""A run whose workdir another one has taken over, while it was paused: it writes nothing more."""

import json
import time

LONG = "--config.steps=1000000"


def take_over(workdir):
    """Puts another host's lock where the run's own was; answers what it says."""
    path = workdir / "lock.json"
    body = {**json.loads(path.read_text()), "host": "elsewhere", "pid": 7, "token": "another"}
    body["heartbeat"] = time.time()
    new = workdir / "lock.new"
    new.write_text(json.dumps(body))
    new.rename(path)
    return path.read_text()


def ended_alone(run, workdir):
    """The one line of a run that stopped itself; its own lock is not there to be released."""
    assert run.wait(60) == 1
    (line,) = [line for line in run.lines if "workdir" in line]
    assert line.startswith("error: step ")
    assert "another process has taken over this workdir" in line
    assert "Traceback" not in run.err
    return int(line.split()[2].rstrip(":"))


def test_it_is_noticed_before_the_next_save_which_is_not_made(trainer, lab, tmp_path):
    run = trainer.start(tmp_path, LONG, "--config.save_steps=5")
    run.until(lambda: lab.steps(tmp_path)[-1:] >= [5])
    lock = take_over(tmp_path)
    begun = run.step()  # a save may be under way, which is of before the other came
    noticed = ended_alone(run, tmp_path)
    assert noticed % 5 == 0
    assert max(lab.steps(tmp_path)) < noticed
    assert noticed <= begun + 15
    assert (tmp_path / "lock.json").read_text() == lock
    assert not (tmp_path / "report.html").exists()


def test_it_is_noticed_without_a_save_at_the_next_heartbeat(trainer, lab, tmp_path):
    config = tmp_path / "beating.py"
    config.write_text(
        "from mmjax.run.config_file import load\n"
        "from mmjax.training import heart\n"
        "heart.BEATS = 120\n"  # every half second, not every ten
        f"def get_config():\n    return load({str(lab.TINY)!r})\n"
    )
    paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
    flags = (LONG, "--config.save_steps=1000000")
    workdir = tmp_path / "run"
    runs = trainer.pair(workdir, *paths, *flags, config=config)
    runs[0].until_step(5)
    take_over(workdir)
    assert ended_alone(runs[0], workdir) == ended_alone(runs[1], workdir)
    assert not (workdir / "checkpoints").exists() or lab.steps(workdir) == []
