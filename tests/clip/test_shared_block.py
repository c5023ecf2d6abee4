import torch

from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.shared_block import block_of, stacked, with_shared_block
from tests.fakes import tiny_classes, tiny_tower


def test_all_layers_are_the_same_tensors_a_layer_s_share_of_the_blocks():
    tower = tiny_tower(layers=3)
    block = block_of(tower, 1)
    shared = with_shared_block(tower, block)
    assert shared.weights.keys() == tower.weights.keys()
    assert all(shared.weights[f"transformer.resblocks.{i}.{name}"] is block[name] for i in range(3) for name in block)
    numbers = sum(t.numel() for name, t in tower.weights.items() if name.startswith("transformer."))
    assert sum(tensor.numel() for tensor in block.values()) == numbers / 3


def test_it_encodes_as_a_tower_with_copies_and_gradients_reach_the_block():
    tower, contexts = tiny_tower(layers=3), torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1))
    classes = tiny_classes(tower)
    block = {name: tensor.clone().requires_grad_() for name, tensor in block_of(tower, 0).items()}
    encoded = encode_prompts(with_shared_block(tower, block), classes, contexts)
    plain = {name: tensor.detach().clone().requires_grad_() for name, tensor in block.items()}
    wanted = encode_prompts_plainly(with_shared_block(tower, plain), classes, contexts)
    assert torch.allclose(encoded, wanted, atol=1e-5)
    encoded[..., 0].sum().backward()
    wanted[..., 0].sum().backward()
    for name, tensor in block.items():
        assert torch.allclose(tensor.grad, plain[name].grad, atol=1e-5), name


def test_rows_with_blocks_of_their_own_are_encoded_as_each_block_encodes_them_alone():
    tower, contexts = tiny_tower(layers=3), torch.randn(4, 4, 16, generator=torch.Generator().manual_seed(1))
    classes, probe = tiny_classes(tower), torch.randn(24, generator=torch.Generator().manual_seed(2))

    def blocks():
        return [{name: one.clone().requires_grad_() for name, one in block_of(tower, i).items()} for i in (0, 2)]

    ours, theirs = blocks(), blocks()
    together = encode_prompts(with_shared_block(tower, stacked(ours, 2)), classes, contexts)
    alone = torch.cat(
        [
            encode_prompts(with_shared_block(tower, block), classes, some)
            for block, some in zip(theirs, contexts.split(2), strict=True)
        ]
    )
    assert torch.allclose(together, alone, atol=1e-5)
    (together @ probe[: tower.dim]).sum().backward()
    (alone @ probe[: tower.dim]).sum().backward()
    for found, wanted in zip(ours, theirs, strict=True):
        for name, tensor in found.items():
            assert torch.allclose(tensor.grad, wanted[name].grad, atol=1e-5), name
