"""ALIGN as Hugging Face publishes it: an EfficientNet's mean beside a BERT's first token.

The text's first token is projected as it is. The pooler of the file is read by nothing, but its
output is among the text tower's, so our tower keeps it.

Source: transformers, models/align/modeling_align.py and configuration_align.py.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.clip import sub_config
from mmjax.interop.families.hf_bert import OLD_NAMES, TEXT, bert_config, bert_fields, bert_rows
from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import Family, dense, known
from mmjax.interop.forms import CONVOLUTION, POINTWISE
from mmjax.interop.rows import Aside, Row, Table
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.efficientnet import EfficientNet

__all__ = ["FAMILY"]

# {their field: ours}
SEQUENCES = {
    name: name
    for name in (
        "in_channels",
        "out_channels",
        "kernel_sizes",
        "strides",
        "num_block_repeats",
        "expand_ratios",
    )
} | {"depthwise_padding": "even_padding"}
# Their momentum is that of the first, TensorFlow release: the weight of the old statistics. (Given
# to torch's own layers, as transformers does, it is the weight of the new ones.)
NUMBERS = {
    "width_coefficient": "width_coefficient",
    "depth_coefficient": "depth_coefficient",
    "depth_divisor": "depth_divisor",
    "squeeze_expansion_ratio": "squeeze_ratio",
    "drop_connect_rate": "drop_connect",
    "batch_norm_eps": "norm_epsilon",
    "batch_norm_momentum": "norm_momentum",
}
VISION = {
    "in_channels": (32, 16, 24, 40, 80, 112, 192),
    "out_channels": (16, 24, 40, 80, 112, 192, 320),
    "kernel_sizes": (3, 3, 5, 3, 5, 5, 3),
    "strides": (1, 2, 2, 2, 1, 2, 1),
    "num_block_repeats": (1, 2, 2, 3, 3, 4, 1),
    "expand_ratios": (1, 6, 6, 6, 6, 6, 6),
    "depthwise_padding": (),
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "depth_divisor": 8,
    "squeeze_expansion_ratio": 0.25,
    "drop_connect_rate": 0.2,
    "batch_norm_eps": 1e-3,
    "batch_norm_momentum": 0.99,
}

# {a layer of ours: theirs within a block}
CONVOLUTIONS = {
    "expand": ("expansion.expand_conv", "expansion.expand_bn"),
    "depthwise": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
    "project": ("projection.project_conv", "projection.project_bn"),
}
WEIGHTS = {"squeeze": "squeeze_excite.reduce", "excite": "squeeze_excite.expand"}


def model(config: Mapping[str, Any]) -> TwoTower:
    """Our model of their config."""
    vision = sub_config(config, "vision", VISION)
    built = {"num_channels": (3,), "hidden_act": ("swish", "silu"), "pooling_type": ("mean",)}
    known(vision, built, "vision_config")
    fields = {ours: tuple(vision[theirs]) for theirs, ours in SEQUENCES.items()}
    fields |= {ours: vision[theirs] for theirs, ours in NUMBERS.items()}
    text = bert_fields(sub_config(config, "text", TEXT), "text_config")
    return TwoTower(
        image=EfficientNet(**fields),
        text=Bert(**text, pooling="class", spare_pooler=True),
        embed_dim=config.get("projection_dim", 640),
        project_image="none",
        project_text="linear_bias",
        log_scale_init=-math.log(config.get("temperature_init_value", 1.0)),
        learned_scale="temperature",
    )


def config(model: TwoTower) -> dict[str, Any]:
    """Their config of our model."""
    image = model.image
    vision = {theirs: list(getattr(image, ours)) for theirs, ours in SEQUENCES.items()}
    vision |= {theirs: getattr(image, ours) for theirs, ours in NUMBERS.items()}
    vision |= {"model_type": "align_vision_model", "num_channels": 3, "hidden_act": "swish"}
    # Their pooling is a window of this side, which has to cover the last map.
    vision |= {"pooling_type": "mean", "hidden_dim": max(640, model.embed_dim)}
    return {
        "architectures": ["AlignModel"],
        "model_type": "align",
        "projection_dim": model.embed_dim,
        "temperature_init_value": math.exp(-model.log_scale_init),
        "text_config": {"model_type": "align_text_model", **bert_config(model.text)},
        "vision_config": vision,
    }


def table(model: TwoTower) -> Table:
    """Rows of the whole model."""
    kept = (
        Row("temperature", "temperature"),
        *bert_rows(model.text, "text_model.", "text/"),
        *rows(dense("text_projection", "text_projection")),
        *_vision_rows(model.image),
        Aside(r"text_model\.embeddings\.position_ids", "0, 1, 2 and so on"),
        Aside(r"vision_model\..*\.num_batches_tracked", "statistics move by their momentum alone"),
    )
    return Table(kept, OLD_NAMES)


def _vision_rows(image: EfficientNet) -> tuple[Row, ...]:
    """Rows of the picture tower; their blocks are numbered over all stages."""
    stem = "vision_model.embeddings"
    made = [
        Row(f"{stem}.convolution.weight", "image/stem_conv/kernel", CONVOLUTION),
        *_normalised(f"{stem}.batchnorm", "image/stem_norm"),
    ]
    number = 0
    for stage, depth in enumerate(image.depths):
        for block in range(depth):
            theirs = f"vision_model.encoder.blocks.{number}"
            ours = f"image/stage{stage + 1}/block{block + 1}"
            for layer, (convolution, norm) in CONVOLUTIONS.items():
                if layer == "expand" and image.expand_ratios[stage] == 1:
                    continue
                kernel = f"{ours}/{layer}_conv/kernel"
                made.append(Row(f"{theirs}.{convolution}.weight", kernel, CONVOLUTION))
                made += _normalised(f"{theirs}.{norm}", f"{ours}/{layer}_norm")
            for layer, name in WEIGHTS.items():
                made.append(Row(f"{theirs}.{name}.weight", f"{ours}/{layer}/kernel", POINTWISE))
                made.append(Row(f"{theirs}.{name}.bias", f"{ours}/{layer}/bias"))
            number += 1
    return tuple(made)


def _normalised(theirs: str, ours: str) -> list[Row]:
    """Rows of a batch norm."""
    return [
        Row(f"{theirs}.weight", f"{ours}/scale"),
        Row(f"{theirs}.bias", f"{ours}/bias"),
        Row(f"{theirs}.running_mean", f"{ours}/mean", statistics=True),
        Row(f"{theirs}.running_var", f"{ours}/var", statistics=True),
    ]


FAMILY = Family("hf/align", model, table, config)
