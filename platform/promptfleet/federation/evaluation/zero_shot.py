"""Reference of every evaluation set: untrained CLIP on the same samples, among the same classes."""

from collections.abc import Mapping

import numpy as np

from promptfleet.clip.frozen import FrozenClip
from promptfleet.config import FederationConfig
from promptfleet.data.feature_store import FeatureStore, rows_of
from promptfleet.data.partition import Partition
from promptfleet.federation.evaluation.scores import (
    BASE,
    GLOBAL,
    LOCAL,
    NEW,
    TEST,
    UNSEEN_CLIENTS,
    UNSEEN_DOMAIN,
    Evaluation,
    Score,
    SetAccuracy,
    set_accuracies,
    set_name,
    transfer_to,
)
from promptfleet.federation.evaluation.shared_sets import SharedParts
from promptfleet.federation.other_datasets import OtherDataset
from promptfleet.federation.worlds import base_and_new

BLOCK = 8192  # images whose logits are computed at once


def zero_shot_right(config: FederationConfig, clip: FrozenClip, store: FeatureStore) -> np.ndarray:
    """Return True per sample if CLIP's own zero-shot prediction is right: bool ``[samples]``.

    Samples of base classes are predicted among these, and samples of new classes among the new ones.
    """
    text, right = clip.zero_shot_text.numpy(), np.empty(len(store.labels), dtype=bool)
    for start in range(0, len(right), BLOCK):
        block = slice(start, start + BLOCK)
        labels, logits = store.labels[block], rows_of(store.features, block) @ text.T
        for classes in base_and_new(config, len(text)):
            among = (labels >= classes.start) & (labels < classes.stop)
            found = logits[among, classes.start : classes.stop].argmax(axis=1) + classes.start
            right[block][among] = found == labels[among]
    return right


def zero_shot_transfer(config: FederationConfig, others: Mapping[str, OtherDataset]) -> dict[str, Score]:
    """Return CLIP's own zero-shot accuracy on the test part of each dataset of ``evaluation.transfer``, by set."""
    scores = {}
    for name in config.evaluation.transfer:
        text, (store, indices) = others[name].zero_shot_text.numpy(), others[name].test_part()
        blocks = [indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK)]
        right = [(store.rows(block) @ text.T).argmax(axis=1) == store.labels[block] for block in blocks]
        scores[set_name(TEST, transfer_to(name))] = _score(np.concatenate(right))
    return scores


def zero_shot_accuracies(
    right: np.ndarray, partition: Partition, transfer: Mapping[str, Score]
) -> dict[str, SetAccuracy]:
    """Return accuracies by evaluation set, from whether each sample is predicted right: bool ``[samples]``.

    ``transfer`` are the scores on other datasets, see ``zero_shot_transfer``.
    """
    everybody = SharedParts.of(partition)
    shared = {GLOBAL: everybody.test}
    if len(partition.new):
        shared |= {BASE: everybody.test, NEW: partition.new}
    if len(everybody.unseen_domain):
        shared |= {UNSEEN_DOMAIN: everybody.unseen_domain}
    scores = {**{set_name(TEST, name): _score(right[indices]) for name, indices in shared.items()}, **transfer}
    evaluations = []
    for client, split in enumerate(partition.clients):
        own = _score(right[split.test])
        is_unseen = client in partition.held_out
        sets = {set_name(TEST, UNSEEN_CLIENTS): own} if is_unseen else {set_name(TEST, LOCAL): own, **scores}
        evaluations.append(Evaluation(client, sets))
    return set_accuracies(evaluations)


def _score(right: np.ndarray) -> Score:
    return Score(float(right.mean()), len(right))
