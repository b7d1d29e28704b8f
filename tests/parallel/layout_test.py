"""Rules over paths: where they put the arrays of a state, and what they refuse."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from mmjax.parallel.layout import WHOLE, fallbacks, lay_out
from mmjax.parallel.mesh import make_mesh


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


BLOCKS = {
    "attention": {"query": {"kernel": shape(3, 64, 64), "bias": shape(3, 64)}},
    "mlp": {"down": {"kernel": shape(3, 256, 64), "bias": shape(3, 64)}},
}


def test_a_layer_a_stack_and_what_belongs_to_them_are_laid_out_alike():
    tree = {
        "params": {"image": {"blocks": BLOCKS, "pool": {"query": {"kernel": shape(64, 64)}}}},
        "opt_state": {"adam": {"mu": {"image": {"blocks": BLOCKS}}, "count": shape()}},
    }
    placed = lay_out(tree, make_mesh(2, 2, 2))
    for part in ("params", "opt_state/adam/mu"):
        blocks = f"{part}/image/blocks"
        query = placed[f"{blocks}/attention/query/kernel"]
        assert query.spec == PartitionSpec(None, "fsdp", "tensor")
        assert (query.bytes, query.device_bytes) == (3 * 64 * 64 * 4, 3 * 64 * 64)
        assert placed[f"{blocks}/attention/query/bias"].spec == PartitionSpec(None, "tensor")
        assert placed[f"{blocks}/mlp/down/kernel"].spec == PartitionSpec(None, "tensor", "fsdp")
        assert placed[f"{blocks}/mlp/down/bias"].spec == PartitionSpec()
    assert placed["params/image/pool/query/kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert placed["opt_state/adam/count"].spec == PartitionSpec()


def test_on_a_mesh_of_data_alone_everything_is_whole():
    assert {one.spec for one in lay_out(BLOCKS, make_mesh()).values()} == {PartitionSpec()}


def test_own_rules_come_first_and_one_dimension_may_have_two_axes():
    rules = [("(.*/)?down/kernel", (("fsdp", "tensor"), None))]
    placed = lay_out(BLOCKS, make_mesh(2, 2, 2), rules)
    assert placed["mlp/down/kernel"].spec == PartitionSpec(None, ("fsdp", "tensor"), None)
    assert placed["mlp/down/kernel"].ways == 4
    assert placed["attention/query/kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert lay_out(BLOCKS, make_mesh(2, 2, 2), WHOLE)["mlp/down/kernel"].ways == 1


def test_an_axis_that_does_not_divide_leaves_its_dimension_whole_and_says_so():
    tree = {
        "params": {"kernel": shape(6, 8), "bias": shape(8)},
        "ema": {"kernel": shape(6, 8)},
    }
    placed = lay_out(tree, make_mesh(1, 2, 4))
    assert placed["params/kernel"].spec == PartitionSpec(None, "fsdp")
    assert fallbacks(placed) == [
        "params/kernel (6, 8): tensor=4 does not divide 6, so it stays whole there."
    ]


def test_means_over_rows_and_columns_of_a_kernel_are_not_laid_out_as_it():
    tree = {"opt_state": {"factored": {"v_row": {"image": {"up": {"kernel": shape(8, 64)}}}}}}
    (placed,) = lay_out(tree, make_mesh(1, 2, 4)).values()
    assert (placed.ways, placed.fallbacks) == (1, ())


def test_an_array_of_one_element_is_whole_whatever_the_rule_asks():
    assert lay_out({"v": {"kernel": shape(1)}}, make_mesh(1, 8, 1))["v/kernel"].ways == 1


def test_a_large_array_that_stays_whole_is_refused_unless_the_config_says_so():
    tree = {"objectives": {"queue": shape(1024, 2048)}, "kernel": shape(2049, 1023)}
    with pytest.raises(ValueError, match=r"2 arrays.*'objectives/queue'.*no rule cuts it"):
        lay_out(tree, make_mesh(1, 4, 2))
    rules = [("objectives/queue", "whole")]
    with pytest.raises(ValueError, match=r"1 arrays.*'kernel'.*fsdp=4 does not divide 1023"):
        lay_out(tree, make_mesh(1, 4, 2), rules)
    assert lay_out(tree, make_mesh(1, 4, 2), rules, whole_above_bytes=1 << 30)
    assert lay_out(tree, make_mesh(1, 4, 2), whole_above_bytes=0)
    assert lay_out(tree, make_mesh())


def test_a_rule_that_decides_nothing_is_refused_unless_it_is_optional():
    with pytest.raises(ValueError, match=r"sharding_rules: rule '.*decoder.*' decides nothing"):
        lay_out(BLOCKS, make_mesh(), [("decoder/.*", ("fsdp",))])
    lay_out(BLOCKS, make_mesh(), [("(?#optional)decoder/.*", ("fsdp",))])


@pytest.mark.parametrize("spec", ["fsdp", ("model", None), ("fsdp", "fsdp"), (("data", "x"),)])
def test_what_is_no_spec_is_refused(spec):
    with pytest.raises(ValueError, match=r"is no spec.*data, fsdp, tensor"):
        lay_out(BLOCKS, make_mesh(), [(".*kernel", spec)])


def test_a_spec_of_more_dimensions_than_its_array_is_refused():
    with pytest.raises(ValueError, match="has 3 dimensions, 'bias' has 1"):
        lay_out({"bias": shape(8)}, make_mesh(), [("bias", (None, None, "fsdp"))])
