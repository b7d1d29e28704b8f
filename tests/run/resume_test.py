"""Six steps are three, kill -9, and three more, bit for bit."""

import signal


def test_six_steps_are_three_then_kill_9_then_three_more(trainer, lab, tmp_path):
    flags = ("--config.steps=6", "--config.save_steps=3")
    trainer.finish(tmp_path / "whole", *flags)
    run = trainer.start(tmp_path / "cut", *flags)
    run.until(lambda: lab.steps(tmp_path / "cut") == [3])
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    assert lab.steps(tmp_path / "cut") == [3]
    again = trainer.finish(tmp_path / "cut", *flags)
    assert again.resumed_from() == 3
    whole = lab.state(tmp_path / "whole", 6)
    lab.assert_same(lab.state(tmp_path / "cut", 6), whole)
    assert whole["counters/samples"].tolist() == [0, 48]
    for part in lab.PARTS:
        assert any(name.startswith(part + "/") for name in whole), part
    made = lab.losses(tmp_path / "cut")
    for step, loss in lab.losses(tmp_path / "whole").items():
        assert made.get(step, loss) == loss
    assert {4, 5, 6} <= made.keys()


def test_the_state_does_move(trainer, lab, tmp_path):
    trainer.finish(tmp_path / "run", "--config.steps=4", "--config.save_steps=2")
    early, late = (lab.state(tmp_path / "run", step) for step in (2, 4))
    for part in lab.PARTS:
        names = [name for name in early if name.startswith(part + "/")]
        assert any(early[name].tobytes() != late[name].tobytes() for name in names), part
