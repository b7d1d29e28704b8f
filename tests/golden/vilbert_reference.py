"""ViLBERT a second time, in torch, for the goldens: functions of a state under published names.

The releases cannot be installed beside a present torch. This is written from the papers and from
what each array of a published file is for; no line of the releases or of mmjax is in it.
"""

import math

import torch
from torch.nn import functional

# Answers of VQA, of GQA and of the earlier release; published weights have 3,129 and 1,533.
ANSWERS = {"vqa": 31, "gqa": 17, "earlier": 15}
TASKS = 3
WORDS = "embeddings.word_embeddings.weight"


def shapes(config, kind, earlier):
    """{published name: shape} of all arrays."""
    made = {}

    def dense(name, inside, outside):
        made[f"{name}.weight"], made[f"{name}.bias"] = (outside, inside), (outside,)

    def norm(name, width):
        made[f"{name}.weight"], made[f"{name}.bias"] = (width,), (width,)

    def layer(name, width, inner):
        for part in ("query", "key", "value"):
            dense(f"{name}.attention.self.{part}", width, width)
        dense(f"{name}.attention.output.dense", width, width)
        norm(f"{name}.attention.output.LayerNorm", width)
        dense(f"{name}.intermediate.dense", width, inner)
        dense(f"{name}.output.dense", inner, width)
        norm(f"{name}.output.LayerNorm", width)

    below = "" if kind == "BertModel" else "bert."
    text, inner, seen = config["hidden_size"], config["intermediate_size"], config["v_hidden_size"]
    both = config["bi_hidden_size"]
    made[f"{below}{WORDS}"] = (config["vocab_size"], text)
    made[f"{below}embeddings.position_embeddings.weight"] = (
        config["max_position_embeddings"],
        text,
    )
    made[f"{below}embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], text)
    if config.get("task_specific_tokens"):
        made[f"{below}embeddings.task_embeddings.weight"] = (TASKS, text)
    norm(f"{below}embeddings.LayerNorm", text)
    dense(f"{below}v_embeddings.image_embeddings", config["v_feature_size"], seen)
    dense(f"{below}v_embeddings.image_location_embeddings", 5, seen)
    norm(f"{below}v_embeddings.LayerNorm", seen)
    for n in range(config["num_hidden_layers"]):
        layer(f"{below}encoder.layer.{n}", text, inner)
    for n in range(config["v_num_hidden_layers"]):
        layer(f"{below}encoder.v_layer.{n}", seen, config["v_intermediate_size"])
    for n in range(len(config["v_biattention_id"])):
        name = f"{below}encoder.c_layer.{n}"
        for number, width in (("1", seen), ("2", text)):
            for part in ("query", "key", "value"):
                dense(f"{name}.biattention.{part}{number}", width, both)
        for number, width in (("1", seen), ("2", text)):
            dense(f"{name}.biOutput.dense{number}", both, width)
            norm(f"{name}.biOutput.LayerNorm{number}", width)
            dense(f"{name}.biOutput.q_dense{number}", both, width)
        for side, width, wide in (("v", seen, config["v_intermediate_size"]), ("t", text, inner)):
            dense(f"{name}.{side}_intermediate.dense", width, wide)
            dense(f"{name}.{side}_output.dense", wide, width)
            norm(f"{name}.{side}_output.LayerNorm", width)
    dense(f"{below}t_pooler.dense", text, both)
    dense(f"{below}v_pooler.dense", seen, both)
    if kind == "BertModel":
        return made
    made["cls.predictions.bias"] = (config["vocab_size"],)
    dense("cls.predictions.transform.dense", text, text)
    norm("cls.predictions.transform.LayerNorm", text)
    dense("cls.bi_seq_relationship", both, 2)
    dense("cls.imagePredictions.transform.dense", seen, seen)
    norm("cls.imagePredictions.transform.LayerNorm", seen)
    dense("cls.imagePredictions.decoder", seen, config["v_target_size"])
    if kind != "VILBertForVLTasks":
        return made

    def answers(name, inside, number):
        for place, a, b in ((0, inside, 2 * both), (3, 2 * both, number)):
            if earlier:
                made[f"{name}.main.{place}.bias"] = (b,)
                made[f"{name}.main.{place}.weight_g"] = ()
                made[f"{name}.main.{place}.weight_v"] = (b, a)
            else:
                dense(f"{name}.logit_fc.{place}", a, b)
        if not earlier:
            norm(f"{name}.logit_fc.2", 2 * both)

    answers("vil_prediction", both, ANSWERS["earlier" if earlier else "vqa"])
    if not earlier:
        answers("vil_prediction_gqa", both, ANSWERS["gqa"])
        answers("vil_binary_prediction", 2 * both, 2)
        dense("vil_tri_prediction", both, 3)
    dense("vil_logit", both, 1)
    dense("vision_logit", seen, 1)
    dense("linguisic_logit", text, 1)
    return made


class Reference:
    """A ViLBERT as functions of its state."""

    def __init__(self, config, kind, earlier):
        self.config, self.earlier, self.heads = config, earlier, kind != "BertModel"
        self.tasks = kind == "VILBertForVLTasks"
        self.state = {}
        for name, shape in shapes(config, kind, earlier).items():
            middle = 1.0 if name.endswith(("LayerNorm.weight", "logit_fc.2.weight")) else 0.0
            spread = 0.5 / shape[-1] ** 0.5 if len(shape) > 1 else 0.1
            if name.endswith("weight_g"):
                middle = 3.0
            array = middle + spread * torch.randn(shape)
            self.state[name] = array.requires_grad_()
        self.below = "bert." if self.heads else ""

    def state_dict(self):
        """All arrays, the tied copy too."""
        made = {name: array.detach() for name, array in self.state.items()}
        if self.heads:
            made["cls.predictions.decoder.weight"] = made[f"bert.{WORDS}"]
        return made

    def named_parameters(self):
        """All arrays, a tied one once."""
        return self.state.items()

    def zero_grad(self):
        """Nothing has a gradient yet."""

    def linear(self, name, x):
        """A dense layer."""
        return functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name, x):
        """A layer norm."""
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-12)

    def attend(self, query, key, value, mask, heads):
        """softmax of scaled products, padding 10,000 lower, times the values."""

        def split(x):
            return x.unflatten(-1, (heads, -1)).transpose(1, 2)

        query, key, value = split(query), split(key), split(value)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores - 10_000.0 * (1.0 - mask[:, None, None, :])
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)

    def feed(self, up, down, x):
        """A perceptron added to x, then a norm."""
        y = self.linear(f"{down}.dense", functional.gelu(self.linear(f"{up}.dense", x)))
        return self.norm(f"{down}.LayerNorm", x + y)

    def layer(self, name, x, mask, heads):
        """A layer of one stream."""
        parts = [self.linear(f"{name}.attention.self.{p}", x) for p in ("query", "key", "value")]
        seen = self.linear(f"{name}.attention.output.dense", self.attend(*parts, mask, heads))
        x = self.norm(f"{name}.attention.output.LayerNorm", x + seen)
        return self.feed(f"{name}.intermediate", f"{name}.output", x)

    def bridge(self, name, text, image, text_mask, image_mask):
        """Each stream looks at the other as it is before the bridge."""
        heads = self.config["bi_num_attention_heads"]

        def part(which, number, x):
            return self.linear(f"{name}.biattention.{which}{number}", x)

        to_text = self.attend(
            part("query", 2, text),
            part("key", 1, image),
            part("value", 1, image),
            image_mask,
            heads,
        )
        to_image = self.attend(
            part("query", 1, image), part("key", 2, text), part("value", 2, text), text_mask, heads
        )
        out = f"{name}.biOutput"
        text = self.norm(f"{out}.LayerNorm2", text + self.linear(f"{out}.dense2", to_text))
        image = self.norm(f"{out}.LayerNorm1", image + self.linear(f"{out}.dense1", to_image))
        text = self.feed(f"{name}.t_intermediate", f"{name}.t_output", text)
        return text, self.feed(f"{name}.v_intermediate", f"{name}.v_output", image)

    def streams(self, inputs):
        """(states after each bridge, of text and of picture; the last states of both)."""
        config, below = self.config, self.below
        ids = inputs["input_ids"]
        tables = f"{below}embeddings"
        text = functional.embedding(ids, self.state[f"{below}{WORDS}"], padding_idx=0)
        text = text + self.state[f"{tables}.position_embeddings.weight"][: ids.shape[1]]
        kinds = self.state[f"{tables}.token_type_embeddings.weight"]
        text = text + kinds[inputs["token_type_ids"]]
        masks = inputs["attention_mask"].float(), inputs["image_attention_mask"].float()
        if "task_ids" in inputs:
            told = self.state[f"{tables}.task_embeddings.weight"][inputs["task_ids"]]
            text = torch.cat([text[:, :1], told, text[:, 1:]], 1)
            masks = torch.cat([torch.ones(len(ids), 1), masks[0]], 1), masks[1]
        text = self.norm(f"{tables}.LayerNorm", text)
        image = self.linear(f"{below}v_embeddings.image_embeddings", inputs["image_feat"])
        places = self.linear(f"{below}v_embeddings.image_location_embeddings", inputs["image_loc"])
        image = self.norm(f"{below}v_embeddings.LayerNorm", image + places)

        def run(x, side, name, start, stop, mask):
            for n in range(start, stop):
                heads = config[f"{side}num_attention_heads"]
                x = self.layer(f"{below}encoder.{name}.{n}", x, mask, heads)
            return x

        texts, images, t, v = [], [], 0, 0
        for k, (at_t, at_v) in enumerate(
            zip(config["t_biattention_id"], config["v_biattention_id"])
        ):
            text = run(text, "", "layer", t, at_t, masks[0])
            image = run(image, "v_", "v_layer", v, at_v, masks[1])
            text, image = self.bridge(f"{below}encoder.c_layer.{k}", text, image, *masks)
            texts.append(text)
            images.append(image)
            t, v = at_t, at_v
        text = run(text, "", "layer", t, config["num_hidden_layers"], masks[0])
        image = run(image, "v_", "v_layer", v, config["v_num_hidden_layers"], masks[1])
        return texts, images, text, image

    def pool(self, text, image):
        """A vector of the first word and one of the first region."""
        return (
            self.linear(f"{self.below}t_pooler.dense", text[:, 0]).relu(),
            self.linear(f"{self.below}v_pooler.dense", image[:, 0]).relu(),
        )

    def transform(self, name, x):
        """Dense layer, gelu, norm."""
        return self.norm(f"{name}.LayerNorm", functional.gelu(self.linear(f"{name}.dense", x)))

    def answers(self, name, x):
        """A head of answers."""
        if not self.earlier:
            x = functional.gelu(self.linear(f"{name}.logit_fc.0", x))
            return self.linear(f"{name}.logit_fc.3", self.norm(f"{name}.logit_fc.2", x))

        def scaled(name, x):
            v, g = self.state[f"{name}.weight_v"], self.state[f"{name}.weight_g"]
            return functional.linear(x, v * g / v.norm(), self.state[f"{name}.bias"])

        return scaled(f"{name}.main.3", scaled(f"{name}.main.0", x).relu())

    def forward(self, **inputs):
        """{output: tensor} of a state's streams, pretraining or tasks, as the state's names say."""
        return self(inputs)

    def __call__(self, inputs, every=False):
        """The outputs of a class; `every` asks for the states after each bridge."""
        texts, images, text, image = self.streams(inputs)
        if not self.heads:
            of_text, of_image = self.pool(*((texts[-1], images[-1]) if every else (text, image)))
            made = {"pooled_t": of_text, "pooled_v": of_image}
            if every:
                made |= {f"encoded_layers_t.{n}": x for n, x in enumerate(texts)}
                return made | {f"encoded_layers_v.{n}": x for n, x in enumerate(images)}
            return {"sequence_output_t": text, "sequence_output_v": image, **made}
        of_text, of_image = self.pool(text, image)
        pooled = of_text * of_image
        words = self.transform("cls.predictions.transform", text) @ self.state[f"bert.{WORDS}"].T
        words = words + self.state["cls.predictions.bias"]
        classes = self.transform("cls.imagePredictions.transform", image)
        classes = self.linear("cls.imagePredictions.decoder", classes)
        matching = self.linear("cls.bi_seq_relationship", pooled)
        if self.tasks:
            return self.task_scores(inputs, text, image, pooled, words, classes, matching)
        made = {
            "prediction_scores_t": words,
            "prediction_scores_v": classes,
            "seq_relationship_score": matching,
        }
        if "masked_lm_labels" in inputs:
            made |= self.losses(inputs, words, classes, matching)
        return made

    def task_scores(self, inputs, text, image, pooled, words, classes, matching):
        """What the heads of the tasks give."""
        hidden = -10_000.0 * (1.0 - inputs["image_attention_mask"].float())[..., None]
        made = {
            "vil_prediction": self.answers("vil_prediction", pooled),
            "vil_logit": self.linear("vil_logit", pooled),
            "vil_binary_prediction": matching,
            "vision_prediction": classes,
            "vision_logit": self.linear("vision_logit", image) + hidden,
            "linguisic_prediction": words,
            "linguisic_logit": self.linear("linguisic_logit", text),
        }
        if not self.earlier:
            pairs = pooled.reshape(-1, 2 * pooled.shape[1])
            made["vil_prediction_gqa"] = self.answers("vil_prediction_gqa", pooled)
            made["vil_binary_prediction"] = self.answers("vil_binary_prediction", pairs)
            made["vil_tri_prediction"] = self.linear("vil_tri_prediction", pooled)
        return made

    def losses(self, inputs, words, classes, matching):
        """The three losses of pretraining and their sum."""
        asked = inputs["image_label"] == 1
        apart = functional.kl_div(
            classes[:, 1:].log_softmax(-1), inputs["image_target"], reduction="none"
        )
        labels, following = inputs["masked_lm_labels"], inputs["next_sentence_label"]
        made = {
            "masked_lm_loss": functional.cross_entropy(
                words.flatten(0, 1), labels.flatten(), ignore_index=-1
            ),
            "masked_img_loss": (apart.sum(-1) * asked).sum() / asked.sum(),
            "next_sentence_loss": functional.cross_entropy(matching, following, ignore_index=-1),
        }
        total = sum(made.values())
        return {**{name: x[None] for name, x in made.items()}, "loss": total}
