import html.parser
import json
import random
import shutil

import numpy as np
import pytest

from mmjax.evaluation.base import write_artifact
from mmjax.evaluation.report import write_report
from mmjax.evaluation.report_read import read_run
from mmjax.evaluation.retrieval import Retrieval
from mmjax.evaluation.zero_shot import ZeroShot

HOSTILE = "</title></pre><script>alert(1)</script><img src=http://x.example/a onerror=alert(2)>\"'&"


class Reader(html.parser.HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not close in order."""

    EMPTY = frozenset({"meta", "img"})

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader, " ".join(" ".join(reader.words).split())


def check_self_contained(reader):
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(reader.tags)
    for tag, name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert tag in ("img", "image")
            assert value.startswith("data:image/jpeg;base64,")
        if name == "style":
            assert "url(" not in value
    assert "url(" not in "".join(reader.words)
    assert "@import" not in "".join(reader.words)


def train_row(step, **more):
    return {
        "step": step,
        "kind": "train",
        "loss": 4.0 / step,
        "loss/contrastive": 3.0 / step,
        "contrastive/accuracy": 0.5,
        "rate": 1e-3,
        "scale": 14.3,
        "grad_norm": 1.0,
        "images_per_second": 800.0,
        "samples": step * 64,
        "bad_samples": 20,
        "bad_samples/decode": 17,
        "bad_samples/format": 3,
        **more,
    }


def write_lines(folder, rows, end=""):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines + end, encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, random_context):
    """The workdir of a finished run, with two evaluations of both sets of parameters."""
    folder = tmp_path_factory.mktemp("runs") / "a-run"
    folder.mkdir()
    rows = [train_row(step) for step in range(1, 41)]
    for step in (20, 40):
        row = {"step": step, "kind": "evaluate", "evaluation_seconds": step + 2.54}
        for prefix, noise in (("", 0.9), ("ema/", 0.7)):
            context = random_context(
                samples=24, noise=noise / step, labels=np.arange(24) % 3, classes=("A", "B", "C")
            )
            texts = context.encode_texts
            object.__setattr__(
                context,
                "encode_texts",
                lambda some, texts=texts: (
                    texts(some) if some[0].startswith("caption") else np.eye(8)[: len(some)]
                ),
            )
            evaluators = {"retrieval": Retrieval(), "zero_shot": ZeroShot(templates=("{}",))}
            for name, evaluator in evaluators.items():
                result = evaluator(context)
                row |= {f"{prefix}{name}/{key}": value for key, value in result.metrics.items()}
                write_artifact(folder, step, f"{prefix}{name}", result)
        rows.append(row)
    rows.append({"step": 40, "kind": "event", "message": "saved", "path": "checkpoints/40"})
    write_lines(folder, rows)
    config = {"steps": 40, "model": {"target": "mmjax.models.dual.two_tower:TwoTower"}}
    (folder / "config.json").write_text(json.dumps(config))
    environment = {"command": ["train.py", "--config=x.py"], "versions": {"jax": "1"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


@pytest.fixture
def workdir(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "a-run")


def test_a_whole_run_is_told_whole(workdir):
    path = write_report(workdir)
    assert path == workdir / "report.html"
    reader, words = read(path)
    for part in (
        "a-run",
        "step 40 of 40",
        "2,560 samples seen",
        "text → picture R@1",
        "zero-shot accuracy",
        "chance 33.3 %",
        "Gradient norm",
        "Pictures found by a caption",
        "Captions found by a picture",
        "Confusion",
        "Bad samples",
        "decode 17 format 3 Events",
        "saved · path: checkpoints/40",
        "train.py --config=x.py",
        "mmjax.models.dual.two_tower:TwoTower",
        "The evaluation took 42.5 s.",
    ):
        assert part in words, part
    assert "evaluation_seconds" not in words
    assert "Notes" not in words
    assert {"svg", "img", "polyline", "rect"} <= set(reader.tags)
    assert "✓" in words
    assert "✗" in words
    assert path.stat().st_size < 1_000_000
    assert not list(workdir.glob("*.partial"))


def test_the_numbers_shown_are_those_logged(workdir):
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-2])
    _, words = read(write_report(workdir))
    for name in ("R@1", "R@5"):
        averaged = row[f"ema/retrieval/text_to_image/{name}"]
        raw = row[f"retrieval/text_to_image/{name}"]
        chance = row[f"retrieval/text_to_image/{name}_chance"]
        assert (
            f"text → picture {name} {100 * averaged:.1f} % {100 * raw:.1f} % {100 * chance:.1f} %"
        ) in words


def test_it_is_one_file_that_loads_nothing_and_fits_a_phone(workdir):
    reader, _ = read(write_report(workdir))
    check_self_contained(reader)
    metas = {value for tag, name, value in reader.attributes if tag == "meta" and name == "content"}
    assert "width=device-width, initial-scale=1" in metas
    assert any("default-src 'none'" in value for value in metas)
    style = "".join(reader.words)
    assert "prefers-color-scheme:dark" in style
    assert "max-width:520px" in style


def test_hostile_words_stay_words_wherever_they_stand(workdir):
    rows = [train_row(1), {"step": 2, "kind": "event", "message": HOSTILE, HOSTILE: 1}]
    rows += [{"step": 2, "kind": "evaluate", f"{HOSTILE}/R@1": 0.5, f"{HOSTILE}/R@1_chance": 0.1}]
    rows += [train_row(step, **{HOSTILE: float(step)}) for step in (2, 3)]
    rows += [train_row(4, **{f"bad_samples/{HOSTILE}": 3})]
    write_lines(workdir, rows)
    (workdir / "config.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (workdir / "environment.json").write_text(json.dumps({"command": HOSTILE, "devices": HOSTILE}))

    def poison(value):
        if isinstance(value, dict):
            return {key: poison(part) for key, part in value.items()}
        if isinstance(value, list):
            return [poison(part) for part in value]
        return f"{value}{HOSTILE}" if isinstance(value, str) else value

    for path in workdir.glob("evaluations/**/*.json"):
        artifact = json.loads(path.read_text())
        poisoned = {key: part if key == "kind" else poison(part) for key, part in artifact.items()}
        path.write_text(json.dumps(poisoned))
    reader, words = read(write_report(workdir))
    check_self_contained(reader)
    assert words.count("alert(1)") > 40
    assert "<script>alert(1)</script>" in words  # as text


def test_captions_cannot_turn_or_break_the_page(workdir):
    caption = "\x00\ud800 abc \u202e gnp.exe \u2066 שלום"
    for path in workdir.glob("evaluations/**/retrieval.json"):
        artifact = json.loads(path.read_text())
        artifact["text_to_image"][0]["caption"] = caption
        path.write_text(json.dumps(artifact))
    content = write_report(workdir).read_bytes().decode("utf-8")
    assert "שלום" in content
    assert not set("\x00\u202e\u2066") & set(content)


def test_a_missing_workdir_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no workdir"):
        write_report(tmp_path / "nowhere")


def test_an_empty_workdir_gives_a_report_of_what_is_missing(tmp_path):
    _, words = read(write_report(tmp_path))
    for name in ("config.json", "environment.json", "metrics.jsonl", "evaluations/"):
        assert name in words


@pytest.mark.parametrize("name", ["config.json", "environment.json", "metrics.jsonl"])
def test_a_missing_or_damaged_file_leaves_a_note_and_the_rest(workdir, name):
    for damage in (b"", b"\xff\xfe\x00", b"[1, 2]", b'{"steps": ', b"[" * 100_000):
        (workdir / name).write_bytes(damage)
        _, words = read(write_report(workdir))
        assert f"Notes {name}" in words or f"of {name}" in words, damage[:10]
        assert "Pictures found by a caption" in words
    (workdir / name).unlink()
    _, words = read(write_report(workdir))
    assert f"{name} is missing" in words


def test_numbered_parts_from_a_store_are_read_before_what_was_added_since(tmp_path):
    for number, step in ((1, 1), (2, 2), (10, 3)):
        write_lines(tmp_path, [train_row(step)])
        (tmp_path / "metrics.jsonl").rename(tmp_path / f"metrics-{number:06}.jsonl")
    assert [step for step, _ in read_run(tmp_path).train["loss"]] == [1, 2, 3]
    write_lines(tmp_path, [train_row(3, loss=9.0), train_row(4)])
    loss = read_run(tmp_path).train["loss"]
    assert [step for step, _ in loss] == [1, 2, 3, 4]
    assert loss[2] == (3, 9.0)


def test_a_torn_last_line_leaves_a_note_and_all_other_lines(workdir):
    write_lines(workdir, [train_row(1), train_row(2)], end='{"step": 3, "kind": "train", "lo')
    _, words = read(write_report(workdir))
    assert "The last line of metrics.jsonl is torn" in words
    assert "step 2 of 40" in words


def test_a_report_comes_of_a_run_cut_off_anywhere(workdir):
    content = (workdir / "metrics.jsonl").read_bytes()
    generator = random.Random(0)
    for _ in range(12):
        (workdir / "metrics.jsonl").write_bytes(content[: generator.randrange(len(content))])
        read(write_report(workdir))


def test_a_damaged_artifact_costs_its_own_section_only(workdir):
    newest = workdir / "evaluations" / "40" / "ema" / "retrieval.json"
    for damage in ('{"kind": "retrieval"}', '{"kind": "retrieval", "thumbnails": 3, "name": "x"}'):
        newest.write_text(damage)
        _, words = read(write_report(workdir))
        assert "retrieval could not be drawn" in words
        assert "Zero-shot classification" in words
    newest.write_text('{"kind": "retrie')
    _, words = read(write_report(workdir))
    assert "retrieval.json could not be read" in words
    assert "Step 40, raw parameters. Queries" in words


def test_no_damage_to_an_artifact_s_values_stops_the_report(workdir):
    """Each value in turn becomes something else: null, a text, a list, an object, a number."""
    generator = random.Random(1)
    for name in ("retrieval", "zero_shot"):
        path = workdir / "evaluations" / "40" / "ema" / f"{name}.json"
        whole = path.read_text()
        for key in json.loads(whole):
            artifact = json.loads(whole)
            artifact[key] = generator.choice([None, "text", [None], {"a": None}, 1e400, -3])
            path.write_text(json.dumps(artifact))
            read(write_report(workdir))
        path.write_text(whole)


def test_a_thumbnail_that_is_no_base64_is_not_shown(workdir):
    for path in workdir.glob("evaluations/**/retrieval.json"):
        artifact = json.loads(path.read_text())
        artifact["thumbnails"] = dict.fromkeys(artifact["thumbnails"], 'x" onload="alert(1)')
        path.write_text(json.dumps(artifact))
    reader, _ = read(write_report(workdir))
    check_self_contained(reader)


def test_a_long_run_makes_no_large_report(workdir):
    rows = [
        train_row(step, **{f"extra/{i}": step * 0.1 for i in range(5)}) for step in range(1, 5_000)
    ]
    write_lines(workdir, rows)
    path = write_report(workdir)
    read(path)
    assert path.stat().st_size < 1_000_000
