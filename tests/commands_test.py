"""The command `mmjax`, as it is typed."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.__main__ import main
from mmjax.data.answers import Answers
from mmjax.run import doctor

PUBLISHED = pathlib.Path(__file__).parent / "golden" / "published"


def test_doctor_looks_at_versions_devices_memory_and_places(capsys):
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert status == int(any(line.startswith("BAD") for line in lines))
    for word in ("Python", "jax", "cpu", "memory free", "JPEG", "compilation cache"):
        assert any(word in line for line in lines), word


def test_doctor_says_what_to_do_about_a_package_that_is_too_old(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_version", lambda name: "0.1" if name == "flax" else "99.0")
    assert main(["doctor"]) == 1
    assert "pip install -U 'flax>=" in capsys.readouterr().out


def test_parity_prints_each_output_and_tells_by_its_status(capsys, tmp_path):
    folder = str(PUBLISHED / "vit")
    assert main(["parity", folder, folder]) == 0
    out = capsys.readouterr().out
    assert "last_hidden_state" in out
    assert "5 of 5 outputs within" in out
    other = str(PUBLISHED / "vit_classifier")
    assert main(["parity", folder, other]) != 0


def test_parity_with_other_weights_says_where_it_first_exceeds_the_bound(capsys, tmp_path):
    folder = PUBLISHED / "vit"
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    arrays = load_file(tmp_path / "state.safetensors")
    arrays["layernorm.bias"] = arrays["layernorm.bias"] + np.float32(1e-3)
    save_file(arrays, tmp_path / "state.safetensors", {"format": "pt"})
    assert main(["parity", str(tmp_path), str(folder)]) == 1
    out = capsys.readouterr().out
    assert "BAD" in out
    assert "first beyond the bound at [0, 0, 0]" in out
    assert any(line.startswith("ok") for line in out.splitlines())


@pytest.fixture
def annotations(tmp_path):
    given = [["red"] * 6 + ["Red."] * 3 + ["blue"], ["2"] * 10, ["two"] * 10, ["no"] * 10]
    entries = [
        {"question_id": n, "image_id": 1, "answers": [{"answer": one} for one in answers]}
        for n, answers in enumerate(given)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": entries}))
    return str(tmp_path / "a.json")


def test_answers_writes_the_vocabulary_and_says_what_it_covers(
    capsys, tmp_path, annotations, write_tar
):
    asked = {"image_id": 1, "qa": [["why?", "So."], ["how many?", ["2"]]]}
    later = {"image_id": 2, "qa": [["when?", "now"]]}
    files = {"a.png": b"", "a.json": json.dumps(asked).encode()}
    shard = write_tar(
        tmp_path / "x.tar", files | {"b.png": b"", "b.json": json.dumps(later).encode()}
    )
    out = str(tmp_path / "answers.json")
    assert main(["answers", annotations, shard, out, "--most=3"]) == 0
    assert Answers.read(out).names == ("2", "no", "now")
    assert "3 answers, right for 5 of 7 questions (71.4%)" in capsys.readouterr().out
    assert main(["answers", annotations, out, "--times=2", "--overwrite"]) == 0
    assert Answers.read(out).names == ("2",)
    assert main(["answers", shard, out, "--held-out=1", "--overwrite"]) == 0
    assert Answers.read(out).names == ("2", "so")


def test_answers_given_wrongly_are_one_line_and_status_two(capsys, tmp_path, annotations):
    out = str(tmp_path / "answers.json")
    for words, message in (
        ((annotations, "a.txt"), "ends in .json"),
        ((annotations, annotations), "--overwrite"),
        ((annotations, out, "--most=0"), "are 1 or more"),
        ((annotations, out, "--times=5"), "no answer is right 5 times"),
        ((annotations, out, "--held-out=5"), "of .tar shards alone"),
        (("a.csv", out), "give annotations in .json"),
        (("no.json", out), "No such file"),
    ):
        assert main(["answers", *words]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not pathlib.Path(out).exists()


def test_what_is_typed_wrongly_is_one_line_and_status_two(capsys, tmp_path):
    folder = str(PUBLISHED / "vit")
    assert main(["parity", folder, str(tmp_path / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["export", "weights", str(tmp_path / "no"), str(tmp_path / "out")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["exprot"])
    assert left.value.code == 2
