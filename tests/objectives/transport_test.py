import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mmjax.objectives.transport import cosine_costs, transport_plan


def sides(m=5, n=7, rows=3, seed=0):
    rng = np.random.default_rng(seed)
    left = np.arange(m) < np.array([m, m - 2, 1])[:rows, None]
    right = np.arange(n) < np.array([n, 3, n - 1])[:rows, None]
    costs = rng.uniform(0, 2, (rows, m, n)).astype(np.float32)
    return costs, left, right


def plan_of(costs, left, right, *how):
    return np.array(transport_plan(*map(jnp.asarray, (costs, left, right)), *how))


def reference(costs, step, iterations):
    """Algorithm 2 of the paper for one pair of sets without padding, in float64."""
    m, n = costs.shape
    kernel, plan, out = np.exp(-np.float64(costs) / step), np.ones((m, n)), np.full(m, 1 / m)
    for _ in range(iterations):
        drawn = kernel * plan
        into = 1 / (n * (drawn.T @ out))
        out = 1 / (m * (drawn @ into))
        plan = out[:, None] * drawn * into
    return plan


@pytest.mark.parametrize(("step", "iterations"), [(0.5, 50), (0.1, 3)])
def test_the_plan_is_the_papers_and_padding_changes_nothing(step, iterations):
    costs, left, right = sides()
    made = plan_of(costs, left, right, step, iterations)
    for row in range(len(costs)):
        real = np.ix_(left[row], right[row])
        wanted = reference(costs[row][real], step, iterations)
        np.testing.assert_allclose(made[row][real], wanted, rtol=2e-5, atol=1e-7)
        assert made[row].sum() == pytest.approx(1, rel=1e-5)
        assert not made[row][~(left[row][:, None] & right[row])].any()


def test_many_iterations_find_the_cheapest_plan():
    costs = sides(6, 6, 1)[0]
    every = np.ones((1, 6), bool)
    plan = plan_of(costs, every, every, 0.5, 2000)
    least = costs[0][linear_sum_assignment(costs[0])].mean()
    assert np.sum(costs * plan) == pytest.approx(least, rel=1e-3)
    few = plan_of(costs, every, every, 0.5, 1)
    assert np.sum(costs * few) > least + 0.05


def test_costs_are_those_of_directions_alone():
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(2, 2, 3, 4)), jnp.float32)
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in np.array([x, y])]
    wanted = 1 - np.einsum("bmd,bnd->bmn", *unit)
    np.testing.assert_allclose(cosine_costs(7 * x, y / 3), wanted, atol=1e-6)
    slope = jax.grad(lambda v: cosine_costs(v, y).sum())(jnp.zeros_like(x))
    assert np.isfinite(slope).all()


def test_no_slope_goes_through_the_plan():
    costs, left, right = map(jnp.asarray, sides())
    slope = jax.grad(lambda c: jnp.sum(transport_plan(c, left, right)[0] * costs[0]))(costs)
    assert not np.array(slope).any()
