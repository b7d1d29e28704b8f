"""kill -9 of the whole trainer at any moment: the same command ends where it would have ended."""

import concurrent.futures
import random
import signal
import time

SEEDS = range(20)


def killed_and_resumed(seed, trainer, lab, workdir, life):
    """The step at which the second life began, and how the first ended."""
    draw = random.Random(seed)
    for _ in range(8):
        run = trainer.start(workdir)
        if seed % 2:  # somewhere in the training and its saves, which are short beside the start
            run.until_step(draw.randint(1, 20))
            time.sleep(draw.uniform(0, 0.2))
        else:  # anywhere in its life
            time.sleep(draw.uniform(0, life))
        run.process.kill()
        if run.wait() == -signal.SIGKILL:
            break
        workdir = workdir.with_name(workdir.name + "-again")  # it had ended before
    assert run.process.returncode == -signal.SIGKILL
    reached = run.step()
    again = trainer.finish(workdir)
    return workdir, reached, again.resumed_from()


def test_killed_at_twenty_moments_it_ends_bitwise_as_if_undisturbed(
    trainer, lab, undisturbed, tmp_path
):
    started = time.monotonic()
    trainer.finish(tmp_path / "timed")  # warm, as those that follow
    life = time.monotonic() - started
    wanted, losses = lab.state(undisturbed), lab.losses(undisturbed)
    assert wanted["folder"] == 24
    assert sorted(losses) == list(range(1, 25))
    lab.assert_same(lab.state(tmp_path / "timed"), wanted)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ends = list(
            pool.map(
                lambda seed: killed_and_resumed(
                    seed, trainer, lab, tmp_path / f"seed-{seed}", life
                ),
                SEEDS,
            )
        )
    for workdir, _, resumed in ends:
        lab.assert_same(lab.state(workdir), wanted)
        assert lab.steps(workdir) == [22, 24]
        made = lab.losses(workdir)
        assert all(made[step] == losses[step] for step in made)
        assert set(range(resumed + 1, 25)) <= made.keys()
        left = {entry.name for entry in (workdir / "checkpoints").iterdir()}
        assert left == {"22", "24"}
        assert not (workdir / "lock.json").exists()
    resumed = [step for *_, step in ends]
    assert sum(step > 0 for step in resumed) >= 8, resumed
    assert len(set(resumed)) >= 5, resumed
    assert sum(reached > step for _, reached, step in ends) >= 3  # steps were lost and made again
