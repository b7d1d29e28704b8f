"""The attention of texts over their pictures, of one batch, as a compiled function."""

from collections.abc import Callable
from typing import Any

from mmjax import preprocess
from mmjax.models.layers.looking import COLLECTION, Looks, text_over_picture
from mmjax.typing import Batch, PyTree, View


def looking(model: Any, contract: preprocess.Contract, view: View) -> Callable[..., Looks | None]:
    """(the model's parameters, running statistics, the view's words and 'boxes') -> `Looks`.

    None where the model cannot tell; that is known when it is traced.

    Args:
      model: has `apply` as a flax module does.
      contract: preprocessing of the pictures.
      view: how the model looks at text and picture together.
    """

    def look(params: PyTree, statistics: PyTree, batch: Batch) -> Looks | None:
        batch = preprocess.preprocess(batch, contract)
        variables = {"params": params} | ({"batch_stats": statistics} if statistics else {})
        inputs = {word: batch[word] for word in view.words}
        fused, after = model.apply(variables, **inputs, method=view.method, mutable=[COLLECTION])
        if not hasattr(fused, "text_mask"):
            return None
        return text_over_picture(after.get(COLLECTION, {}), fused, batch.get("boxes"))

    return look
