"""Made-up evaluations."""

from promptfleet.federation.evaluation.scores import Evaluation, Score


def evaluation(client=0, val=0.5, test=0.5, described=None, *, samples=4, **others):
    """An evaluation on ``local``; ``others`` are further accuracies by set, such as ``**{"test/global": 0.25}``."""
    scores = {"val/local": val, "test/local": test, **others}
    return Evaluation(client, {name: Score(value, samples) for name, value in scores.items()}, described or {})
