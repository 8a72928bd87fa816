"""Scores of scikit-learn for tests/it/metrics.rs.

Run with: pip install scikit-learn==1.9.1 && python make_metrics.py > metrics.json
"""

import json
import random

import sklearn
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

random.seed(7)


def case(name, classes, truth, predicted):
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=list(range(classes)), zero_division=0
    )
    return {
        "name": name,
        "classes": classes,
        "truth": truth,
        "predicted": predicted,
        "accuracy": accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro", zero_division=0),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": [int(count) for count in support],
        "confusion": confusion_matrix(truth, predicted, labels=list(range(classes))).tolist(),
    }


def noisy(rows, classes, right, weights=None):
    truth = random.choices(range(classes), weights, k=rows)
    predicted = [t if random.random() < right else random.randrange(classes) for t in truth]
    return truth, predicted


cases = [
    case("two balanced classes", 2, *noisy(200, 2, 0.7)),
    case("eight skewed classes", 8, *noisy(500, 8, 0.6, [50, 20, 10, 8, 5, 4, 2, 1])),
    case("a class that is never predicted", 3, [0, 0, 1, 2, 2, 0], [0, 0, 1, 0, 1, 0]),
    case("a class that is only predicted", 3, [0, 0, 1, 1], [0, 2, 1, 1]),
    case("a class that does not occur", 4, [0, 0, 1, 3], [0, 1, 1, 3]),
    case("all wrong", 2, [0, 0, 1], [1, 1, 0]),
    case("all right", 3, [0, 1, 2, 2], [0, 1, 2, 2]),
    case("one row", 2, [1], [1]),
]
lines = ",\n".join(json.dumps(case) for case in cases)
print(f'{{"made_with": "scikit-learn {sklearn.__version__}", "cases": [\n{lines}\n]}}')
