import pytest
import torch

from promptfleet.federation.client import ClientResult
from promptfleet.federation.on_ray.wire import stack_results, unstack_results
from promptfleet.federation.server import Server
from promptfleet.methods.parts.prompts import encode_frozen, init_context
from promptfleet.methods.parts.states import state_sha256
from promptfleet.methods.pfedmoap import PFedMoAP
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Encode, Message, Spec, UpTo
from tests.fakes import tiny_world

SHAPE = (3, 16)


class Varying(PromptFL):
    """Uploads a row for each class of the client, and the server counts them."""

    def init_server(self, world, rng):
        return {"rows": torch.tensor(0)}

    def uploads(self, world):
        return {"context": Spec(SHAPE), "classes": Spec((UpTo(4), 16), trained=False)}

    def aggregate(self, server, arrived):
        rows = sum(len(rows) for rows in arrived.sent("classes").values())
        return {"rows": torch.tensor(rows), **arrived.mean({0: 3.0, 1: 1.0}, names=["context"])}


@pytest.fixture
def server():
    return Server(PFedMoAP(), tiny_world())


def good(value, num_examples=5):
    context = torch.full(SHAPE, value)
    return ClientResult(Message({"context": context}, {"text": encode_frozen(tiny_world(), context)}), num_examples)


def with_entry(value):
    result = good(0.5)
    result.upload.tensors["context"][1, 2] = value
    return result


def with_bad_text():
    result = good(0.5)
    result.upload.attached["text"][0, 0] = float("nan")
    return result


def with_tensors(**tensors):
    return ClientResult(Message(tensors, good(0.5).upload.attached), 5)


BAD = {
    "shape": (
        with_tensors(context=torch.zeros(2, 16)),
        "uploaded {'context': (2, 16)}, should be {'context': (3, 16)}",
    ),
    "missing": (with_tensors(), "uploaded {}, should be {'context': (3, 16)}"),
    "name": (
        with_tensors(prompt=torch.zeros(SHAPE)),
        "uploaded {'prompt': (3, 16)}, should be {'context': (3, 16)}",
    ),
    "one too many": (
        with_tensors(context=torch.zeros(SHAPE), gate=torch.zeros(1)),
        "uploaded {'context': (3, 16), 'gate': (1,)}, should be {'context': (3, 16)}",
    ),
    "nan": (with_entry(float("nan")), "context is not finite"),
    "inf": (with_entry(float("inf")), "context is not finite"),
    "minus inf": (with_entry(float("-inf")), "context is not finite"),
    "type": (with_tensors(context=torch.zeros(SHAPE).double()), "context is of type torch.float64, should be torch.f"),
    "huge": (with_tensors(context=torch.full(SHAPE, 1e6)), "context has norm 6.93e+06, max_upload_norm is 1e+06"),
    "attached": (with_bad_text(), "text is not finite"),
    "none": (
        ClientResult(None, 5, "context is not finite after the local update"),
        "context is not finite after the local",
    ),
}


def sha(server):
    return state_sha256(server.state, {})


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_rejected_with_its_reason_and_stays_out(server, kind):
    bad, reason = BAD[kind]
    assert server.aggregate(1, {1: good(0.25), 2: good(0.75)}) == {}
    pooled = server.state["pool.context"].clone()
    rejected = server.aggregate(2, {1: good(1.0), 2: bad})
    assert list(rejected) == [2]
    assert rejected[2].startswith(reason)
    assert torch.equal(server.state["pool.context"][2], pooled[2])
    assert server.state["pool.round"].tolist() == [0, 2, 1, 0]
    assert torch.equal(server.state["context"], torch.ones(SHAPE))


def test_a_first_upload_that_is_rejected_makes_no_expert(server):
    server.aggregate(1, {0: good(0.1), 3: BAD["nan"][0]})
    assert server.state["pool.round"].tolist() == [1, 0, 0, 0]
    assert len(server.select(2, [0])[0].tensors["experts"]) == 0


def test_with_all_rejected_the_state_stays(server):
    server.aggregate(1, {0: good(0.1)})
    before = sha(server)
    assert sorted(server.aggregate(2, {i: bad for i, (bad, _) in enumerate(BAD.values())})) == list(range(len(BAD)))
    assert sha(server) == before
    assert server.aggregate(3, {}) == {}
    assert sha(server) == before


def test_uploads_are_taken_in_the_order_of_ids(server):
    class Recorder(PFedMoAP):
        def aggregate(self, server, arrived):
            self.seen = list(arrived.uploads), dict(arrived.num_examples)
            return server

    method = Recorder()
    recording = Server(method, tiny_world())
    recording.aggregate(1, {3: good(0.1, 7), 0: good(0.2, 4), 2: BAD["inf"][0]})
    assert method.seen == ([0, 3], {0: 4, 3: 7})


def test_order_of_arrival_does_not_change_the_state():
    states = []
    for order in ([0, 1, 2], [2, 0, 1]):
        server = Server(PFedMoAP(), tiny_world())
        server.aggregate(1, {i: good(0.1 * i + 0.03, 3 + i) for i in order})
        states.append(sha(server))
    assert states[0] == states[1]


def test_selecting_reads_and_never_writes(server):
    server.aggregate(1, {i: good(0.1 * i) for i in range(4)})
    before = sha(server)
    ids = server.select(2, [2])[2].attached["expert_ids"]
    server.select(2, [0, 1, 2, 3])
    assert sha(server) == before
    assert torch.equal(server.select(2, [2])[2].attached["expert_ids"], ids)


def test_first_state_depends_on_the_seed_alone():
    one, two, other = (Server(PFedMoAP(), tiny_world(seed=seed)) for seed in (0, 0, 1))
    assert sha(one) == sha(two) != sha(other)


class ByWork(PromptFL):
    """PromptFL whose server computes its states step by step; remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def init_server(self, world, rng):
        self.asked.append("init_server")
        context = init_context(world, rng)
        (text,) = yield Encode(context.unsqueeze(0))
        return {"context": context, "text": text}

    def aggregate(self, server, arrived):
        self.asked.append("aggregate")
        context = arrived.mean()["context"]
        (text,) = yield Encode(context.unsqueeze(0))
        return {"context": context, "text": text}


def test_a_server_that_works_step_by_step_has_the_same_states():
    world, states = tiny_world(), []
    for method in (PromptFL(), ByWork()):
        server = Server(method, world)
        states.append([sha(server)])
        assert server.aggregate(1, {1: good(0.25), 2: good(0.75)}) == {}
        states[-1].append(sha(server))
    assert states[0] == states[1]
    assert len(set(states[0])) == 2


def test_a_server_that_loads_a_state_does_not_make_a_first_one():
    method, world = ByWork(), tiny_world()
    server = Server(method, world)
    server.load(Server(PromptFL(), world).state)
    server.select(1, [0])
    assert server.aggregate(1, {0: good(0.25)}) == {}
    assert method.asked == ["aggregate"]


MASKED = {"context": Spec(SHAPE), "mask": Spec((4,), torch.bool), "count": Spec((), torch.int64)}


class Masked(PromptFL):
    """Uploads a mask and a count, too."""

    def uploads(self, world):
        return MASKED


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"count": torch.tensor(10**9)}, None),  # max_upload_norm is for real numbers
        ({"mask": torch.ones(4)}, "mask is of type torch.float32, should be torch.bool"),
        ({"count": torch.tensor(3, dtype=torch.int32)}, "count is of type torch.int32, should be torch.int64"),
        ({"context": torch.zeros(SHAPE).half()}, "context is of type torch.float16, should be torch.float32"),
    ],
)
def test_every_tensor_of_an_upload_has_the_promised_type(changed, problem):
    tensors = {"context": torch.zeros(SHAPE), "mask": torch.ones(4, dtype=torch.bool), "count": torch.tensor(3)}
    rejected = Server(Masked(), tiny_world()).aggregate(1, {0: ClientResult(Message({**tensors, **changed}), 5)})
    assert rejected.get(0) == problem


def test_trained_parameters_are_real_numbers():
    assert Masked().trained_parameters(tiny_world()) == 3 * 16


def test_each_client_of_a_selection_has_a_stream_of_its_own_in_whatever_part_it_comes():
    drawn = {}

    class Drawing(PFedMoAP):
        def select(self, server, call):
            drawn.update({client: call.rng(client).integers(2**63) for client in call.clients})
            return super().select(server, call)

    def draw(round_index, cohort, seed=0):
        drawn.clear()
        world = tiny_world(seed=seed)
        Server(Drawing(), world).select(round_index, cohort)
        return dict(drawn)

    together = draw(1, [0, 1, 2])
    assert draw(1, [1]) == {1: together[1]}
    assert len({*together.values(), *draw(2, [0, 1, 2]).values(), *draw(1, [0, 1, 2], seed=1).values()}) == 9


def varying(rows, value=0.0, width=16):
    return ClientResult(Message({"context": torch.full(SHAPE, value), "classes": torch.ones(rows, width)}), 5)


def test_rows_may_differ_between_uploads_up_to_their_number():
    server = Server(Varying(), tiny_world())
    uploads = unstack_results(stack_results({0: varying(1, 1.0), 1: varying(4, 5.0)}))
    assert server.aggregate(1, uploads) == {}
    assert server.state["rows"] == 5
    assert torch.equal(server.state["context"], torch.full(SHAPE, 2.0))  # weights 3 and 1
    wanted = "should be {'context': (3, 16), 'classes': (up to 4, 16)}"
    for bad, found in ((varying(5), "(5, 16)"), (varying(2, width=15), "(2, 15)")):
        assert server.aggregate(2, {0: bad}) == {
            0: f"uploaded {{'context': (3, 16), 'classes': {found}}}, {wanted}",
        }
    assert Varying().trained_parameters(tiny_world()) == 48
    assert Spec((UpTo(4), 16)).numbers == 64
