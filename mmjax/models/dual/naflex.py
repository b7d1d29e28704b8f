"""Two towers of which one takes pictures as patches: SigLIP 2 NaFlex."""

from mmjax.models.dual.two_tower import TwoTower
from mmjax.typing import Array, Bool, Encoded, Float, Int


class NaFlexTwoTower(TwoTower):
    """`TwoTower` over a picture tower that takes patches, such as `NaFlexViT`.

    Fields and parameters are those of `TwoTower`. Goals and evaluators name the picture's words:
    image=('encode_image', ('patches', 'patch_mask', 'patch_grid', 'row')).

    Source: Tschannen et al. 2025 (SigLIP 2), section 2.4.
    """

    def encode_image(
        self,
        patches: Float[Array, "batch patches values"],
        patch_mask: Bool[Array, "batch patches"],
        patch_grid: Int[Array, "batch 2"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Encoded:
        """Normalised pictures in the shared space."""
        output = self.image(patches, patch_mask, patch_grid, row=row, train=train)
        return self._encode(output, self.image_projection)

    def __call__(
        self,
        patches: Float[Array, "batch patches values"],
        patch_mask: Bool[Array, "batch patches"],
        patch_grid: Int[Array, "batch 2"],
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Encoded, Encoded, dict[str, Float[Array, ""]]]:
        """Both towers and the scalars; this is what `init` runs."""
        image = self.encode_image(patches, patch_mask, patch_grid, row, train)
        return image, self.encode_text(token_ids, text_mask, row, train), self.scalars()
