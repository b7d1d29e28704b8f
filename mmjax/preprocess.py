"""The preprocessing contract, and the one pure function that turns stored pixels into model input.

The contract travels with the weights: step, evaluators, export and server all read it, so the same
picture or text reaches the model in the same form everywhere.
"""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp

from mmjax.typing import Array, Batch, Bool, Float, UInt8

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # Radford et al. 2021, the released code
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Contract:
    """How pictures and texts must look before they reach the model.

    Attributes:
      image_size: height and width in pixels; nothing to 'naflex'.
      resize: 'squash', 'shortest' or 'longest', as in `data.transforms.resize.Resize`, or 'naflex',
        as in `data.transforms.naflex.NaFlex`.
      interpolation: of the exact path; 'bicubic' is Pillow's.
      mean: of each channel, of values in 0...1.
      std: of each channel.
      pad_value: grey level that 'longest' fills with, 0...255.
      resize_size: size that the picture is resized to where its centre is then cut out; 0 where
        nothing is cut but what 'shortest' leaves over.
      patch_size: side of a patch in pixels, for 'naflex'.
      max_patches: patches of a picture with padding, for 'naflex'.
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
    patch_size: int = 0
    max_patches: int = 0
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

        if self.resize == "naflex" and min(self.patch_size, self.max_patches) < 1:
            raise ValueError("resize='naflex' needs patch_size and max_patches.")

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


def preprocess_patches(
    patches: UInt8[Array, "batch patches values"],
    patch_mask: Bool[Array, "batch patches"],
    contract: Contract,
) -> Float[Array, "batch patches values"]:
    """As `preprocess_image`, of pictures that are cut; padding is 0 after it."""
    pixels = patches.reshape(*patches.shape[:2], -1, 3)  # [b, n, side * side * 3] -> 4 axes
    x = preprocess_image(pixels, contract).reshape(patches.shape)
    return jnp.where(patch_mask[..., None], x, 0.0)


def exchange_regions(batch: Batch) -> Batch:
    """The batch with another row's regions in 'masked_regions', where 'region_other' says so.

    The other row is half a batch away: neighbours may be questions about one picture. Of its n
    regions place p is p modulo n; where it has none, nothing is exchanged. 'region_other' is gone
    after it. The batch is the whole one of a step: parts of it would find others.
    """
    if "region_other" not in batch:
        return batch
    place = batch["region_other"]  # [batch, *pictures, regions]
    away = place.shape[0] // 2
    others, real = (jnp.roll(batch[word], away, axis=0) for word in ("regions", "region_mask"))
    number = jnp.sum(real, axis=-1, keepdims=True, dtype=jnp.int32)
    found = jnp.take_along_axis(others, (place % jnp.maximum(number, 1))[..., None], axis=-2)
    put = (place >= 0) & (number > 0)
    masked = jnp.where(put[..., None], found, batch["masked_regions"])
    kept = {word: value for word, value in batch.items() if word != "region_other"}
    return {**kept, "masked_regions": masked}


def preprocess(batch: Batch, contract: Contract) -> Batch:
    """The batch with its pictures scaled and normalised, and regions exchanged."""
    batch = exchange_regions(batch)
    if "image" in batch:
        batch = {**batch, "image": preprocess_image(batch["image"], contract)}
    if "patches" in batch:
        x = preprocess_patches(batch["patches"], batch["patch_mask"], contract)
        batch = {**batch, "patches": x}
    return batch
