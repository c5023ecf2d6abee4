"""Parts of a training step: which optimizer gets which parameters."""

from promptfleet.pretraining import model, steps


def test_text_embeddings_have_a_learning_rate_of_their_own():
    encoder = model.PairEncoder(model.build_model(5))
    muon, adam = steps.make_optimizers(encoder, lr=1.0, embedding_lr=0.25, muon_lr=2.0, weight_decay=0.1)
    rates = {
        id(parameter): group["lr"]
        for optimizer in (muon, adam)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    of_name = {name: rates[id(parameter)] for name, parameter in encoder.named_parameters()}
    assert {name for name, rate in of_name.items() if rate == 0.25} == {
        "clip.token_embedding.weight",
        "clip.positional_embedding",
    }
    assert of_name["clip.visual.positional_embedding"] == of_name["clip.text_projection"] == 1.0
    assert of_name["clip.transformer.resblocks.0.mlp.c_fc.weight"] == 2.0
    assert all(group["weight_decay"] == 0 for group in adam.param_groups)
