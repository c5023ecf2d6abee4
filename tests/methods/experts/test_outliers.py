import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.federation.client import ClientResult
from promptfleet.methods.experts.outliers import find_outliers
from promptfleet.methods.protocol import Message
from tests.tiny_federation import ALL, tiny_federation


def on_a_line(*places):
    return torch.tensor(places, dtype=torch.float32).view(-1, 1, 1)


def test_the_limit_is_the_median_distance_plus_so_many_deviations():
    contexts = on_a_line(0, 1, 2, 3, 10)  # median 2; distances 2, 1, 0, 1, 8: median 1, deviations 1, 0, 1, 0, 7: 1
    everybody = torch.ones(5, dtype=torch.int64)
    found = find_outliers(contexts, everybody, 3.0)
    assert (found.distances, found.limit) == ({4: 8.0}, 4.0)
    assert find_outliers(contexts, everybody, 0.5).distances == {0: 2.0, 4: 8.0}
    assert find_outliers(contexts, everybody, 7.0).distances == {}


def test_who_never_uploaded_does_not_count():
    contexts, rounds = on_a_line(0, 0, 0, 5, 6, 7, 30), torch.tensor([0, 0, 0, 1, 2, 1, 1])
    assert list(find_outliers(contexts, rounds, 3.0).distances) == [6]
    assert find_outliers(contexts, torch.zeros(7), 3.0).distances == {}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), clients=st.integers(1, 9), tolerance=st.floats(0.01, 10))
def test_at_most_half_are_outliers_and_never_where_all_are_alike(data, clients, tolerance):
    rows = data.draw(st.lists(st.lists(st.integers(-5, 5), min_size=3, max_size=3), min_size=clients, max_size=clients))
    contexts, everybody = torch.tensor(rows, dtype=torch.float32), torch.ones(clients, dtype=torch.int64)
    assert len(find_outliers(contexts, everybody, tolerance).distances) <= clients // 2
    assert find_outliers(contexts[:1].expand(clients, 3), everybody, tolerance).distances == {}


@pytest.fixture
def with_one_far_away():
    """A federation of four after a round in which client 2 uploaded something enormous."""

    def make(**config):
        fed = tiny_federation(experts=3, **config)
        downloads = fed.server.select(1, ALL)
        results = {i: fed.clients[i].train(1, fed.privates[i], downloads[i]) for i in ALL}
        far = results[2].upload.tensors["context"] + 100
        results[2] = ClientResult(Message({"context": far}, results[2].upload.attached), 10)
        fed.server.aggregate(1, results)
        return fed

    return make


def test_others_do_not_get_an_outlier_which_has_experts_itself_and_is_reported(with_one_far_away):
    def experts(fed, client):
        return sorted(fed.server.select(2, [client])[client].attached["expert_ids"].tolist())

    without, filtered = with_one_far_away(), with_one_far_away(pool={"outlier_tolerance": 5.0})
    assert [experts(without, client) for client in ALL] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert [experts(filtered, client) for client in ALL] == [[1, 3], [0, 3], [0, 1, 3], [0, 1]]
    assert without.server.excluded() == {}
    ((client, why),) = filtered.server.excluded().items()
    assert client == 2
    assert why.startswith("its prompt is 692 from the median prompt, at most ")
