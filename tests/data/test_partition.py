import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from promptfleet.data.client_split import keep_shots, split_client
from promptfleet.data.dataset import Part
from promptfleet.errors import ConfigError, DataError
from tests.data.partitions import label_counts, made_up_labels, made_up_samples, owned, partition

quick = settings(max_examples=40, deadline=None)
KINDS = ("iid", "dirichlet", "pathological", "disjoint", "quantity")
DOMAIN_KINDS = ("domain", "domain_dirichlet")


# Every scheme


@quick
@given(
    kind=st.sampled_from([*KINDS, *DOMAIN_KINDS]),
    classes=st.integers(1, 9),
    per_class=st.integers(1, 30),
    clients=st.integers(1, 12),
    domains=st.integers(1, 4),
    published=st.sampled_from([None, [0, 0, 0, 2], [0, 0, 0, 1, 2, 2], [0, 0, 1], [0]]),
    shots=st.sampled_from([None, 1, 4]),
    seed=st.integers(0, 2**32),
)
def test_every_sample_is_in_one_client_and_one_part(kind, classes, per_class, clients, domains, published, shots, seed):
    labels = made_up_labels(classes, per_class)
    rng = np.random.default_rng(seed)
    official = None if published is None else rng.permuted(np.resize(published, len(labels)))
    samples = made_up_samples(labels, rng.permuted(np.arange(len(labels)) % domains), official)
    few = {"shots": shots, "min_samples": 3, "alpha": 1.0, "classes_per_client": min(2, classes)}
    try:
        made = partition(samples, clients, seed, kind=kind, **few)
    except (DataError, ConfigError):
        reject()  # too many clients for so few samples, classes or domains: tested below
    assert len(made.clients) == clients
    parts = [part for split in made.clients for part in (split.train, split.val, split.test)]
    assert all(len(part) for part in parts)
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    everything = np.concatenate(parts)
    assert len(np.unique(everything)) == len(everything)
    assert set(everything) <= set(range(len(labels)))
    if official is not None:
        for split in made.clients:
            assert (official[split.train] == Part.TRAIN).all()
            assert (official[split.test] == (Part.TEST if Part.TEST in official else Part.TRAIN)).all()
            assert set(official[split.val]) <= {Part.VAL} or set(official[split.val]) == {Part.TRAIN}
    if shots is not None:
        assert label_counts(made, labels, classes, "train").max() <= shots
    elif kind != "pathological":
        used = np.ones(len(labels), bool) if official is None else official == Part.TRAIN
        assert set(np.flatnonzero(used)) <= set(everything)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_partition_and_another_seed_another(kind):
    labels = made_up_labels(10, 60)
    assert partition(labels, 5, 1, kind=kind).fingerprint() == partition(labels, 5, 1, kind=kind).fingerprint()
    assert owned(partition(labels, 5, 1, kind=kind)) != owned(partition(labels, 5, 2, kind=kind))


@pytest.mark.parametrize(
    ("kind", "fingerprint"),
    [
        ("iid", "453185c637bad25e2893e1478979fda03f79693493fe5ae6d0c35029f4581d16"),
        ("dirichlet", "3642d0bf83e565da11eae21df9b4f8240e9b2d070d97afb0a355bdc26305e836"),
        ("pathological", "bda2c65db3051876fbeee6db0aa30ca6d7a5acdff5f8bc9c45d8cae88398b532"),
    ],
)
def test_a_seeds_partition_stays_what_it_was(kind, fingerprint):
    # From the version before datasets had domains and published parts.
    assert partition(made_up_labels(10, 60), 5, 3, kind=kind).fingerprint() == fingerprint


def test_seed_changes_a_clients_split_too():
    labels = made_up_labels(4, 20)
    assert partition(labels, 1, 1).fingerprint() != partition(labels, 1, 2).fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_fractions_do_not_change_who_owns_what(kind):
    labels = made_up_labels(10, 60)
    some = partition(labels, 5, kind=kind, val_fraction=0.1, test_fraction=0.1)
    more = partition(labels, 5, kind=kind, val_fraction=0.3, test_fraction=0.4)
    assert owned(some) == owned(more)
    assert some.fingerprint() != more.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_more_clients_than_samples_can_feed(kind):
    with pytest.raises(DataError) as caught:
        partition(made_up_labels(5, 4), 7, kind=kind, classes_per_client=1)
    fitting = {"iid": 6, "dirichlet": 1, "pathological": 5, "disjoint": 5, "quantity": 1}[kind]
    assert str(caught.value) == (
        f"clients=7: a client needs 3 samples (train, val, test) but there are only 20; clients={fitting} would do"
    )
    partition(made_up_labels(5, 4), fitting, kind=kind, classes_per_client=1)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from([*KINDS, "domain", "domain_dirichlet"]),
    clients=st.integers(2, 500),
    per_class=st.integers(3, 40),
    alpha=st.sampled_from([0.05, 0.3, 3.0]),
    seed=st.integers(0, 5),
)
def test_what_is_said_to_do_does(kind, clients, per_class, alpha, seed):
    """So that nobody is sent from one error to the next."""
    labels = made_up_labels(6, per_class)
    samples = made_up_samples(labels, np.arange(len(labels)) % 2)
    given = {"kind": kind, "alpha": alpha, "seed": seed}
    try:
        partition(samples, clients, **given)
    except DataError as error:
        advice = str(error).rpartition("; ")[2]
        if advice == "lower clients":
            return
        for entry in advice.removesuffix(" would do").split(" or "):
            key, _, value = entry.partition("=")
            if key == "clients":
                assert int(value) < clients
                partition(samples, int(value), **given)
            else:
                name = key.removeprefix("partition.")
                partition(samples, clients, **{**given, name: float(value) if name == "alpha" else int(value)})
    except ConfigError:
        reject()  # not round, or fewer clients than domains


def test_fractions_that_leave_nothing_to_train_on():
    with pytest.raises(ConfigError) as caught:
        partition(made_up_labels(5, 20), 2, val_fraction=0.5, test_fraction=0.5)
    assert str(caught.value) == (
        "partition.val_fraction=0.5 and partition.test_fraction=0.5 leave nothing to train on; "
        "make their sum less than 1"
    )


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
    counts = label_counts(partition(labels, clients, seed, alpha=alpha, min_samples=8), labels, 10)
    assert counts.sum(axis=1).min() >= 8
    assert counts.sum(axis=0).tolist() == [40] * 10


def test_dirichlet_alpha_sets_the_skew():
    labels = made_up_labels(10, 100)

    def largest_label_share(alpha):
        counts = label_counts(partition(labels, 10, alpha=alpha), labels, 10)
        return (counts.max(axis=1) / counts.sum(axis=1)).mean()

    assert largest_label_share(0.1) > 0.4
    assert largest_label_share(1000) < 0.15  # 0.1 would be perfectly even


def test_dirichlet_impossible_minimum_is_refused_at_once():
    with pytest.raises(DataError) as caught:
        partition(made_up_labels(10, 10), 10, min_samples=12)
    assert str(caught.value) == (
        "partition.min_samples=12: 10 clients need 120 samples but there are only 100; "
        "clients=6 or partition.min_samples=3 would do"
    )


def test_dirichlet_gives_up_and_names_the_settings():
    with pytest.raises(DataError) as caught:
        partition(made_up_labels(2, 60), 10, alpha=0.01, min_samples=12)
    assert str(caught.value) == (
        "partition.alpha=0.01: in 1000 draws some of 10 clients always got fewer than partition.min_samples=12 samples "
        "(at best 0); clients=2 would do"
    )


# Pathological


@quick
@given(classes=st.integers(1, 10), clients=st.integers(1, 12), seed=st.integers(0, 1000), data=st.data())
def test_pathological_deals_exactly_so_many_classes_evenly(classes, clients, seed, data):
    per_client = data.draw(st.integers(1, classes))
    labels = made_up_labels(classes, 40)
    made = partition(labels, clients, seed, kind="pathological", classes_per_client=per_client)
    counts = label_counts(made, labels, classes)
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
    counts = label_counts(partition(labels, 2, kind="pathological", classes_per_client=2), labels, 4)
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
        "partition.classes_per_client=2: class 'class 1' has 2 samples for the 5 clients that share it; "
        "clients=2 would do"
    )


def test_pathological_client_with_too_little():
    labels = np.array([0] * 40 + [1] * 2)
    with pytest.raises(
        DataError, match=r"client \d would get 2 samples, it needs 3 .*; partition.classes_per_client=2 would do$"
    ):
        partition(labels, 2, kind="pathological", classes_per_client=1)


# Disjoint


@pytest.mark.parametrize(
    ("classes", "clients", "dealt"),
    [
        (102, 10, [10] * 9 + [12]),  # Flowers102
        (37, 10, [4] * 9 + [1]),  # OxfordPets
        (101, 10, [10] * 9 + [11]),  # Food101
        (100, 10, [10] * 10),  # Caltech101
        (47, 10, [5] * 9 + [2]),  # DTD
        (10, 3, [3, 3, 4]),
        (3, 1, [3]),
    ],
)
def test_disjoint_deals_the_papers_numbers_of_classes(classes, clients, dealt):
    labels = made_up_labels(classes, 5)
    counts = label_counts(partition(labels, clients, kind="disjoint"), labels, classes)
    assert (counts > 0).sum(axis=1).tolist() == dealt
    assert (counts.max(axis=0) == 5).all(), "a class belongs to one client"


def test_disjoint_order_of_classes_is_the_seeds():
    labels = made_up_labels(10, 5)
    first, second = (label_counts(partition(labels, 2, seed, kind="disjoint"), labels, 10) for seed in (0, 1))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(("classes", "clients", "rounded", "fitting"), [(10, 6, 2, 5), (5, 12, 0, 5), (15, 10, 2, 8)])
def test_disjoint_classes_that_do_not_go_round(classes, clients, rounded, fitting):
    with pytest.raises(ConfigError) as caught:
        partition(made_up_labels(classes, 30), clients, kind="disjoint")
    assert str(caught.value) == (
        f"partition.kind=disjoint: {classes} classes do not go round clients={clients} by "
        f"round({classes} / {clients}) = {rounded}; set clients to {fitting}, or use partition.kind=pathological"
    )
    partition(made_up_labels(classes, 30), fitting, kind="disjoint")


# Quantity


def test_quantity_changes_sizes_and_not_classes():
    labels = made_up_labels(4, 500)
    counts = label_counts(partition(labels, 5, kind="quantity", alpha=0.5), labels, 4)
    sizes = counts.sum(axis=1)
    assert sizes.sum() == 2000
    assert sizes.max() > 4 * sizes.min() >= 48
    large = counts[sizes > 300]
    assert np.abs(large / large.sum(axis=1, keepdims=True) - 0.25).max() < 0.08


# Domains


@quick
@given(domains=st.integers(1, 5), each=st.integers(1, 4), extra=st.integers(0, 4), seed=st.integers(0, 1000))
def test_a_client_has_one_domain_and_all_domains_have_as_many_clients(domains, each, extra, seed):
    clients = domains * each + min(extra, domains - 1)
    rng = np.random.default_rng(seed)
    samples = made_up_samples(made_up_labels(4, 100), rng.permuted(np.arange(400) % domains))
    for kind in DOMAIN_KINDS:
        made = partition(samples, clients, seed, kind=kind, alpha=1.0, min_samples=3)
        has = [np.unique(samples.domains[split.samples()]) for split in made.clients]
        assert [len(found) for found in has] == [1] * clients
        assert np.concatenate(has).tolist() == sorted(np.concatenate(has)), "neighbours share a domain"
        sharing = np.bincount(np.concatenate(has))
        assert len(sharing) == domains
        assert sharing.max() - sharing.min() <= (clients % domains > 0)
        assert sum(map(len, owned(made))) == 400


def test_domain_shift_keeps_the_classes_even_and_domain_dirichlet_does_not():
    samples = made_up_samples(made_up_labels(5, 200), np.arange(1000) // 500)

    def largest_share(kind):
        counts = label_counts(partition(samples, 4, kind=kind, alpha=0.1), samples.labels, 5)
        return (counts.max(axis=1) / counts.sum(axis=1)).min()

    assert largest_share("domain") < 0.3  # 0.2 would be perfectly even
    assert largest_share("domain_dirichlet") > 0.35


@pytest.mark.parametrize("kind", DOMAIN_KINDS)
def test_a_domain_without_training_samples_is_named(kind):
    domains = np.repeat([0, 1], 50)
    official = np.where((domains == 0) & (np.arange(100) % 5 > 0), Part.TRAIN, Part.TEST).astype(np.int64)
    with pytest.raises(DataError) as caught:
        partition(made_up_samples(made_up_labels(5, 20), domains, official), 2, kind=kind)
    assert str(caught.value).startswith(f"partition.kind={kind}: domain 'domain 1' has no sample to train on, and each")


def test_domain_schemes_need_domains_and_enough_clients():
    labels = made_up_labels(4, 100)
    with pytest.raises(ConfigError) as caught:
        partition(labels, 4, kind="domain")
    assert str(caught.value) == (
        "partition.kind=domain: the dataset has no domains; use partition.kind=dirichlet, or a dataset with domains"
    )
    with pytest.raises(ConfigError) as caught:
        partition(made_up_samples(labels, np.arange(400) % 5), 4, kind="domain_dirichlet")
    assert str(caught.value) == (
        "partition.kind=domain_dirichlet: clients=4 cannot have all 5 domains, one each; set clients to 5 or more"
    )


def test_a_domain_too_small_for_its_clients_is_named():
    samples = made_up_samples(made_up_labels(4, 100), (np.arange(400) < 20).astype(int))
    with pytest.raises(DataError) as caught:
        partition(samples, 6, kind="domain_dirichlet")
    assert str(caught.value) == (
        "domain 'domain 1': partition.min_samples=12: 3 clients need 36 samples but there are only 20; "
        "clients=3 or partition.min_samples=6 would do"
    )


def test_every_part_has_the_clients_mix_of_domains():
    samples = made_up_samples(made_up_labels(2, 200), np.repeat([0, 1, 1, 1], 100))
    (split,) = partition(samples, 1, kind="iid", val_fraction=0.2, test_fraction=0.2).clients
    for part, size in ((split.train, 240), (split.val, 80), (split.test, 80)):
        assert len(part) == size
        assert np.bincount(samples.groups[part]) == pytest.approx([size / 8, size * 3 / 8] * 2, abs=2)


# A published split


@quick
@given(
    kind=st.sampled_from([*KINDS, *DOMAIN_KINDS]),
    clients=st.sampled_from([3, 4, 5]),
    alpha=st.floats(0.2, 10),
    has_val=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_published_parts_go_to_clients_in_equal_proportions(kind, clients, alpha, has_val, seed):
    rng = np.random.default_rng(seed)
    domains = rng.integers(0, 3, 900)
    published = [Part.TRAIN] * 3 + [Part.VAL if has_val else Part.TRAIN, Part.TEST]
    samples = made_up_samples(rng.integers(0, 5, 900), domains, np.resize(np.array(published, dtype=np.int64), 900))
    made = partition(samples, clients, seed, kind=kind, alpha=alpha)
    groups, size = samples.groups, 15
    dealt = [Part.TRAIN] if has_val else [Part.TRAIN, Part.VAL]
    train = np.stack(
        [
            np.bincount(groups[np.concatenate([split.train] if has_val else [split.train, split.val])], minlength=size)
            for split in made.clients
        ]
    )
    for part, name in ((Part.TEST, "test"), (Part.VAL, "val")):
        if part in dealt:
            continue
        counts = np.stack([np.bincount(groups[getattr(split, name)], minlength=size) for split in made.clients])
        pool = np.bincount(groups[samples.official == part], minlength=size)
        exact = pool * train / np.maximum(train.sum(axis=0), 1)
        assert np.abs(counts - exact).max() < 1
        assert counts.sum(axis=0).tolist() == np.where(train.sum(axis=0) > 0, pool, 0).tolist()


def test_sizes_of_shares_add_up_over_many_small_groups():
    # 60 classes of 10 for training and 2 to test on: exact shares of a class are below 1, of all classes they are not.
    official = np.tile(np.repeat([Part.TRAIN, Part.TEST], [10, 2]), 60).astype(np.int64)
    samples = made_up_samples(np.repeat(np.arange(60), 12), official=official)
    made = partition(samples, 6, kind="iid")
    sizes = [len(split.test) for split in made.clients]
    assert sum(sizes) == 120
    assert max(sizes) - min(sizes) <= 4


def test_a_client_without_published_validation_samples_cuts_its_own():
    official = np.resize(np.array([Part.TRAIN, Part.TRAIN, Part.TEST], dtype=np.int64), 120)
    labels = np.repeat([0, 1], 60)
    official[:12] = Part.VAL  # of class 0 only
    made = partition(made_up_samples(labels, official=official), 2, kind="disjoint", val_fraction=0.2)
    parts = {labels[split.train[0]]: split for split in made.clients}
    assert parts[0].val.tolist() == list(range(12))
    assert (official[parts[1].val] == Part.TRAIN).all()
    assert len(parts[1].val) == round(0.2 * 40)


def test_a_client_without_test_samples_is_named():
    labels = np.repeat([0, 1], 60)
    official = np.where((labels == 0) & (np.arange(120) % 2 == 0), Part.TEST, Part.TRAIN).astype(np.int64)
    with pytest.raises(DataError) as caught:
        partition(made_up_samples(labels, official=official), 2, kind="disjoint")
    assert str(caught.value).startswith(
        "partition.kind=disjoint: in 100 draws some client got none of the dataset's 30 test samples (in the last one "
    )
    assert "with 60 to train on); clients=1 would do" in str(caught.value)


def test_too_few_training_samples_for_a_published_split():
    official = np.repeat([Part.TRAIN, Part.TEST], [10, 90]).astype(np.int64)
    with pytest.raises(DataError) as caught:
        partition(made_up_samples(made_up_labels(5, 20), official=official), 6, kind="iid")
    assert str(caught.value) == (
        "clients=6: a client needs 2 samples (train, val) but there are only 10 in the dataset's training part; "
        "clients=5 would do"
    )


def test_a_published_split_without_a_training_part():
    only_test = made_up_samples(made_up_labels(5, 4), official=np.full(20, int(Part.TEST)))
    with pytest.raises(DataError) as caught:
        partition(only_test, 2, kind="iid")
    assert str(caught.value) == (
        "a client needs 2 samples (train, val) but the dataset's training part has 0; its published split has 0 in "
        "train, 0 in val, 20 in test"
    )


# Few shots


def test_shots_are_per_class_and_classes_with_fewer_keep_what_they_have():
    labels = np.array([0] * 40 + [1] * 10)
    (all_shots,) = partition(labels, 1, kind="iid").clients
    (made,) = partition(labels, 1, kind="iid", shots=8).clients
    assert np.bincount(labels[all_shots.train]).tolist() == [24, 6]  # 60 %
    assert np.bincount(labels[made.train]).tolist() == [8, 6]
    assert made.val.tolist() == all_shots.val.tolist()
    assert made.test.tolist() == all_shots.test.tolist()


@quick
@given(labels=st.lists(st.integers(0, 4), min_size=3, max_size=60).map(np.array), seed=st.integers(0, 2**32))
def test_fewer_shots_are_among_more(labels, seed):
    split = split_client(
        np.arange(len(labels)), labels, val_fraction=0.1, test_fraction=0.1, rng=np.random.default_rng(seed)
    )
    kept = [keep_shots(split, labels, shots, np.random.default_rng(seed)).train for shots in (1, 2, 4, 100)]
    assert set(kept[0]) <= set(kept[1]) <= set(kept[2]) <= set(kept[3])
    assert kept[3].tolist() == split.train.tolist()
    for train, shots in zip(kept, (1, 2, 4, 100), strict=True):
        available = np.bincount(labels[split.train])
        assert np.bincount(labels[train]).tolist() == np.minimum(available, shots).tolist()


# Public samples


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25])
def test_the_server_has_its_fraction_of_each_class_and_no_client_has_it(fraction):
    labels = made_up_labels(4, 40)
    official = np.random.default_rng(0).permuted(
        np.resize([Part.TRAIN, Part.TRAIN, Part.TRAIN, Part.TEST], len(labels))
    )
    for published in (None, official):
        samples = made_up_samples(labels, None, published)
        made = partition(samples, 3, kind="iid", public_fraction=fraction)
        trained_on = np.arange(len(labels)) if published is None else np.flatnonzero(published == Part.TRAIN)
        assert len(made.public) == max(1, round(fraction * len(trained_on)))
        assert set(made.public) <= set(trained_on)
        counts, of_all = (np.bincount(labels[taken], minlength=4) for taken in (made.public, trained_on))
        assert np.abs(counts - fraction * of_all).max() < 1
        everything = np.concatenate([made.public, *(split.samples() for split in made.clients)])
        assert len(np.unique(everything)) == len(everything) == len(labels)
        assert not np.array_equal(made.public, partition(samples, 3, 1, kind="iid", public_fraction=fraction).public)


def test_without_public_samples_a_partition_is_as_it_was():
    samples = made_up_samples(made_up_labels(3, 10))
    made = partition(samples, 2, kind="iid")
    assert len(made.public) == 0
    assert "public" not in made.to_json()
    assert partition(samples, 2, kind="iid", public_fraction=0.2).fingerprint() != made.fingerprint()
