"""Writes vqa_answers.json: texts and answers, and what the official VQA evaluation makes of them.

Run by hand with the official file (GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation, its
evaluation of one question as a method `one(answer, answers)`) in the folder given:
python tests/golden/make_vqa_answers.py FOLDER
"""

import json
import pathlib
import random
import sys
import warnings

AWKWARD = """
yes no 2 two Two none the a An The red, blue/green left-hand 1,000 3.5 end. U.S. o'clock dont
couldnt've yall'd've whats it's dog's "hi" (3) [x] a_b c@d e=f !? what? 50% $5 10:30 Im let's
somebody'd ow's'at ... .5 a;b -1 x- -x naïve 猫 ten zero
"""
WORDS = AWKWARD.split()


def main(folder: str) -> None:
    """Random texts of awkward words, and random sets of ten answers."""
    sys.path.insert(0, folder)
    warnings.simplefilter("ignore")
    from vqa_official import VQAEval

    official, draw = VQAEval(), random.Random(0)
    texts = [*WORDS, *official.contractions, "", " ", "a\nb\tc", "x" + "." * 40]
    texts += [" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for _ in range(150)]
    normalized = [
        [text, official.processDigitArticle(official.processPunctuation(text))] for text in texts
    ]
    scored = []
    for _ in range(150):
        some = draw.sample(WORDS, draw.choice((1, 2, 3, 5)))
        answers = [draw.choice(some) for _ in range(10)]
        answer = draw.choice([*some, draw.choice(WORDS)])
        scored.append([answer, answers, official.one(answer, answers)])
    made = {"normalized": normalized, "scored": scored}
    path = pathlib.Path(__file__).with_name("vqa_answers.json")
    path.write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
