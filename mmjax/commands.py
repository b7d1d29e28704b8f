"""What each command of `mmjax` does."""

import argparse
import importlib
import pathlib
import sys
from typing import Any

__all__ = ["add"]

DIFFERS = 1  # exit status of a parity that does not hold
WRONG = 2  # exit status of what was given wrongly


def add(commands: Any) -> None:
    """Adds every command to argparse's subparsers."""
    export = commands.add_parser("export", help="write a model for other libraries")
    kinds = export.add_subparsers(dest="what", required=True, metavar="WHAT")
    weights = kinds.add_parser("weights", help="a folder that another library loads")
    weights.add_argument("source", help="a workdir, or anything that mmjax.load takes")
    weights.add_argument("out", help="a new folder; for big_vision a new .npz")
    weights.add_argument("--format", default="hf", help="hf, open_clip, big_vision or timm")
    weights.add_argument("--step", type=int, default=None, help="by default the newest")
    weights.add_argument("--ema", action="store_true", help="the moving average")
    weights.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    weights.add_argument("--allow", default="", help="crop_rounding, text_cleaning: lose it")
    weights.set_defaults(run=_export)
    parity = commands.add_parser("parity", help="compare a model of ours with its reference")
    parity.add_argument("ours", help="anything that mmjax.load takes, or a fixture's folder")
    parity.add_argument(
        "theirs",
        help="a fixture's folder with stored outputs, or a folder in Hugging Face or open_clip "
        "layout whose library is installed",
    )
    parity.set_defaults(run=_parity)
    answers = commands.add_parser("answers", help="the vocabulary of a training set's answers")
    answers.add_argument(
        "annotations", nargs="+", help="VQA's annotations in .json, or .tar shards with questions"
    )
    answers.add_argument("out", help="a new .json, for --config.answers.path")
    answers.add_argument("--most", type=int, default=None, help="keep so many; by default all")
    answers.add_argument("--times", type=int, default=1, help="that are right so often or more")
    answers.add_argument(
        "--held-out", type=int, default=0, help="leave out the last pictures of shards"
    )
    answers.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    answers.set_defaults(run=_answers)
    convert = commands.add_parser("convert", help="write others' data as shards")
    formats = convert.add_subparsers(dest="what", required=True, metavar="WHAT")
    table = formats.add_parser("lxmert-tsv", help="LXMERT's table of detected regions")
    table.add_argument("table", help="the .tsv file")
    table.add_argument("prefix", help="shards/train gives shards/train-000000.tar and so on")
    table.add_argument("--samples", type=int, default=1000, help="pictures a shard")
    table.add_argument(
        "--captions", default="", help='a JSON file: {"img_id": "text" or ["text", ...], ...}'
    )
    table.set_defaults(run=_convert_lxmert)
    doctor = commands.add_parser("doctor", help="versions, devices, memory, what to do about them")
    doctor.set_defaults(run=_doctor)


def _export(known: argparse.Namespace) -> int:
    load = importlib.import_module("mmjax.load").load
    export_weights = importlib.import_module("mmjax.interop.export").export_weights
    loaded = load(known.source, step=known.step, ema=known.ema)
    allow = tuple(one for one in known.allow.split(",") if one)
    files = export_weights(loaded, known.out, known.format, known.overwrite, allow)
    print(f"{known.out}: {', '.join(files)}")
    return 0


def _parity(known: argparse.Namespace) -> int:
    parity = importlib.import_module("mmjax.interop.parity")
    theirs = pathlib.Path(known.theirs)
    if not theirs.is_dir():
        kind = importlib.import_module("mmjax.interop.errors").WeightsError
        raise kind(f"{known.theirs!r}: no such folder.")
    if (theirs / "meta.json").is_file():
        made = parity.run(theirs, _tensors(known.ours, theirs, parity))
        answers = parity.stored(theirs)
    else:
        load = importlib.import_module("mmjax.load").load
        both_sides = importlib.import_module("mmjax.interop.reference").both_sides
        made, answers = both_sides(load(known.ours), theirs)
        answers = {name: value for name, value in answers.items() if name in made}
    found = parity.differences(made, answers)
    for one in found:
        place = "" if one.place is None else f"  first beyond the bound at {list(one.place)}"
        mark = "ok " if one.within else "BAD"
        print(f"{mark}  {one.largest:9.2e}  {one.name}{place}{one.note and '  ' + one.note}")
    bad = sum(not one.within for one in found)
    print(f"{len(found) - bad} of {len(found)} outputs within atol 2e-5, rtol 1e-5")
    return DIFFERS if bad or not found else 0


def _tensors(ours: str, theirs: pathlib.Path, parity: Any) -> Any:
    """Weights of ours by the reference's names."""
    folder = pathlib.Path(ours)
    if (folder / "state.safetensors").is_file():
        kind = importlib.import_module("mmjax.interop.tensors").Safetensors
        return kind([folder / "state.safetensors"])
    loaded = importlib.import_module("mmjax.load").load(ours)
    family = parity.runner(parity.Fixture.open(theirs)).FAMILY
    return importlib.import_module("mmjax.interop.export").published(loaded, family)


def _answers(known: argparse.Namespace) -> int:
    lists = importlib.import_module("mmjax.data.datasets.answer_lists")
    kind = importlib.import_module("mmjax.data.answers").Answers
    out = pathlib.Path(known.out)
    try:
        if out.suffix != ".json":
            raise ValueError(f"{out} is what is written; its name ends in .json.")
        if not out.absolute().parent.is_dir():
            raise ValueError(f"{out}: there is no folder {out.parent} to write it to.")
        if out.exists() and not known.overwrite:
            raise ValueError(f"{out} is there; give another name, or --overwrite.")
        if known.times < 1 or (known.most is not None and known.most < 1):
            raise ValueError(f"--most={known.most} and --times={known.times} are 1 or more.")
        given = [
            one for path in known.annotations for one in lists.answers_in(path, known.held_out)
        ]
        answers = kind.most_frequent(given, known.most, known.times)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    out.write_text(answers.to_json(), encoding="utf-8")
    inside, total = lists.covered(answers, given)
    print(
        f"{out}: {len(answers):,} answers, right for {inside:,} of {total:,} questions "
        f"({inside / total:.1%})"
    )
    return 0


def _convert_lxmert(known: argparse.Namespace) -> int:
    lxmert = importlib.import_module("mmjax.data.lxmert_tsv")
    try:
        captions = lxmert.read_captions(known.captions) if known.captions else None
        made = lxmert.convert(known.table, known.prefix, known.samples, captions)
    except lxmert.ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    left_out = f", {made.without_caption:,} without a caption left out" if known.captions else ""
    shards = f"{len(made.files)} shard{'s' if len(made.files) > 1 else ''}"
    print(f"{known.prefix}-*.tar: {made.samples:,} pictures in {shards}{left_out}")
    return 0


def _doctor(known: argparse.Namespace) -> int:
    del known
    return importlib.import_module("mmjax.run.doctor").main()
