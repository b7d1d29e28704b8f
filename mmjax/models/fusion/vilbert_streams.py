"""ViLBERT: a stream of words and one of regions, and bridges over which they see each other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.heads import INITIAL
from mmjax.models.fusion.pictures import each, together
from mmjax.models.fusion.task_bert import TaskBert, without_task
from mmjax.models.interfaces import Fused
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.transformer import Block, stacked
from mmjax.typing import Array, Bool, Float, Int


class Stream(NamedTuple):
    """How one stream's blocks are made; see `Block`."""

    num_heads: int
    mlp_dim: int
    activation: str
    dropout: float


class Crossing(nn.Module):
    """A bridge, over which each stream looks at the other, then a block for each stream.

    A bridge is two blocks, 'text_bridge' and 'image_bridge', whose attention is over the other
    stream as it was before the bridge.

    Attributes:
      text: how the text's blocks are made.
      image: how the picture's blocks are made.
      bridge_dim: width of all heads together of the attention over the other stream.
      bridge_heads: number of these heads.
      norm_epsilon: see `Block`.
      init_scale: see `Block`.
      dtype: see `Block`.
      attention: see `Block`.
      recompute: see `Block`.

    Source: Lu et al. 2019 (ViLBERT), section 2.2 and figure 2b.
    """

    text: Stream
    image: Stream
    bridge_dim: int
    bridge_heads: int
    norm_epsilon: float
    init_scale: float
    dtype: str
    attention: str
    recompute: Callable[..., Any] | None

    @nn.compact
    def __call__(
        self,
        streams: tuple[Float[Array, "batch length dim"], Float[Array, "batch regions image_dim"]],
        seen: tuple[Bool[Array, "batch 1 length"], Bool[Array, "batch 1 regions"]],
    ) -> tuple[
        tuple[Float[Array, "batch length dim"], Float[Array, "batch regions image_dim"]], None
    ]:
        def block(stream: Stream, name: str, inner_dim: int = 0) -> Block:
            return Block(
                self.bridge_heads if inner_dim else stream.num_heads,
                stream.mlp_dim,
                stream.activation,
                self.norm_epsilon,
                self.init_scale,
                self.dtype,
                attention=self.attention,
                recompute=self.recompute,
                norm="after",
                dropout=stream.dropout,
                inner_dim=inner_dim,
                name=name,
            )

        (text, image), (words, regions) = streams, seen
        over_regions = block(self.text, "text_bridge", self.bridge_dim)
        over_words = block(self.image, "image_bridge", self.bridge_dim)
        text, image = over_regions(text, regions, image)[0], over_words(image, words, text)[0]
        text = block(self.text, "text")(text, words)[0]
        image = block(self.image, "image")(image, regions)[0]
        return (text, image), None


class VilbertStreams(nn.Module):
    """The two streams and the bridges.

    The first blocks of each stream run alone; each of the last `depth` of them stands after a
    bridge. Parameters lie under 'text', 'image', 'crossings' (stacked), 'text_pool' and
    'image_pool'.

    Attributes:
      text: embedded words and the blocks before the first bridge, with pooling='class'; it says how
        the crossings compute too.
      image: embedded regions, with join='sum', and the blocks before the first bridge. Region 0
        stands for the whole picture: the mean of the features, and its box.
      depth: number of bridges.
      bridge_dim: width of all heads together over a bridge, and of the pooled vectors.
      bridge_heads: number of heads over a bridge.

    Source: Lu et al. 2019 (ViLBERT), section 2.2; Lu et al. 2020 (12-in-1), section 3.
    """

    text: Bert
    image: RegionTower
    depth: int = 6
    bridge_dim: int = 1024
    bridge_heads: int = 8

    def setup(self):
        """Makes the poolers."""
        for side in ("text", "image"):
            setattr(self, f"{side}_pool", Dense(self.bridge_dim, kernel_init=INITIAL))

    def fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        regions: Float[Array, "batch *pictures regions features"],
        boxes: Float[Array, "batch *pictures regions places"],
        region_mask: Bool[Array, "batch *pictures regions"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        task: Int[Array, " batch"] | None = None,
    ) -> Fused:
        """Texts with the regions of their pictures; pooled is the product of both streams' vectors.

        Args:
          token_ids: token numbers, padded at the end.
          text_mask: True where a token is real.
          regions: each region's features, the picture's mean first; of several pictures of a text
            with an axis for them.
          boxes: x1, y1, x2, y2 of each region as parts of the picture's width and height, and the
            part of the picture that it covers; 0, 0, 1, 1, 1 first.
          region_mask: True where a region is real.
          row: the rows' global numbers; nothing is drawn by them here.
          train: whether numbers are dropped (needs an rng named 'dropout').
          token_type: each token's kind; None for 0 everywhere.
          task: number of each row's task, where the text is a `TaskBert`; None for 0 everywhere.

        Raises:
          ValueError: towers or inputs that do not fit each other.
        """
        del row
        words = {"token_ids": token_ids, "text_mask": text_mask, "token_type": token_type}
        words |= {"regions": regions, "boxes": boxes, "region_mask": region_mask, "task": task}
        if regions.ndim == 3:
            return self._fuse(**words, train=train)
        pictures = regions.shape[1]
        words = each(words, pictures, ("regions", "boxes", "region_mask"))
        return together(self._fuse(**words, train=train), pictures)

    @nn.compact
    def _fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        token_type: Int[Array, "batch length"] | None,
        regions: Float[Array, "batch regions features"],
        boxes: Float[Array, "batch regions places"],
        region_mask: Bool[Array, "batch regions"],
        task: Int[Array, " batch"] | None,
        train: bool,
    ) -> Fused:
        """Texts with one picture each."""
        text, image = self.text, self.image
        if text.pooling != "class":
            raise ValueError(
                f"text.pooling={text.pooling!r}: the text is pooled after the last bridge, so "
                "text.pooling='class'."
            )
        told = isinstance(text, TaskBert)
        if task is not None and not told:
            raise ValueError("task is given, and the text tower does not take it; use a TaskBert.")
        more = {"task": task} if told else {}
        words = text(token_ids, text_mask, train=train, token_type=token_type, **more)
        places = image(regions, boxes, region_mask, train=train)
        crossings, recompute = stacked(Crossing, self.depth, text.scan, text.remat)
        streams = [
            Stream(one.num_heads, one.mlp_dim, one.activation, one.dropout if train else 0.0)
            for one in (text, image)
        ]
        made = crossings(
            *streams,
            self.bridge_dim,
            self.bridge_heads,
            text.norm_epsilon,
            (4 * self.depth) ** -0.5,  # four additions a layer: the sum keeps its variance
            text.dtype,
            text.attention,
            recompute,
            name="crossings",
        )
        seen = (words.mask[:, None], places.mask[:, None])  # [b, n] -> [b, 1, n]
        (tokens, found), _ = made((words.tokens, places.tokens), seen)
        of_text, of_image = self.pool(tokens, found)
        pooled = of_text * of_image
        if train and text.dropout:
            pooled = nn.Dropout(text.dropout, deterministic=False)(pooled)
        tokens = without_task(tokens) if told else tokens
        return Fused(tokens, text_mask, found, places.mask, pooled)

    def pool(
        self, text: Float[Array, "batch length dim"], image: Float[Array, "batch regions image_dim"]
    ) -> tuple[Float[Array, "batch bridge"], Float[Array, "batch bridge"]]:
        """One vector for the text and one for the picture, of the first token of each, float32."""
        first = (x[:, 0].astype(jnp.float32) for x in (text, image))
        of_text, of_image = (pool(x) for pool, x in zip((self.text_pool, self.image_pool), first))
        return nn.relu(of_text), nn.relu(of_image)

    def example(self) -> dict[str, Any]:
        """One row of zeros for each word, with a single region."""
        return {
            "token_ids": jnp.zeros((1, self.text.length), jnp.int32),
            "text_mask": jnp.ones((1, self.text.length), bool),
            "regions": jnp.zeros((1, 1, self.image.feature_dim)),
            "boxes": jnp.zeros((1, 1, self.image.box_dim)),
            "region_mask": jnp.ones((1, 1), bool),
        }
