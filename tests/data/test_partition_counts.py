import numpy as np

from promptfleet.data.client_split import ClientSplit
from promptfleet.data.partition import Partition
from promptfleet.data.partition_counts import count_partition
from tests.data.partitions import made_up_samples

MADE = Partition(
    (
        ClientSplit(*map(np.array, ([0, 4], [1], [2]))),
        ClientSplit(*map(np.array, ([3], [6], [5]))),
    )
)
LABELS = np.array([0, 0, 1, 2, 2, 2, 0, 1])  # nobody has the last one


def test_who_has_what():
    counts = count_partition(MADE, made_up_samples(LABELS))
    assert counts.part_sizes == [[2, 1, 1], [1, 1, 1]]
    assert counts.label_counts == [[2, 1, 1], [1, 0, 2]]
    assert (counts.domain_names, counts.domain_counts, counts.domain_label_counts) == ([], [[], []], [])


def test_who_has_which_domain_and_what_is_in_it():
    counts = count_partition(MADE, made_up_samples(LABELS, np.array([0, 0, 0, 1, 0, 1, 1, 1])))
    assert counts.domain_names == ["domain 0", "domain 1"]
    assert counts.domain_counts == [[4, 0], [0, 3]]
    assert counts.domain_label_counts == [[2, 1, 1], [1, 0, 2]]
