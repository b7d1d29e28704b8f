"""The preprocessing contract, and the one pure function that turns stored pixels into model input.

The contract travels with the weights: step, evaluators, export and server all read it, so the same
picture or text reaches the model in the same form everywhere.
"""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp

from mmjax.typing import Array, Batch, Float, UInt8

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # Radford et al. 2021, the released code
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Contract:
    """How pictures and texts must look before they reach the model.

    Attributes:
      image_size: height and width in pixels.
      resize: 'squash', 'shortest' or 'longest', as in `data.transforms.resize.Resize`.
      interpolation: of the exact path; 'bicubic' is Pillow's.
      mean: of each channel, of values in 0...1.
      std: of each channel.
      pad_value: grey level that 'longest' fills with, 0...255.
      resize_size: size that the picture is resized to where its centre is then cut out; 0 where
        nothing is cut but what 'shortest' leaves over.
      crop_rounding: where a cut begins that leaves over an odd number of pixels, 'even' or 'down',
        as in `Resize`.
      text_cleaning: rule applied to a caption before the tokenizer.
      tokenizer: SHA-256 of the tokenizer's file, '' where the model reads no text.
      sequence_length: tokens of a text.
      pad_id: token that fills up.
      bos: whether a text begins with its start token.
      eos: whether a text ends with its end token, also when it is cut.
    """

    image_size: int = 224
    resize: str = "squash"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    pad_value: int = 0
    resize_size: int = 0
    crop_rounding: str = "even"
    text_cleaning: str = "none"
    tokenizer: str = ""
    sequence_length: int = 64
    pad_id: int = 0
    bos: bool = False
    eos: bool = True

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"mean {self.mean} and std {self.std} need one number a channel, std above 0."
            )

    def to_json(self) -> str:
        """One JSON object, stored beside the weights."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """The contract that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def preprocess_image(
    image: UInt8[Array, "*batch height width channels"], contract: Contract
) -> Float[Array, "*batch height width channels"]:
    """(pixels ÷ 255 − mean) ÷ std, in float32, on the device and inside the compiled step."""
    mean = jnp.asarray(contract.mean, jnp.float32) * 255.0
    std = jnp.asarray(contract.std, jnp.float32) * 255.0
    return (image.astype(jnp.float32) - mean) / std


def preprocess(batch: Batch, contract: Contract) -> Batch:
    """The batch with its pictures scaled and normalised; everything else as it was."""
    if "image" not in batch:
        return batch
    return {**batch, "image": preprocess_image(batch["image"], contract)}
