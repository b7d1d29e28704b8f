"""Writes bert.npz: a tiny BERT of random weights with its pretraining heads, from transformers.

Run by hand where torch and transformers are installed: python tests/golden/make_bert.py
"""

import pathlib

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

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
LENGTHS = (10, 6, 4)


def main():
    """Draws weights and inputs, runs the model, saves all of it."""
    torch.manual_seed(0)
    model = BertForPreTraining(CONFIG).eval()
    with torch.no_grad():
        for array in model.parameters():
            # Random biases and norms too, so that none of them can be mapped wrongly unseen.
            array.add_(0.1 * torch.randn_like(array))
    ids = torch.randint(1, 40, (3, 10))
    mask = torch.zeros(3, 10, dtype=torch.long)
    types = torch.zeros(3, 10, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = 0
        mask[row, :length] = 1
        types[row, length // 2 : length] = 1
    labels = torch.randint(1, 40, (3, 10))
    labels[(torch.rand(3, 10) < 0.6) | (mask == 0)] = -100
    arrays = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "labels": labels,
        "next_sentence_label": torch.tensor([0, 1, 1]),
    }
    out = model(**arrays, output_hidden_states=True, output_attentions=True)
    out.loss.backward()
    with torch.no_grad():
        pooled = model.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).pooler_output
        without = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    arrays |= {f"state/{name}": x for name, x in model.state_dict().items() if name not in tied}
    arrays |= {f"grad_norm/{name}": x.grad.norm() for name, x in model.named_parameters()}
    for name in ("loss", "prediction_logits", "seq_relationship_logits"):
        arrays[f"out/{name}"] = out[name]
    arrays["out/hidden_states"] = torch.stack(out.hidden_states)
    arrays["out/attentions"] = torch.stack(out.attentions)
    arrays["out/pooler_output"] = pooled
    arrays["out/last_hidden_state_without_types"] = without
    path = pathlib.Path(__file__).with_name("bert.npz")
    np.savez_compressed(path, **{name: x.detach().numpy() for name, x in arrays.items()})


if __name__ == "__main__":
    main()
