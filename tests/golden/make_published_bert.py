"""Writes published/bert*, from transformers: tiny BERTs, as parity fixtures and as saved folders.

Run by hand where torch and transformers are installed: python tests/golden/make_published_bert.py
"""

import fixtures
import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=12,
    type_vocab_size=2,
    attn_implementation="eager",
)
MODELS = {"bert": BertModel, "bert_mlm": BertForMaskedLM, "bert_pretrain": BertForPreTraining}


def texts():
    """Three texts of two sentences each, of different lengths."""
    ids = torch.randint(1, 40, (3, 10))
    ids[:, 1] = 0  # among real words too: torch's table has no gradient in the row of padding
    mask = torch.zeros(3, 10, dtype=torch.long)
    kinds = torch.zeros(3, 10, dtype=torch.long)
    for row, length in enumerate((10, 6, 4)):
        ids[row, length:] = 0
        mask[row, :length] = 1
        kinds[row, length // 2 : length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}


def main():
    """The tower with its states, and the losses of the heads."""
    for name, model in MODELS.items():
        torch.manual_seed(0)
        model = fixtures.shake(model(CONFIG))
        inputs = texts()
        kwargs = {"output_hidden_states": True, "output_attentions": True}
        if name != "bert":
            labels = torch.randint(1, 40, (3, 10))
            labels[(torch.rand(3, 10) < 0.6) | (inputs["attention_mask"] == 0)] = -100
            inputs["labels"] = labels
        if name == "bert_pretrain":
            inputs["next_sentence_label"] = torch.tensor([0, 1, 1])
        out = model(**inputs, **kwargs)
        loss = out.get("loss")
        fixtures.write(name, model, CONFIG.to_dict(), inputs, fixtures.flat(out), kwargs, loss)
        model.save_pretrained(fixtures.PUBLISHED / name / "saved")


if __name__ == "__main__":
    main()
