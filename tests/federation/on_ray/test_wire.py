"""States of many clients in a few arrays: what comes out is what went in, bit for bit."""

import pickle

import torch
from hypothesis import given
from hypothesis import strategies as st

from promptfleet.federation.client import ClientResult
from promptfleet.federation.on_ray.wire import (
    join,
    stack,
    stack_messages,
    stack_results,
    unstack,
    unstack_messages,
    unstack_results,
)
from promptfleet.federation.reports import TrainReport
from promptfleet.methods.protocol import Message
from tests.tiny_federation import equal

DTYPES = (torch.float32, torch.float64, torch.float16, torch.int64, torch.bool)
SHARED = torch.arange(5.0)


@st.composite
def drawn_states(draw):
    """Draw states of one to six clients, with at most three layouts, one tensor shared by all if it is there."""
    layouts = draw(st.lists(layout(), min_size=1, max_size=3))
    states = {}
    for client in draw(st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True)):
        shapes = draw(st.sampled_from(layouts))
        states[client] = {name: tensor_of(client, *about) for name, about in shapes.items()}
    return states


def layout():
    shape = st.lists(st.integers(0, 3), max_size=3)
    about = st.one_of(st.just(("shared",)), st.tuples(shape, st.sampled_from(DTYPES)))
    return st.dictionaries(st.sampled_from("abcd"), about, max_size=4)


def tensor_of(client, shape, dtype=None):
    if shape == "shared":
        return SHARED
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(client)).to(dtype)


@given(states=drawn_states(), data=st.data())
def test_any_states_come_back_in_any_order(states, data):
    asked = data.draw(st.permutations(list(states)))[: data.draw(st.integers(0, len(states)))]
    again = unstack(pickle.loads(pickle.dumps(stack(states))), asked)
    assert list(again) == asked
    for client, state in again.items():
        assert list(state) == list(states[client])
        assert equal(state, states[client])
        assert all(tensor.dtype == states[client][name].dtype for name, tensor in state.items())
        assert all(tensor.data_ptr() % 64 == 0 for tensor in state.values())


def test_states_that_are_alike_are_one_array_and_what_they_share_is_there_once():
    states = {client: {"own": torch.full((4, 4), client), "all": SHARED} for client in range(10)}
    (alike,) = stack(states)
    assert alike.rows.shape[0] == 10
    assert alike.common["all"].shape == (5,)
    taken = unstack([alike], [3])[3]
    taken["own"].zero_()
    assert equal(unstack([alike], [3])[3], states[3])


@given(states=drawn_states(), data=st.data())
def test_states_of_several_blocks_come_back_each_from_its_own(states, data):
    """Every block has a state of every client; each client's is taken from its own block."""
    count = data.draw(st.integers(1, 3))
    block_of = {client: data.draw(st.integers(0, count - 1)) for client in states}
    blocks = [
        stack({client: {**one, "block": torch.tensor(block)} for client, one in states.items()})
        for block in range(count)
    ]
    held = [[client for client in states if block_of[client] == block] for block in range(count)]
    again = unstack(join(blocks, held), list(states))
    assert list(again) == list(states)
    for client, state in again.items():
        assert equal(state, {**states[client], "block": torch.tensor(block_of[client])})


def test_messages_and_results_keep_their_parts_and_their_problems():
    messages = {client: Message({"a": torch.ones(2) * client}, {"a": torch.zeros(client)}) for client in range(3)}
    for client, again in unstack_messages(stack_messages(messages), [2, 0]).items():
        assert equal(again.tensors, messages[client].tensors)
        assert equal(again.attached, messages[client].attached)
    state, report = {"gate": torch.ones(2)}, TrainReport({}, 1, 1, 0.5)
    results = {
        4: ClientResult(messages[1], 20, private=state, report=report),
        7: ClientResult(None, 9, "context is not finite", private=state, report=report),
    }
    stacked = stack_results(results)
    assert b"gate" not in pickle.dumps(stacked)  # a private state never reaches the server
    again = unstack_results(stacked)
    assert again[7] == ClientResult(None, 9, "context is not finite")
    assert (again[4].num_examples, again[4].problem, again[4].private, again[4].report) == (20, None, {}, None)
    assert equal(again[4].upload.attached, messages[1].attached)
