"""Writes published/visualbert*, from transformers: tiny VisualBERTs with each of their heads.

Run by hand where torch and transformers are installed:
python tests/golden/make_published_visualbert.py
"""

import fixtures
import torch
from transformers import (
    VisualBertConfig,
    VisualBertForPreTraining,
    VisualBertForQuestionAnswering,
    VisualBertForRegionToPhraseAlignment,
    VisualBertForVisualReasoning,
    VisualBertModel,
)

CONFIG = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "visual_embedding_dim": 6,
    "attn_implementation": "eager",
}
WORDS, REGIONS, ANSWERS = 10, 5, 7
SAVED = ("visualbert", "visualbert_pretrain", "visualbert_vqa")  # published files, to compare names


SEEN = (torch.arange(REGIONS) < torch.tensor([[4], [REGIONS], [2]])).long()


def words(config):
    """Three texts of two sentences with regions, of different lengths.

    One holds the padding's id as a word, which learns nothing from being looked up.
    """
    ids = torch.randint(3, config.vocab_size, (3, WORDS))
    ids[0, 2] = config.pad_token_id
    mask = torch.zeros(3, WORDS, dtype=torch.long)
    kinds = torch.zeros(3, WORDS, dtype=torch.long)
    for row, length in enumerate((WORDS, 6, 4)):
        mask[row, :length] = 1
        kinds[row, length // 2 : length] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": kinds,
        "visual_embeds": torch.randn(3, REGIONS, config.visual_embedding_dim),
        "visual_attention_mask": SEEN,
        "visual_token_type_ids": torch.arange(REGIONS).repeat(3, 1) // (REGIONS // 2 + 1),
    }


def shares(*shape, seen=1):
    """Soft labels that sum to one, some of them zero, as all that are not seen."""
    made = torch.rand(*shape) * (torch.rand(*shape) < 0.6) * seen
    made[..., 0] += 0.1
    return made / made.sum(-1, keepdim=True)


def examples(config):
    """(folder, class, inputs beside the words, flags) of each."""
    masked = torch.randint(0, config.vocab_size, (3, WORDS + REGIONS))
    masked[torch.rand(3, WORDS + REGIONS) < 0.6] = -100
    aligned = torch.randint(-1, 4, (3, REGIONS, 3))
    aligned[1, 2] = -1
    phrases = torch.tensor([[1, 3, 6], [2, -1, -1], [0, 1, -1]])
    states = {"output_hidden_states": True, "output_attentions": True}
    pretraining = {"labels": masked, "sentence_image_labels": torch.tensor([0, 1, 1])}
    pointing = {
        "image_text_alignment": aligned,
        "region_to_phrase_position": phrases,
        "labels": shares(3, 3, REGIONS, seen=SEEN[:, None]),
    }
    return (
        ("visualbert", VisualBertModel, {"image_text_alignment": aligned}, states),
        ("visualbert_pretrain", VisualBertForPreTraining, pretraining, {}),
        ("visualbert_vqa", VisualBertForQuestionAnswering, {"labels": shares(3, ANSWERS)}, {}),
        (
            "visualbert_nlvr",
            VisualBertForVisualReasoning,
            {"labels": torch.tensor([0, 1, 1])},
            {},
        ),
        ("visualbert_phrases", VisualBertForRegionToPhraseAlignment, pointing, {}),
    )


def main():
    """The tower with its states, and the losses of the heads."""
    torch.manual_seed(0)
    for name, kind, more, kwargs in examples(VisualBertConfig(**CONFIG)):
        labels = {"num_labels": ANSWERS} if name == "visualbert_vqa" else {}
        config = VisualBertConfig(**CONFIG, **labels)
        model = fixtures.shake(kind(config))
        inputs = {**words(config), **more}
        out = model(**inputs, **kwargs)
        made = {**config.to_dict(), "architectures": [kind.__name__]}
        fixtures.write(name, model, made, inputs, fixtures.flat(out), kwargs, out.get("loss"))
        if name in SAVED:
            model.save_pretrained(fixtures.PUBLISHED / name / "saved")


if __name__ == "__main__":
    main()
