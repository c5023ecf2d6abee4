import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from promptfleet.config import PartitionConfig
from promptfleet.data.client_split import split_client
from promptfleet.data.partition import Partition, make_partition
from promptfleet.errors import ConfigError, DataError

quick = settings(max_examples=60, deadline=None)
KINDS = ("iid", "dirichlet", "pathological")


def made_up_labels(classes: int, per_class: int) -> np.ndarray:
    return np.tile(np.arange(classes), per_class)


def partition(labels, clients, seed=0, **config) -> Partition:
    return make_partition(
        labels, classes=int(labels.max()) + 1, clients=clients, settings=PartitionConfig(**config), seed=seed
    )


def owned(made: Partition) -> list[list[int]]:
    return [split.samples().tolist() for split in made.clients]


# Every scheme


@quick
@given(
    kind=st.sampled_from(KINDS),
    classes=st.integers(1, 9),
    per_class=st.integers(1, 30),
    clients=st.integers(1, 12),
    val_fraction=st.floats(0.01, 0.6),
    test_fraction=st.floats(0.01, 0.39),
    seed=st.integers(0, 2**32),
)
def test_every_sample_is_in_one_client_and_one_part(
    kind, classes, per_class, clients, val_fraction, test_fraction, seed
):
    labels = made_up_labels(classes, per_class)
    try:
        made = partition(
            labels,
            clients,
            seed,
            kind=kind,
            alpha=1.0,
            min_samples=3,
            classes_per_client=min(2, classes),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
        )
    except DataError:
        reject()  # too many clients for so few samples: tested below
    assert len(made.clients) == clients
    parts = [part for split in made.clients for part in (split.train, split.val, split.test)]
    assert all(len(part) for part in parts)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    everything = np.concatenate(parts)
    assert len(np.unique(everything)) == len(everything)
    assert set(everything) <= set(range(len(labels)))
    if kind != "pathological":
        assert len(everything) == len(labels)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_partition_and_another_seed_another(kind):
    labels = made_up_labels(10, 60)
    assert partition(labels, 6, 1, kind=kind).fingerprint() == partition(labels, 6, 1, kind=kind).fingerprint()
    assert owned(partition(labels, 6, 1, kind=kind)) != owned(partition(labels, 6, 2, kind=kind))


def test_seed_changes_a_clients_split_too():
    labels = made_up_labels(4, 20)
    assert partition(labels, 1, 1).fingerprint() != partition(labels, 1, 2).fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_fractions_do_not_change_who_owns_what(kind):
    labels = made_up_labels(10, 60)
    some = partition(labels, 6, kind=kind, val_fraction=0.1, test_fraction=0.1)
    more = partition(labels, 6, kind=kind, val_fraction=0.3, test_fraction=0.4)
    assert owned(some) == owned(more)
    assert some.fingerprint() != more.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_more_clients_than_samples_can_feed(kind):
    with pytest.raises(DataError) as caught:
        partition(made_up_labels(5, 4), 7, kind=kind, classes_per_client=1)
    assert str(caught.value) == (
        "clients=7: a client needs 3 samples (train, val, test) but there are only 20; set clients to 6 or less"
    )


def test_fractions_that_leave_nothing_to_train_on():
    with pytest.raises(ConfigError) as caught:
        partition(made_up_labels(5, 20), 2, val_fraction=0.5, test_fraction=0.5)
    assert str(caught.value) == (
        "partition.val_fraction=0.5 and partition.test_fraction=0.5 leave nothing to train on; "
        "make their sum less than 1"
    )


def test_label_counts():
    labels = np.array([0, 0, 1, 2, 2, 2])
    made = Partition.from_json(
        '{"clients": [{"train": [0], "val": [1], "test": [2]}, {"train": [3], "val": [4], "test": [5]}]}'
    )
    assert made.label_counts(labels, 4).tolist() == [[2, 1, 0, 0], [0, 0, 3, 0]]


def test_json_round_trip():
    made = partition(made_up_labels(4, 20), 3)
    back = Partition.from_json(made.to_json())
    assert back.fingerprint() == made.fingerprint()
    assert back.clients[1].train.dtype == np.int64
    np.testing.assert_array_equal(back.clients[1].train, made.clients[1].train)


@pytest.mark.parametrize("text", ["", "5", "{}", '{"clients": [[]]}', '{"clients": [{"train": [0]}]}'])
def test_json_of_something_else(text):
    with pytest.raises(DataError, match="not a partition written by to_json"):
        Partition.from_json(text)


# One client's split


def test_split_has_the_same_label_distribution_in_every_part():
    labels = np.array([0] * 8 + [1] * 4)
    split = split_client(np.arange(12), labels, val_fraction=0.25, test_fraction=0.25, rng=np.random.default_rng(0))
    counts = {name: np.bincount(labels[part]).tolist() for name, part in vars(split).items()}
    assert counts == {"train": [4, 2], "val": [2, 1], "test": [2, 1]}  # 12 samples halved, and halved again


@quick
@given(
    labels=st.lists(st.integers(0, 5), min_size=3, max_size=80).map(np.array),
    val_fraction=st.floats(0.05, 0.45),
    test_fraction=st.floats(0.05, 0.45),
    seed=st.integers(0, 2**32),
)
def test_split_sizes_and_label_counts_follow_the_fractions(labels, val_fraction, test_fraction, seed):
    samples = np.arange(len(labels))
    rng = np.random.default_rng(seed)
    split = split_client(samples, labels, val_fraction=val_fraction, test_fraction=test_fraction, rng=rng)
    assert abs(len(split.val) - val_fraction * len(labels)) <= 1
    assert abs(len(split.test) - test_fraction * len(labels)) <= 1
    for label in range(6):
        of_label = samples[labels == label]
        for part, slack in ((split.train, 1), (split.val, 2), (split.test, 2)):
            exact = len(of_label) * len(part) / len(labels)
            assert abs(np.isin(of_label, part).sum() - exact) < slack


def test_three_samples_are_one_each():
    split = split_client(
        np.array([5, 6, 9]), np.zeros(10, int), val_fraction=0.5, test_fraction=0.45, rng=np.random.default_rng(0)
    )
    assert [len(split.train), len(split.val), len(split.test)] == [1, 1, 1]


# IID


@quick
@given(samples=st.integers(12, 200), clients=st.integers(1, 4))
def test_iid_sizes_differ_by_at_most_one(samples, clients):
    sizes = [len(indices) for indices in owned(partition(np.arange(samples) % 3, clients, kind="iid"))]
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1


# Dirichlet


@quick
@given(clients=st.integers(1, 8), alpha=st.floats(0.3, 1e6), seed=st.integers(0, 1000))
def test_dirichlet_gives_everyone_the_minimum(clients, alpha, seed):
    labels = made_up_labels(10, 40)
    counts = partition(labels, clients, seed, alpha=alpha, min_samples=8).label_counts(labels, 10)
    assert counts.sum(axis=1).min() >= 8
    assert counts.sum(axis=0).tolist() == [40] * 10


def test_dirichlet_alpha_sets_the_skew():
    labels = made_up_labels(10, 100)

    def largest_label_share(alpha):
        counts = partition(labels, 10, alpha=alpha).label_counts(labels, 10)
        return (counts.max(axis=1) / counts.sum(axis=1)).mean()

    assert largest_label_share(0.1) > 0.4
    assert largest_label_share(1000) < 0.15  # 0.1 would be perfectly even


def test_dirichlet_impossible_minimum_is_refused_at_once():
    with pytest.raises(DataError) as caught:
        partition(made_up_labels(10, 10), 10, min_samples=12)
    assert str(caught.value) == (
        "partition.min_samples=12: clients=10 need 120 samples but there are only 100; "
        "lower clients or partition.min_samples"
    )


def test_dirichlet_gives_up_and_names_the_settings():
    with pytest.raises(DataError) as caught:
        partition(made_up_labels(2, 60), 10, alpha=0.01, min_samples=12)
    assert str(caught.value) == (
        "partition.alpha=0.01: in 1000 draws some of clients=10 always got fewer than partition.min_samples=12 samples "
        "(at best 0); raise partition.alpha, or lower clients or partition.min_samples"
    )


# Pathological


@quick
@given(classes=st.integers(1, 10), clients=st.integers(1, 12), seed=st.integers(0, 1000), data=st.data())
def test_pathological_deals_exactly_so_many_classes_evenly(classes, clients, seed, data):
    per_client = data.draw(st.integers(1, classes))
    labels = made_up_labels(classes, 40)
    made = partition(labels, clients, seed, kind="pathological", classes_per_client=per_client)
    counts = made.label_counts(labels, classes)
    assert ((counts > 0).sum(axis=1) == per_client).all()

    sharing = (counts > 0).sum(axis=0)
    assert sharing.max() - sharing.min() <= 1
    assert clients * per_client < classes or sharing.min() >= 1
    for label in np.flatnonzero(sharing):
        shares = counts[counts[:, label] > 0, label]
        assert shares.sum() == 40
        assert shares.max() - shares.min() <= 1


def test_pathological_two_clients_share_out_four_classes():
    labels = made_up_labels(4, 5)
    counts = partition(labels, 2, kind="pathological", classes_per_client=2).label_counts(labels, 4)
    assert sorted(counts.sum(axis=1)) == [10, 10]
    assert counts.sum(axis=0).tolist() == [5, 5, 5, 5]
    assert set(counts.ravel()) == {0, 5}  # no class is seen twice


def test_pathological_more_classes_than_there_are():
    with pytest.raises(ConfigError) as caught:
        partition(made_up_labels(10, 20), 4, kind="pathological", classes_per_client=12)
    assert str(caught.value) == ("partition.classes_per_client=12: the dataset has 10 classes; set it to 10 or less")


def test_pathological_class_too_small_to_share():
    labels = np.array([0] * 40 + [1] * 2)
    with pytest.raises(DataError) as caught:
        partition(labels, 5, kind="pathological", classes_per_client=2)
    assert str(caught.value) == (
        "partition.kind=pathological: class 1 has 2 samples for the 5 clients that share it; "
        "lower clients or partition.classes_per_client"
    )


def test_pathological_client_with_too_little():
    labels = np.array([0] * 40 + [1] * 2)
    with pytest.raises(
        DataError, match=r"client \d would get 2 samples, it needs 3 \(train, val, test\); lower clients"
    ):
        partition(labels, 2, kind="pathological", classes_per_client=1)
