"""Makes text_metrics.json: what sacrebleu 2.6.0 and rouge_score 0.1.2 give for some texts.

    pip install sacrebleu==2.6.0 rouge_score==0.1.2
    python make_text_metrics.py
"""

import json
import random
from pathlib import Path

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

ENGLISH = (
    "the a lightweight image viewer for X11 & Wayland; displays pictures (PNG, JPEG) quickly, costs $3.50 or 1,000.5 "
    "units - state-of-the-art \"quoted\" it's don't running runs ran happily skies dying generalizations national "
    "relational conflated hopping falling agreed plastered sensibility feed controlling rate cease 2.0 v3.1-rc1 [x] a_b"
).split()
ODD = [
    "网页浏览器，支持标签。", "軽量画像ビューア（高速）", "مرحبا بالعالم، كيف الحال؟", "שלום עולם", "😀👨‍👩‍👧 ok 🇮🇹!", "e\u0301a\u0308 café naïve ﬁn",
    "Ⅷ ½ × ÷ € £5.00 №7", "tab\tand\u00a0nbsp\u2003em\u3000wide", "x\u2028line\u001cfs\u0085nel", "İstanbul ǅ ß", "२०२६ के लिए", "&quot;a&quot; &amp;lt; <skipped> b-\nc",
    "...", "-", "'", "a.b,c 1.2,3 .5 5. ,x", "", " ", "한국어 문장입니다.", "‘smart’ “quotes” — dash… ～全角！", "\u2001\u2a6dⅠ⌘",
]


def texts(seed, count):
    rng = random.Random(seed)
    hypotheses, references = [], []
    for _ in range(count):
        reference = [rng.choice(ENGLISH + (ODD if rng.random() < 0.3 else [])) for _ in range(rng.randint(1, 14))]
        hypothesis = [word for word in reference if rng.random() < 0.85]
        for _ in range(rng.randint(0, 3)):
            hypothesis.insert(rng.randint(0, len(hypothesis)), rng.choice(ENGLISH + ODD))
        hypotheses.append(" ".join(hypothesis))
        references.append(" ".join(reference))
    return hypotheses, references


def case(name, hypotheses, references):
    scores = {}
    for tokenizer in ["13a", "intl", "zh", "char"]:
        scores[f"bleu.{tokenizer}"] = BLEU(tokenize=tokenizer).corpus_score(hypotheses, [references]).score
    scores["chrf"] = CHRF().corpus_score(hypotheses, [references]).score
    scores["chrf++"] = CHRF(word_order=2).corpus_score(hypotheses, [references]).score
    for stemming in [False, True]:
        scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemming)
        each = [scorer.score(reference, hypothesis) for hypothesis, reference in zip(hypotheses, references)]
        for kind in ["rouge1", "rouge2", "rougeL"]:
            key = f"{kind}.{'porter' if stemming else 'no'}"
            scores[key] = 100 * sum(one[kind].fmeasure for one in each) / len(each)
    return {"name": name, "hypotheses": hypotheses, "references": references, "scores": scores}


def words():
    rng = random.Random(7)
    ends = "s es ies ied ed ing eed at bl iz ational tional enci anci izer bli alli entli eli ousli ization ation ator alism "
    ends += "iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able "
    ends += "ible ant ement ment ent sion tion ou ism ate iti ous ive ize e ll y ying ary"
    made = set("sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed x11 3d".split())
    for end in ends.split():
        for _ in range(12):
            made.add("".join(rng.choice("bcdlmnrstwyaeiou") for _ in range(rng.randint(1, 6))) + end)
    stem = PorterStemmer().stem
    return {word: stem(word) for word in sorted(made)}


cases = [case("mixed", *texts(1, 60)), case("other", *texts(2, 40))]
cases += [case(f"one {at}", [hypothesis], [reference]) for at, (hypothesis, reference) in enumerate(zip(*texts(3, 12)))]
cases += [case("odd, equal", ODD, ODD), case("odd, turned", ODD, ODD[::-1]), case("nothing", [""], ["some words here"])]
answer = {"cases": cases, "stems": words()}
Path(__file__).with_name("text_metrics.json").write_text(json.dumps(answer, ensure_ascii=True, indent=0) + "\n")
