"""BERT as Hugging Face publishes it: config.json with model_type 'bert', with its heads or without.

Which heads there are is told by the file more than by the config: bert-base-uncased names
BertForMaskedLM as its architecture and holds the next-sentence head and the pooler too. So a file
with a masked-LM head makes a `BertPretraining` with all that the file holds, others make a `Bert`.

Source: transformers, models/bert/modeling_bert.py and configuration_bert.py.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.interop.families.hf_bert import OLD_NAMES, bert_config, bert_fields, bert_rows
from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import POOLER, Family, dense, norm
from mmjax.interop.rows import Aside, Row, Table, Tied
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.bert_pretraining import BertPretraining

__all__ = ["FAMILY", "masked_lm_rows"]

# {their class: whether it has a masked-LM head, a next-sentence head, a pooler}
ARCHITECTURES = {
    "BertModel": (False, False, True),
    "BertForMaskedLM": (True, False, False),
    "BertForPreTraining": (True, True, True),
}
DECODER = "cls.predictions.decoder.weight"


def fitted(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Their config with the class that holds what the file holds, and whether it ties its words."""
    names = tensors.names()
    masked = any(".transform.dense." in name for name in names)
    following = masked and any("seq_relationship." in name for name in names)
    kind = "BertForPreTraining" if following else "BertForMaskedLM" if masked else "BertModel"
    pooler = any("pooler.dense." in name for name in names)
    words = next((name for name in names if name.endswith("word_embeddings.weight")), DECODER)
    tied = DECODER not in names or np.array_equal(tensors.get(DECODER), tensors.get(words))
    told = {"architectures": [kind], POOLER: pooler, "tie_word_embeddings": tied}
    return {**config, **told}


def model(config: Mapping[str, Any]) -> Bert | BertPretraining:
    """Our model of their config."""
    kind = (config.get("architectures") or ["BertModel"])[0]
    if kind not in ARCHITECTURES:
        raise WeightsError(f"config: {kind} is not built; {', '.join(ARCHITECTURES)} are.")
    masked, following, pooler = ARCHITECTURES[kind]
    pooling = "tanh" if config.get(POOLER, pooler) else "class"
    text = Bert(**bert_fields(config, "config"), pooling=pooling)
    if not masked:
        return text
    return BertPretraining(text, following, config.get("tie_word_embeddings", True))


def config(model: Bert | BertPretraining) -> dict[str, Any]:
    """Their config of our model."""
    if isinstance(model, Bert):
        text, kind = model, "BertModel"
    else:
        text = model.text
        kind = "BertForPreTraining" if model.next_sentence else "BertForMaskedLM"
    made = {"architectures": [kind], "model_type": "bert", **bert_config(text)}
    made["tie_word_embeddings"] = getattr(model, "tied", True)
    pooler = text.pooling == "tanh"
    return made if pooler == ARCHITECTURES[kind][2] else {**made, POOLER: pooler}


def masked_lm_rows(words: str, tied: bool = True) -> tuple[Row | Tied | Aside, ...]:
    """Rows of a masked-LM head.

    Args:
      words: published name of the token table.
      tied: whether the head scores by that table; otherwise by one of its own.
    """
    head = "cls.predictions"
    if tied:
        decoder = (
            Row(f"{head}.bias", "masked_lm/bias"),
            Tied(DECODER, words),
            Tied(f"{head}.decoder.bias", f"{head}.bias"),
        )
    else:  # the decoder's own bias is added then, where a file has it
        bias = f"{head}.bias"
        decoder = (
            Row(f"{head}.decoder.bias", "masked_lm/bias", instead=bias),
            Row(DECODER, "output_embedding"),
            Tied(bias, f"{head}.decoder.bias", written=True, checked=False),
            Aside(re.escape(bias), "an untied head does not read it"),
        )
    return (
        *rows(dense(f"{head}.transform.dense", "masked_lm/dense")),
        *rows(norm(f"{head}.transform.LayerNorm", "masked_lm/norm")),
        *decoder,
    )


def table(model: Bert | BertPretraining) -> Table:
    """Rows of the whole model; a tower alone is found with the prefix 'bert.' or without."""
    if isinstance(model, Bert):
        kept = (
            *bert_rows(model, "", ""),
            Aside(r"embeddings\.position_ids", "0, 1, 2 and so on"),
            Aside(r"cls\..*", "heads, which the tower alone does not read"),
        )
        return Table(kept, ((r"^bert\.", ""), *OLD_NAMES))
    kept = (
        *bert_rows(model.text, "bert.", "text/"),
        *masked_lm_rows("bert.embeddings.word_embeddings.weight", model.tied),
        Aside(r"bert\.embeddings\.position_ids", "0, 1, 2 and so on"),
    )
    if model.next_sentence:
        kept = (*kept, *rows(dense("cls.seq_relationship", "next_sentence_head")))
    return Table(kept, OLD_NAMES)


FAMILY = Family("hf/bert", model, table, config, fitted)
