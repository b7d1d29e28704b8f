import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.training import schedules


def course(schedule, steps):
    return np.array([float(schedule(step)) for step in range(steps)])


def test_every_warmup_is_linear_and_its_first_update_is_not_wasted():
    for schedule in (
        schedules.constant(2.0, warmup_steps=4),
        schedules.cosine(2.0, 100, warmup_steps=4),
        schedules.rsqrt(2.0, 100, warmup_steps=4),
        schedules.warmup_stable_decay(2.0, 100, warmup_steps=4, decay_steps=10),
    ):
        np.testing.assert_allclose(course(schedule, 5), [0.5, 1.0, 1.5, 2.0, 2.0], rtol=1e-6)


def test_cosine_equals_its_formula():
    rates = course(schedules.cosine(1e-3, 50, warmup_steps=10, end=1e-5), 60)
    steps = np.arange(10, 60)
    done = np.minimum((steps - 10) / 40, 1)
    expected = 1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * done)) / 2
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-5, atol=1e-9)


def test_rsqrt_equals_its_formula_and_cools_down_to_the_end():
    rates = course(schedules.rsqrt(1.0, 100, 10, cooldown_steps=20, timescale=30, end=0.1), 111)
    steps = np.arange(10, 81)
    np.testing.assert_allclose(rates[10:81], 1 / np.sqrt(1 + (steps - 10) / 30), rtol=1e-5)
    late = np.arange(80, 101)
    plain = 1 / np.sqrt(1 + (late - 10) / 30)
    np.testing.assert_allclose(rates[80:101], 0.1 + (plain - 0.1) * (100 - late) / 20, rtol=1e-5)
    np.testing.assert_allclose(rates[100:], 0.1, rtol=1e-6)


def test_rsqrt_without_cooldown_does_not_depend_on_the_length_of_the_run():
    np.testing.assert_array_equal(
        course(schedules.rsqrt(1.0, 50, 5), 80), course(schedules.rsqrt(1.0, 5000, 5), 80)
    )


def test_warmup_stable_decay_has_a_flat_middle_and_a_straight_end():
    rates = course(schedules.warmup_stable_decay(1.0, 20, 5, 10, end=0.5), 25)
    np.testing.assert_allclose(rates[4:11], 1.0)
    np.testing.assert_allclose(rates[10:21], np.linspace(1.0, 0.5, 11), rtol=1e-6)
    np.testing.assert_allclose(rates[20:], 0.5)


def test_beyond_its_steps_a_schedule_stays_at_the_end():
    for schedule in (
        schedules.cosine(1.0, 10, end=0.25),
        schedules.rsqrt(1.0, 10, cooldown_steps=3, end=0.25),
        schedules.warmup_stable_decay(1.0, 10, 0, 4, end=0.25),
    ):
        assert float(schedule(10)) == float(schedule(10_000)) == 0.25


def test_a_warmup_as_long_as_the_run_is_allowed():
    np.testing.assert_allclose(course(schedules.cosine(1.0, 4, 4), 5), [0.25, 0.5, 0.75, 1, 1])


def test_schedules_run_inside_jit_on_the_integer_count_of_an_optimizer():
    for schedule in (
        schedules.constant(1.0, 3),
        schedules.cosine(1.0, 9, 3),
        schedules.rsqrt(1.0, 9, 3, 2),
        schedules.warmup_stable_decay(1.0, 9, 3, 2),
    ):
        inside = jax.jit(jax.vmap(schedule))(jnp.arange(12, dtype=jnp.int32))
        assert inside.dtype == jnp.float32
        np.testing.assert_allclose(inside, course(schedule, 12), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda: schedules.cosine(1.0, 10, warmup_steps=11), "warmup_steps=11.*steps=10"),
        (lambda: schedules.cosine(1.0, 0), "steps=0"),
        (lambda: schedules.cosine(1.0, 10, end=2.0), "peak=1.0, end=2.0"),
        (lambda: schedules.constant(-1.0), "peak=-1.0"),
        (lambda: schedules.constant(float("inf")), "peak=inf.*finite"),
        (lambda: schedules.constant(1.0, warmup_steps=-1), "warmup_steps=-1"),
        (lambda: schedules.rsqrt(1.0, 10, 6, 5), "warmup_steps=6, cooldown_steps=5 make 11"),
        (lambda: schedules.rsqrt(1.0, 10, timescale=0), "timescale=0"),
        (lambda: schedules.warmup_stable_decay(1.0, 10, 6, 5), "decay_steps=5 make 11"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_its_numbers(make, numbers):
    with pytest.raises(ValueError, match=numbers):
        make()
