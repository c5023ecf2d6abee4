"""Samples that no client has: those of new classes."""

import numpy as np
import pytest

from promptfleet.config import PartitionConfig
from promptfleet.data.dataset import Part
from promptfleet.data.partition_file import check_seen
from promptfleet.data.unseen import base_classes, new_samples
from promptfleet.errors import ConfigError, DataError
from tests.data.partitions import made_up_labels, made_up_samples, partition


@pytest.mark.parametrize(
    ("classes", "fraction", "base"),
    [(10, 0.5, 5), (47, 0.5, 24), (10, 0.7, 3), (10, 0.3, 7), (101, 0.1, 91), (4, 0.5, 2), (10, 0.0, 10)],
)
def test_the_first_classes_are_base_and_of_an_odd_number_the_larger_half(classes, fraction, base):
    assert base_classes(PartitionConfig(new_classes=fraction), classes) == base


@pytest.mark.parametrize(
    ("classes", "fraction", "message"),
    [
        (3, 0.5, "partition.new_classes=0.5: of 3 classes that makes 2 base and 1 new ones, each should be at least "),
        (10, 0.95, "partition.new_classes=0.95: of 10 classes that makes 1 base and 9 new ones, .* two; use 0.5"),
        (10, 0.1, "that makes 9 base and 1 new ones, each should be at least two; use 0.5"),
        (2, 0.1, "that makes 2 base and 0 new ones, .*; take a dataset with four classes or more"),
    ],
)
def test_each_side_has_two_classes(classes, fraction, message):
    with pytest.raises(ConfigError, match=message):
        partition(made_up_labels(classes, 20), 2, new_classes=fraction)


@pytest.mark.parametrize("kind", ["dirichlet", "pathological", "disjoint", "iid", "quantity"])
def test_clients_and_the_server_have_base_classes_alone_whatever_the_scheme(kind):
    labels = np.random.default_rng(0).permutation(made_up_labels(7, 60))
    made = partition(labels, 3, kind=kind, new_classes=0.5, public_fraction=0.1)
    owned = np.concatenate([made.public, *(split.samples() for split in made.clients)])
    assert set(labels[owned]) == {0, 1, 2, 3}
    assert len(set(owned)) == len(owned) == 4 * 60
    assert set(labels[made.new]) == {4, 5, 6}
    assert len(made.new) == 3 * 60


def test_the_base_classes_are_divided_as_if_they_were_the_dataset():
    labels = made_up_labels(6, 40)
    base = np.flatnonzero(labels < 3)
    some, alone = partition(labels, 3, new_classes=0.5), partition(labels[base], 3)
    for one, other in zip(some.clients, alone.clients, strict=True):
        for name in ("train", "val", "test"):
            assert getattr(one, name).tolist() == base[getattr(other, name)].tolist()


def test_of_a_published_split_only_test_samples_are_new():
    labels = made_up_labels(4, 60)
    official = np.repeat([Part.TRAIN, Part.TEST], 120)
    samples = made_up_samples(labels, official=official)
    made = partition(samples, 2, new_classes=0.5)
    assert made.new.tolist() == np.flatnonzero((labels >= 2) & (official == Part.TEST)).tolist()
    without = made_up_samples(labels, official=np.where(labels >= 2, Part.TRAIN, official))
    with pytest.raises(DataError, match="the dataset's test part has no sample of a new class"):
        new_samples(without, PartitionConfig(new_classes=0.5))


def test_a_file_with_samples_of_new_classes_is_refused():
    samples = made_up_samples(made_up_labels(4, 30))
    settings = PartitionConfig(new_classes=0.5)
    check_seen(partition(samples, 2, new_classes=0.5), settings, samples)
    with pytest.raises(DataError, match=r"client 0 has sample \d+ of the new class 'class [23]'; make the file with "):
        check_seen(partition(samples, 2, kind="iid"), settings, samples)


def with_domains(classes=4, domains=3, per_class=90):
    labels = made_up_labels(classes, per_class)
    return made_up_samples(labels, domains=np.arange(len(labels)) // classes % domains)


@pytest.mark.parametrize("kind", ["dirichlet", "domain", "domain_dirichlet", "iid"])
def test_no_client_has_the_held_out_domain_whatever_the_scheme(kind):
    samples = with_domains()
    made = partition(samples, 3, kind=kind, held_out_domain="domain 1", public_fraction=0.1)
    owned = np.concatenate([made.public, *(split.samples() for split in made.clients)])
    assert set(samples.domains[owned]) == {0, 2}
    assert made.unseen_domain.tolist() == np.flatnonzero(samples.domains == 1).tolist()
    if kind == "domain":
        assert [set(samples.domains[split.samples()]) for split in made.clients] == [{0}, {0}, {2}]


def test_a_held_out_domain_and_new_classes_leave_each_other_alone():
    samples = with_domains()
    made = partition(samples, 2, held_out_domain="domain 0", new_classes=0.5)
    assert set(samples.labels[made.unseen_domain]) == {0, 1}
    assert set(samples.domains[made.new]) == {1, 2}
    assert set(samples.labels[made.new]) == {2, 3}


@pytest.mark.parametrize(
    ("samples", "name", "message"),
    [
        (made_up_samples(made_up_labels(4, 30)), "a", "held_out_domain=a: the dataset has no domains; leave it out"),
        (with_domains(), "domian 2", "partition.held_out_domain: unknown domain 'domian 2'; did you mean 'domain 2'?"),
        (with_domains(domains=1), "domain 0", "partition.held_out_domain=domain 0: it is the dataset's only domain"),
    ],
)
def test_a_domain_that_cannot_be_held_out_is_refused(samples, name, message):
    with pytest.raises(ConfigError) as error:
        partition(samples, 2, held_out_domain=name)
    assert message in str(error.value)


def test_a_file_with_samples_of_the_held_out_domain_is_refused():
    samples, settings = with_domains(), PartitionConfig(held_out_domain="domain 1")
    check_seen(partition(samples, 2, held_out_domain="domain 1"), settings, samples)
    with pytest.raises(
        DataError, match=r"of the held-out domain 'domain 1'; make the file with partition\.held_out_do"
    ):
        check_seen(partition(samples, 2, kind="iid"), settings, samples)
