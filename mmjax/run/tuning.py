"""A config of a task that takes its model from any source, published or a run of ours.

The task is the config's `adopt`: 'answer' (questions), 'reasoning' (statements about two pictures)
or 'classify' (classes of pictures). The model keeps what it has learnt and gets the task's head.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, build, override, spec
from mmjax.data.answers import Answers
from mmjax.data.transforms.stored import Stored
from mmjax.models.encoders.bert import Bert
from mmjax.models.fusion.vilt import Vilt
from mmjax.models.fusion.visualbert import VisualBert
from mmjax.run.console import say
from mmjax.run.new_head import Headed, with_class_head, with_head
from mmjax.run.rates import rate_rules
from mmjax.run.reading_pictures import LONGEST, Reading, read_so, reading_of
from mmjax.run.told import Told, tell
from mmjax.run.written import fill_contract, fill_tokenizer, kind, specs, written

__all__ = ["TASKS", "tune"]

TASKS = ("answer", "reasoning", "classify")
# Values that the model is made by, so they are read before the others.
FIRST = ("answers.path", "num_classes", "several", "num_regions", "layer_rate", "head_rate")
FIRST += ("sequence_length", "data.path", "eval_data.path", "tokenizer.path")
OFFICIAL = ("VQA", "NLVR2")  # sources whose files hold no regions


def tune(config: ConfigDict, name: str, overrides: Sequence[tuple[str, str]]) -> str:
    """Fills in a source's model with the task's head and all that belongs to it.

    Args:
      config: with `adopt`, changed in place.
      name: of the source.
      overrides: (path, text) of the command line.

    Returns:
      The source's name as it was found.

    Raises:
      ConfigError: a source without what the task needs, or no vocabulary of answers.
    """
    task = config.adopt
    if task not in TASKS:
        raise ConfigError(f"adopt={task!r} is none of {', '.join(TASKS)}.")
    typed = dict(overrides)
    for path in FIRST:
        if path in typed and path.partition(".")[0] in config:
            override(config, path, typed[path])
    told = tell(name)
    if task == "classify":
        headed = with_class_head(told.model, told.name, config.num_classes)
        reading = Reading("squares", ("image", "row"))
        if config.several:
            _several(config)
    else:
        names = _vocabulary(config, told) if task == "answer" else ()
        same = bool(names) and tuple(names) == tuple(told.answers)
        headed = with_head(told.model, task, told.name, len(names), same)
        reading = reading_of(told)
        if task == "answer":
            with config.unlocked():
                config.num_answers = len(names)
    with config.unlocked():
        config.init_from = told.name
        config.init_rules, config.init_fresh = headed.rules, headed.fresh
        _sources(config, told, reading)
        if task != "classify":
            _words(config, told, typed)
        unsaid = (*told.unsaid, *(("text",) if task == "classify" else ()))
        fill_contract(config, told.contract, unsaid)
        _pictures(config, told, reading)
        read_so(config, reading)
        config.model = _model(config, headed, reading)
        try:
            rules = rate_rules(headed.model, config.layer_rate, config.head_rate)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        config.optimizer.rate_rules = rules
        config.adopt = ""
    kept = "goes on with its head" if headed.kept else "gets a new head"
    say(f"{told.name}: {type(headed.model).__name__} {kept} for {task!r}; reads {reading.form}.")
    return told.name


def _vocabulary(config: ConfigDict, told: Told) -> tuple[str, ...]:
    """The answers that are chosen among: those of the config's data, file, or the source's."""
    for node in specs(config.data):
        if kind(node) == "AnswerScores" and "answers" in node:
            return build(node.answers).names
    path = config.answers.path or told.answers_path
    if not path:
        raise ConfigError(
            f"answers.path='': {told.name} brings no vocabulary of answers. Make one with 'mmjax "
            "answers' and give --config.answers.path=FILE."
        )
    try:
        names = Answers.read(path).names
    except (OSError, ValueError) as error:
        raise ConfigError(f"answers.path={path!r}: {error}") from None
    config.answers.path = path
    return names


def _several(config: ConfigDict) -> None:
    """Makes the data hold any number of classes a row, and the goals ask for them."""
    with config.unlocked():
        for node in list(specs((config.data, config.eval_data))):
            if kind(node) == "Dataset":
                shape = (config.get_ref("num_classes"),)
                labels = spec(
                    Stored, word="labels", place="labels;labels.npy;json:labels", shape=shape
                )
                node.fields.label_from = ""
                node.transforms = (*node.transforms, labels)
        for goal in config.goals.values():
            goal.objective.form = "multi_label"


def _sources(config: ConfigDict, told: Told, reading: Reading) -> None:
    """Leaves out the official files where shards are given, or where they hold no regions."""
    for name in ("data", "eval_data"):
        node = config[name]
        source = node.get("source")
        official = source is not None and kind(source) in OFFICIAL
        if node.path and source is not None:
            node.source, node.fields.facts_from = None, ()
            for evaluator in specs(config.evaluators):
                if "identifier" in evaluator:  # shards need not hold one: no consistency then
                    with evaluator.unlocked():
                        evaluator.identifier = ""
        elif official and reading.form == "regions":
            raise ConfigError(
                f"{name}.path='': {told.name} reads regions, and {kind(source)}'s files have none. "
                f"Give shards that hold them: --config.{name}.path='FILES', see docs/finetuning.md."
            )


def _words(config: ConfigDict, told: Told, typed: dict[str, str]) -> None:
    """The tokenizer, and how long a text is."""
    if "tokenizer.path" not in typed:
        if told.tokenizer is None:
            raise ConfigError(
                f"tokenizer.path='': {told.name} has no tokenizer beside it. Give the one that it "
                "was trained with: --config.tokenizer.path=FILE."
            )
        fill_tokenizer(config, *told.tokenizer)
    if "sequence_length" in typed:
        return
    length = told.contract.sequence_length
    text = _text(told.model)
    # A BERT takes any length up to its table's, which is far longer than a question.
    if told.config is None and isinstance(text, Bert):
        length = min(length, config.sequence_length)
    config.sequence_length = length


def _text(model: Any) -> Any:
    model = getattr(model, "fusion", model)
    return model.stream if isinstance(model, Vilt | VisualBert) else model.text


def _pictures(config: ConfigDict, told: Told, reading: Reading) -> None:
    """How large a picture is, or how many regions it has."""
    if reading.form == "regions":
        config.num_regions = reading.fields.get("count", config.num_regions)
    elif reading.form == "padded":
        config.image_size = told.model.stream.image_size
    else:
        config.image_size = told.contract.image_size


def _model(config: ConfigDict, headed: Headed, reading: Reading) -> ConfigDict:
    """The model's spec, by references to the config's own numbers."""
    how = {name: config.get_ref(name) for name in ("dtype", "remat", "image_size")}
    if reading.form == "padded":
        how["max_patches"] = _most_patches(config, headed.model)
    made = written(headed.model, how)
    for field, name in (("answers", "num_answers"), ("num_classes", "num_classes")):
        for node in specs(made):
            if field in node and name in config:
                with node.unlocked():
                    del node[field]
                    node[field] = config.get_ref(name)
    return made


def _most_patches(config: ConfigDict, model: Vilt) -> Any:
    """As many as a picture fills at most, where the source looks at all of them."""
    if model.stream.max_patches is not None:
        return model.stream.max_patches
    side, patch = config.get_ref("image_size"), model.stream.patch_size
    canvas = side * LONGEST[0] // LONGEST[1] // patch
    return side // patch * canvas
