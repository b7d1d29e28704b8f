import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu

from mmjax.models.layers.attend import attend
from mmjax.models.layers.splash import splash
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations

LENGTH = 130  # is filled up to 256


def arrays(rows):
    rng = np.random.default_rng(0)
    shape = (rows, LENGTH, 1, 72)  # 72 is the head of So400m, no power of two
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]


def total(function, *arrays):
    out = function(*arrays)
    return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))


def test_the_kernel_equals_plain_attention_forward_and_backward():
    grad = jax.value_and_grad(total, (1, 2, 3))
    with tpu.force_tpu_interpret_mode():
        found = jax.jit(lambda *a: grad(lambda *x: splash(*x, True), *a))(*arrays(1))
    wanted = jax.jit(lambda *a: grad(lambda *x: attend(*x, causal=True), *a))(*arrays(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6), found, wanted)


def test_without_a_causal_mask_every_real_key_is_seen_and_nothing_that_fills_up():
    with tpu.force_tpu_interpret_mode():
        found = jax.jit(splash)(*arrays(1))
    np.testing.assert_allclose(found, attend(*arrays(1)), atol=3e-6)


def test_the_program_for_tpus_holds_the_kernel_run_by_each_device_on_its_own_rows():
    mesh = make_mesh(data=4, fsdp=2)

    def loss(*arrays):
        with activations(mesh):
            return total(splash, *arrays)

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arrays(16))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call") == 3  # forward, that of keys and values, that of queries
    calls = [line for line in text.splitlines() if "@tpu_custom_call" in line]
    assert all("tensor<2x1x256x72xf32>" in call for call in calls)  # 16 rows over 8 devices
