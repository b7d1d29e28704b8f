"""What is refused late leaves a run as it was; odd held-out data ends no evaluation."""

import dataclasses
import io
import json
import os
import pathlib

import jax
import optax
import pytest
from PIL import Image

from mmjax.config import ConfigError, override, spec
from mmjax.data.dataset import members_of
from mmjax.data.tokenizers.training import train_bpe
from mmjax.parallel.mesh import make_mesh
from mmjax.run.assembly import assemble, data_identity, open_tokenizer, with_tokenizer
from mmjax.run.config_file import load
from mmjax.run.evaluating import Evaluation
from mmjax.run.evaluation import evaluate
from mmjax.run.options import Options
from mmjax.run.suiting import check_evaluators
from mmjax.run.training import train

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def changed(name, **values):
    config = load(f"{CONFIGS / name}.py:smoke")
    for path, value in values.items():
        override(config, path.replace("__", "."), str(value))
    return config


def tokenized(config, folder, captions=None):
    """(parts, tokenizer of the captions or of the config's own data)."""
    parts = assemble(config)
    (data,) = members_of(parts.streams["main"].data)
    train_bpe(captions or data.captions(most=64), 512, str(folder / "tokenizer.json"))
    return with_tokenizer(parts, open_tokenizer(folder / "tokenizer.json"))


def picture(number):
    """A PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (20 * number, 90, 90)).save(file, "PNG")
    return file.getvalue()


def test_a_refused_resume_leaves_the_config_and_the_first_command_goes_on(tmp_path):
    train(changed("features"), str(tmp_path), Options())
    before = (tmp_path / "config.json").read_text()
    other = changed("features", seed=5)
    with pytest.raises(ConfigError, match=r"the data differs.*--restart-data"):
        train(other, str(tmp_path), Options(resume=True))
    assert (tmp_path / "config.json").read_text() == before
    train(changed("features"), str(tmp_path), Options())
    train(other, str(tmp_path), Options(resume=True, restart_data=True))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"evaluators__retrieval__positives": "group"},
            r"evaluators\.retrieval: needs batches with 'group', .*eval_data\.fields\.group_from",
        ),
        (
            {"eval_data__fields__label_from": ""},
            r"evaluators\.zero_shot: needs batches with 'label', .*eval_data\.fields\.label_from",
        ),
        (
            {"evaluators__retrieval__image_words": "('imag',)"},
            r"evaluators\.retrieval: needs batches with 'imag', .*Correct the word",
        ),
        (
            {"goals__contrastive__objective__image": "('encode_imag', ('image', 'row'))"},
            r"goals\.contrastive\.objective\.image: TwoTower has no method 'encode_imag'.*"
            "'encode_image'",
        ),
    ],
)
def test_what_model_or_data_lack_is_told_before_the_first_step(values, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(changed("quickstart", **values), str(tmp_path), Options())
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"init_rules": "(('[', 'x'),)"}, r"init_rules: '\[' is no regular expression"),
        ({"init_rules": "(('(.*)', r'\\2'),)"}, r"init_rules: .* asks for group 2, .* has 1"),
        ({"init_rules": "(('(.*)', 3),)"}, r"init_rules: 3, for '\(\.\*\)', is no path"),
        ({"init_rules": "(('a',),)"}, r"init_rules: \('a',\) is no rule"),
        ({"init_fresh": "('[',)"}, r"init_fresh: '\[' is no regular expression"),
    ],
)
def test_rules_of_a_warm_start_that_are_none_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        assemble(changed("features", **values))


def test_a_pattern_that_leaves_nothing_fresh_is_refused(tmp_path):
    train(changed("features"), str(tmp_path / "one"), Options())
    more = {"init_from": str(tmp_path / "one"), "init_fresh": "('misspelt/.*',)"}
    with pytest.raises(ConfigError, match=r"init_fresh: 'misspelt/\.\*' is the path of no array"):
        train(changed("features", **more), str(tmp_path / "two"), Options())


def test_an_evaluation_later_refuses_what_training_does(tmp_path):
    train(changed("features"), str(tmp_path), Options())
    given = [("evaluators.objectives.goals", "('contrastiv',)")]
    with pytest.raises(ConfigError, match=r"evaluators\.objectives: goals=.* no 'contrastiv'"):
        evaluate(str(tmp_path), overrides=given)


def test_letters_that_the_locale_does_not_know_are_seen_above_the_workdir_too(
    tmp_path, monkeypatch
):
    folder = tmp_path / os.fsdecode(b"l\xe4uft")
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="Set PYTHONUTF8=1"):
        train(changed("features"), "run")
    assert not list(folder.iterdir())


def test_an_overwriting_run_that_is_refused_late_leaves_the_old_one(tmp_path):
    train(changed("features"), str(tmp_path), Options())
    before = {
        path.relative_to(tmp_path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name not in ("report.html", "lock.json")
    }
    assert any(path.name == "manifest.json" for path in before)
    unlike = changed("features", goals__contrastive__objective__positives="('caption_id',)")
    with pytest.raises(ConfigError, match="needs 'caption_id'"):  # found once the data are open
        train(unlike, str(tmp_path), Options(overwrite=True))
    assert {path: (tmp_path / path).read_bytes() for path in before} == before
    assert not (tmp_path / ".overwritten").exists()
    train(changed("features", seed=5), str(tmp_path), Options(overwrite=True))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 5
    assert not (tmp_path / ".overwritten").exists()


def test_a_best_metric_that_nothing_measures_is_said(tmp_path, capsys):
    best = {"eval_steps": 1, "best_metric": "retrieval/text_to_image/R@2"}
    train(changed("features", **best), str(tmp_path), Options())
    said = "best_metric='retrieval/text_to_image/R@2' was not measured, so no step is kept"
    assert said in capsys.readouterr().err
    assert said in (tmp_path / "metrics.jsonl").read_text()
    assert "Did you mean 'retrieval/text_to_image/R@" in (tmp_path / "metrics.jsonl").read_text()


def test_another_tokenizer_is_other_data(tmp_path):
    config = changed("shards")
    (tmp_path / "other").mkdir()
    own = tokenized(config, tmp_path)
    other = tokenized(config, tmp_path / "other", ["blue green red"] * 8)
    assert data_identity(config, own) == data_identity(config, own)
    assert data_identity(config, own) != data_identity(config, other)


def test_transforms_and_contract_have_to_agree(tmp_path):
    config = changed("shards", preprocess__bos=False)
    with pytest.raises(ConfigError, match=r"Tokenize of the data has bos=True.*preprocess.bos"):
        tokenized(config, tmp_path)


def test_a_caption_that_training_would_not_read_is_left_out_of_the_evaluation(tmp_path):
    parts = tokenized(changed("vit_b16"), tmp_path)
    evaluation = Evaluation(parts, make_mesh(devices=jax.devices()[:1]), parts.settings["reading"])
    odd = {"captions": ("a  red\x00 circle", "...", "\ud800", "a blue box")}
    evaluation._sample = lambda position: odd
    assert evaluation._captions(0) == ("a red circle", "a blue box")


def test_an_evaluation_goes_on_where_the_report_cannot_be_written(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "evaluations").write_text("in the way")
    numbers = train(changed("features"), str(folder), Options())
    assert "retrieval/text_to_image/R@1" in numbers
    assert "could not be written" in capsys.readouterr().out


def test_a_type_that_parameters_cannot_have_is_refused():
    with pytest.raises(ConfigError, match="params_dtype='float16' is none of float32, bfloat16"):
        assemble(changed("features", params_dtype="float16"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preprocess__resize": "shortes"}, "preprocess: .*'shortes'"),
        ({"preprocess__resize": "shortest"}, "form='squash' and preprocess.resize is 'shortest'"),
        ({"preprocess__text_cleaning": "lowr"}, "preprocess: .*'lowr'"),
        ({"model__image__num_heads": 0}, r"model\.image\.num_heads=0: give 1 or more"),
        ({"model__text__depth": -1}, r"model\.text\.depth=-1: give 0 or more"),
        ({"model__embed_dim": -1}, r"model\.embed_dim=-1: give 1 or more"),
        ({"model__log_scale_init": "inf"}, r"model\.log_scale_init=inf: give a finite number"),
        ({"model__text__norm_epsilon": "inf"}, r"model\.text\.norm_epsilon=inf: give a finite"),
        ({"model__image__norm_epsilon": -1e-6}, r"model\.image\.norm_epsilon=-1e-06: give 0 or"),
        ({"optimizer__weight_decay": "inf"}, r"optimizer: AdamW: weight_decay=inf: a finite"),
        ({"optimizer__schedule__peak": "inf"}, r"optimizer\.schedule: .*: peak=inf.*finite"),
        ({"data__weight": "inf"}, "data: Dataset: weight=inf: .* at most 1e"),
        ({"model__text__dtype": "bf16"}, r"model\.\w+\.dtype='bf16' is none of auto, float32,"),
        ({"model__image__remat": "ful"}, r"model\.image\.remat='ful' is none of none, full"),
        ({"model__image__attention": "flash"}, r"model\.image\.attention='flash' is none of auto"),
        ({"model__text__activation": "silu"}, r"model\.text\.activation='silu' is none of gelu"),
        ({"eval_batch_size": 0}, "eval_batch_size=0: give 1 or more"),
        ({"batch_size": -8}, "batch_size=-8: give 1 or more"),
        ({"seed": 10**20}, "seed=100000000000000000000: a whole number of at most 64 bits"),
        ({"evaluators__retrieval__chunk": 0}, r"evaluators\.retrieval: Retrieval: chunk=0: 1 or"),
        ({"evaluators__retrieval__ks": "(0, 1)"}, r"ks=\(0, 1\): give whole numbers from 1 up"),
        ({"data__fields__facts_from": 1}, "Fields|facts_from"),
    ],
)
def test_a_value_that_cannot_be_one_is_refused_before_a_device_starts(values, message):
    with pytest.raises(ConfigError, match=message):
        assemble(changed("vit_b16", **values))


def test_an_evaluator_that_encodes_by_no_method_is_refused_at_the_start(tmp_path):
    parts = tokenized(
        changed("quickstart", evaluators__retrieval__image_method="encode_imag"), tmp_path
    )
    with pytest.raises(ValueError, match="retrieval: image_method='encode_imag': TwoTower has no"):
        Evaluation(parts, make_mesh(devices=jax.devices()[:1]), parts.settings["reading"])


def test_held_out_samples_that_cannot_be_used_are_told_by_cause(tmp_path, write_tar, capsys):
    files = {}
    for n in range(12):
        files[f"{n}.png"] = picture(n)
        if n % 3:
            files[f"{n}.txt"] = f"a picture of number {n}".encode()
    path = write_tar(tmp_path / "one.tar", files)
    config = load(f"{CONFIGS / 'shards'}.py")
    tiny = {"depth": 1, "dim": 16, "mlp_dim": 16, "num_heads": 2}
    values = {f"model.{tower}.{k}": v for tower in ("image", "text") for k, v in tiny.items()}
    values |= {"steps": 1, "batch_size": 8, "eval_batch_size": 8, "image_size": 32}
    values |= {"data.path": path, "eval_data.path": path, "vocab_size": 300}
    for name, value in values.items():
        override(config, name, str(value))
    numbers = train(config, str(tmp_path / "run"), Options())
    assert numbers["unusable_samples"] == 4
    assert "eval_data: 4 of 12 samples cannot be used" in capsys.readouterr().out


def test_an_evaluation_tells_of_the_newer_step_that_it_leaves_out(tmp_path, capsys):
    train(changed("features"), str(tmp_path), Options())
    newest = tmp_path / "checkpoints" / "2"
    file = next(path for path in sorted(newest.rglob("*")) if path.stat().st_size > 2_000)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(bytes(data))
    capsys.readouterr()
    evaluate(str(tmp_path))
    told = capsys.readouterr().out
    assert "checkpoint 2 is damaged" in told
    assert "step 1 is evaluated" in told
    assert newest.exists()


def test_an_evaluation_whose_report_cannot_be_written_tells_its_numbers(tmp_path, capsys):
    train(changed("features"), str(tmp_path), Options())
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()  # refused to root too, as a read-only disk is
    capsys.readouterr()
    assert evaluate(str(tmp_path))
    told = capsys.readouterr().out
    assert "report: not written ([Errno" in told
    assert not (tmp_path / "report.html.partial").exists()


@dataclasses.dataclass(frozen=True)
class Plain:
    """Stands where an Evaluator has to."""


def test_what_is_no_evaluator_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"^evaluators\.own is Plain, no Evaluator; make it one"):
        check_evaluators({"own": Plain()}, None, (), {}, ())


def test_an_optimizer_of_another_library_is_refused_by_its_name():
    config = changed("features")
    with config.unlocked():
        config.optimizer = spec(optax.adamw, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"^optimizer is Gradient\w+, no Optimizer; make it"):
        assemble(config)
