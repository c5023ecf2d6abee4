import pytest
import torch

from promptfleet.methods.parts.states import find_non_finite, joined, parted, state_sha256, to_device
from promptfleet.methods.protocol import Message

SERVER = {"context": torch.tensor([[1.0, 2.0]]), "round": torch.tensor(3)}
PRIVATES = {0: {"flag": torch.tensor(True)}, 1: {"flag": torch.tensor(False)}}


def test_the_hash_depends_on_values_alone():
    shuffled = {name: SERVER[name].clone() for name in reversed(SERVER)}
    strided = {**shuffled, "context": torch.tensor([[1.0], [2.0]]).T}
    wanted = state_sha256(SERVER, PRIVATES)
    assert state_sha256(shuffled, dict(reversed(PRIVATES.items()))) == wanted
    assert state_sha256(strided, PRIVATES) == wanted


def test_joined_numbers_are_in_the_order_of_the_state_and_parted_again():
    state = {"b": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "a": torch.tensor([5.0])}
    assert joined(state).tolist() == [1, 2, 3, 4, 5]
    again = parted(joined(state), state)
    assert list(again) == ["b", "a"]
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("server", "privates"),
    [
        ({**SERVER, "round": torch.tensor(4)}, PRIVATES),
        ({**SERVER, "round": torch.tensor(3, dtype=torch.int32)}, PRIVATES),
        ({**SERVER, "context": torch.tensor([1.0, 2.0])}, PRIVATES),
        ({**SERVER, "context": torch.tensor([[1.0, -2.0]])}, PRIVATES),
        ({"contexts": SERVER["context"], "round": SERVER["round"]}, PRIVATES),
        (SERVER, {0: PRIVATES[1], 1: PRIVATES[0]}),
        (SERVER, {0: PRIVATES[0]}),
    ],
    ids=["value", "type", "shape", "sign", "name", "owner", "missing"],
)
def test_any_difference_changes_the_hash(server, privates):
    assert state_sha256(server, privates) != state_sha256(SERVER, PRIVATES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_tensor_by_name_is_found(value):
    bad = torch.tensor([0.0, value])
    assert find_non_finite({"b": bad, "a": torch.tensor(1), "c": bad}) == "b"
    assert find_non_finite({"a": torch.tensor([3e38]), "b": torch.tensor(True)}) is None
    assert find_non_finite({}) is None


def test_a_message_moves_as_a_whole():
    moved = to_device(Message({"context": torch.ones(2)}, {"text": torch.ones(3)}), "meta")
    assert moved.tensors["context"].device.type == moved.attached["text"].device.type == "meta"
    assert to_device({"a": torch.ones(2)}, "meta")["a"].device.type == "meta"


def test_only_what_the_protocol_sends_is_counted():
    message = Message({"a": torch.ones(2, 3), "b": torch.tensor([1, 2])}, {"text": torch.ones(1000)})
    assert message.num_bytes == 2 * 3 * 4 + 2 * 8


def test_an_empty_tensor_has_a_name_a_type_and_a_shape():
    empty = torch.stack([torch.empty(0)] * 2)[1]
    assert state_sha256({"a": empty}, {}) == state_sha256({"a": torch.empty(0)}, {})
    assert len({state_sha256({"a": other}, {}) for other in (empty, torch.empty(0, 2), torch.empty(0).double())}) == 3
