import numpy as np
import pytest

from mmjax.evaluation.objectives import Objectives


def test_sums_and_counts_are_merged_before_dividing(random_context):
    def loss(batch):
        values = np.where(batch["valid"], batch["position"], 1e9)
        real = values[batch["valid"]]
        return {
            "contrastive": (float(real.sum()), float(len(real))),
            "contrastive/accuracy": (float((real > 3).sum()), float(len(real))),
            "never": (0.0, 0.0),
        }

    result = Objectives()(random_context(samples=10, batch_size=4, loss=loss))
    assert result.metrics == {
        "contrastive": pytest.approx(4.5),
        "contrastive/accuracy": pytest.approx(0.6),
        "samples": 10.0,
    }


def test_goals_that_are_named_are_told_alone(random_context):
    def loss(batch):
        return dict.fromkeys(("answers", "answers/score", "answers2", "words"), (4.0, 2.0))

    result = Objectives(goals=("answers",))(random_context(samples=4, batch_size=4, loss=loss))
    assert result.metrics == {"answers": 2.0, "answers/score": 2.0, "samples": 4.0}


def test_the_batch_size_changes_no_sum_over_samples(random_context):
    def loss(batch):
        real = batch["position"][batch["valid"]]
        return {"x": (float((real**2).sum()), float(len(real)))}

    found = {
        size: Objectives()(random_context(samples=10, batch_size=size, loss=loss)).metrics
        for size in (1, 3, 10, 16)
    }
    assert all(metrics == found[1] for metrics in found.values())
