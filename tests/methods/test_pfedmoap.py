"""pFedMoAP through the real Client and Server, on a stand-in for CLIP that has random weights."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.errors import ConfigError
from promptfleet.federation.server import Server
from promptfleet.methods.experts.sketches import sketch
from promptfleet.methods.parts.gates import AttentionGate, reduce_width
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.pfedmoap import PFedMoAP
from promptfleet.methods.protocol import Message, State
from promptfleet.seeding import stream
from tests.fakes import tiny_client, tiny_examples, tiny_task, tiny_world
from tests.tiny_federation import ALL, TinyFederation, equal
from tests.tiny_federation import tiny_federation as federation


def gate_of(private: State) -> State:
    return {name: tensor for name, tensor in private.items() if name.startswith("gate.")}


# Participations


def test_first_participation_trains_the_prompt_and_leaves_the_gate():
    fed = federation()
    start, gates = fed.server.state["context"], {i: gate_of(private) for i, private in fed.privates.items()}
    fed.run([ALL])
    for i, private in fed.privates.items():
        assert not torch.equal(private["context"], start)
        assert equal(gate_of(private), gates[i])
        assert not private["gate_ready"]
        assert private["participations"] == 1


def test_second_participation_trains_every_part_of_the_gate():
    fed = federation().run([ALL])
    before = {i: gate_of(private) for i, private in fed.privates.items()}
    fed.run([ALL])
    for i, private in fed.privates.items():
        assert private["gate_ready"]
        assert private["participations"] == 2
        for name, tensor in gate_of(private).items():
            assert not torch.equal(tensor, before[i][name]), name


def test_each_client_starts_with_a_gate_of_its_own_and_always_the_same():
    one, two = (federation().privates for _ in range(2))
    assert all(equal(one[i], two[i]) for i in ALL)
    assert not torch.equal(one[0]["gate.query.weight"], one[1]["gate.query.weight"])


def test_a_client_alone_in_the_pool_trains_its_prompt_only():
    fed = federation()
    gate = gate_of(fed.privates[2])
    fed.run([[2], [2]])
    assert fed.privates[2]["participations"] == 2
    assert not fed.privates[2]["gate_ready"]
    assert equal(gate_of(fed.privates[2]), gate)


def test_every_update_starts_from_the_global_prompt():
    fed = federation().run([ALL, ALL])
    scrambled = {**fed.privates[1], "context": torch.full_like(fed.privates[1]["context"], 9.0)}
    download = fed.download(1)
    uploads = [fed.clients[1].train(3, private, download).upload for private in (fed.privates[1], scrambled)]
    assert torch.equal(uploads[0].tensors["context"], uploads[1].tensors["context"])


def test_training_learns():
    fed = federation(local_epochs=5).run([ALL])
    examples = tiny_examples(fed.world, 6, seed=0)  # what client 0 trains on
    before = similarity_logits(fed.world, examples.images.features, Server(PFedMoAP(), fed.world).state["text"])
    after = PFedMoAP().predict(tiny_task(fed.world, fed.privates[0], fed.download(0)), examples.images)
    assert F.cross_entropy(after, examples.labels) < F.cross_entropy(before, examples.labels)


# Experts


def test_experts_of_one_client_do_not_leak_into_the_next_ones_update():
    fed = federation().run([[0, 1], [0, 1]])
    used, fresh = fed.clients[0], tiny_client(3, PFedMoAP(), fed.world)
    first_timer = fed.clients[3]
    assert len(fed.download(0).tensors["experts"]) == 1
    used.train(3, fed.privates[0], fed.download(0))
    trained = first_timer.train(3, fed.privates[3], fed.download(3))
    alone = fresh.train(3, fresh.initial_state(), fed.download(3))
    assert not trained.private["gate_ready"]
    assert equal(trained.private, alone.private)
    assert equal(trained.upload.tensors, alone.upload.tensors)


def test_order_of_the_cohort_does_not_matter():
    cohorts = [ALL, [0, 2, 3], ALL]
    assert federation().run(cohorts, order=lambda ids: sorted(ids, reverse=True)).sha256() == (
        federation().run(cohorts).sha256()
    )


def test_downloads_hold_the_nearest_contexts_of_the_last_round():
    fed = federation(experts=2).run([ALL])
    pool = fed.server.state["pool.context"]
    download = fed.download(1)
    ids = download.attached["expert_ids"].tolist()
    distance = (pool - pool[1]).flatten(1).norm(dim=1)
    assert ids == sorted([0, 2, 3], key=lambda other: distance[other])[:2]
    assert torch.equal(download.tensors["experts"], pool[ids])
    assert torch.equal(download.tensors["context"], fed.server.state["context"])
    for i, text in zip(ids, download.attached["expert_text"], strict=True):
        assert torch.allclose(text, encode_frozen(fed.world, pool[i]), atol=1e-6)


def test_downloaded_tensors_name_no_client_and_no_round():
    fed = federation().run([ALL])
    assert set(fed.download(0).tensors) == {"context", "experts"}


def test_experts_and_everything_else_a_client_gets_stay_as_they_are():
    fed = federation().run([ALL, ALL])
    method, examples = PFedMoAP(), tiny_examples(fed.world, 9)
    private, download = fed.privates[0], fed.download(0)
    given = {"private": private, "tensors": download.tensors, "attached": download.attached}
    given["examples"] = {"features": examples.images.features, "labels": examples.labels}
    before = {part: {name: tensor.clone() for name, tensor in state.items()} for part, state in given.items()}
    begun = method.local_update(tiny_task(fed.world, private, download, examples))
    update = run_alone(fed.world, begun)
    method.predict(tiny_task(fed.world, private, download), examples.images)
    method.describe(tiny_task(fed.world, private, download), examples.images)
    method.personalize(tiny_task(fed.world, private, download, examples))
    for part, state in given.items():
        assert equal(state, before[part]), part
        assert not any(tensor.requires_grad or tensor.grad is not None for tensor in state.values()), part
    out = [*update.private.values(), *update.upload.tensors.values(), *update.upload.attached.values()]
    assert not any(tensor.requires_grad for tensor in out)


def test_the_servers_state_is_never_changed_in_place():
    fed = federation().run([ALL])
    state = fed.server.state
    before = {name: tensor.clone() for name, tensor in state.items()}
    fed.run([[0, 3]])
    assert fed.server.state is not state
    assert equal(state, before)


def test_gradients_of_the_experts_do_not_reach_the_pool():
    fed = federation().run([ALL])
    pool = fed.server.state["pool.context"].clone()
    fed.clients[0].train(2, fed.privates[0], fed.download(0))
    assert torch.equal(fed.server.state["pool.context"], pool)


def test_searching_by_sketches_gives_the_same_where_the_shortlist_holds_everybody():
    pools = ({"search": search} for search in ("exact", "projected"))
    exact, projected = (federation(pool=pool).run([ALL, [0, 2], ALL]) for pool in pools)
    assert {name: projected.server.state.pop(name).shape for name in ("pool.sketch", "pool.frame")} == {
        "pool.sketch": (4, 64),
        "pool.frame": (64, 3 * exact.world.clip.tower.width),
    }
    assert projected.sha256() == exact.sha256()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sketches_are_those_of_the_pool(dtype):
    fed = federation(pool={"search": "projected", "dtype": dtype})
    for cohort in ([0, 1], [1, 2], [1], [0, 3], [2, 3]):
        state = fed.run([cohort]).server.state
        held = state["pool.round"] > 0
        wanted = sketch(state["pool.context"], state["pool.frame"])
        assert torch.allclose(state["pool.sketch"][held], wanted[held], atol=1e-7)


def test_a_frame_is_made_anew_after_rounds_1_2_4_and_8():
    fed, frames = federation(pool={"search": "projected"}), []
    for _ in range(9):
        frames.append(fed.run([ALL]).server.state["pool.frame"])
    assert [now for now, (old, new) in enumerate(pairwise(frames), start=2) if not torch.equal(old, new)] == [2, 4, 8]


def test_many_clients_have_sketches_whose_exact_search_is_that_of_few(monkeypatch):
    few = federation().run([ALL, [0, 2], ALL])
    monkeypatch.setattr("promptfleet.methods.experts.pool.MANY_POINTS", 4)
    many = federation().run([ALL, [0, 2], ALL])
    assert many.server.state.pop("pool.sketch").any()
    assert many.server.state.pop("pool.frame").any()
    assert many.sha256() == few.sha256()
    assert "pool.sketch" not in federation(selection="farthest").server.state


def test_a_pool_in_half_precision_is_off_by_its_rounding_and_no_more():
    full, half = (federation(pool={"dtype": dtype}).run([ALL]) for dtype in ("float32", "float16"))
    for name in ("pool.context", "pool.text"):
        kept, wanted = half.server.state[name], full.server.state[name]
        assert kept.dtype == torch.float16
        assert ((kept.float() - wanted).abs() <= 2**-11 * wanted.abs() + 2**-25).all()
    download = half.download(1)
    assert download.tensors["experts"].dtype == download.attached["expert_text"].dtype == torch.float32
    assert download.num_bytes == full.download(1).num_bytes


def test_sketches_are_made_with_the_first_uploads_whenever_they_come():
    fed = federation(pool={"search": "projected"})
    fed.history = [fed.server.state] * 2  # two rounds in which no upload was accepted
    state = fed.run([ALL]).server.state
    assert state["pool.round"].tolist() == [3] * 4
    assert torch.equal(state["pool.sketch"], sketch(state["pool.context"], state["pool.frame"]))
    assert state["pool.frame"].abs().max() > 0


def test_only_the_nearest_are_found_by_sketches():
    with pytest.raises(ValueError, match=r"pool.search=projected finds the nearest; selection=farthest needs exact"):
        federation(pool={"search": "projected"}, selection="farthest")


# Messages


def test_an_upload_is_the_context_and_nothing_of_the_gate():
    fed = federation().run([ALL])
    download = fed.download(0)
    trained = fed.clients[0].train(2, fed.privates[0], download)
    private, upload, report = trained.private, trained.upload, trained.report
    width = fed.world.clip.tower.width
    assert set(upload.tensors) == {"context"}
    assert set(upload.attached) == {"text"}
    assert torch.equal(upload.tensors["context"], private["context"])
    assert torch.allclose(upload.attached["text"], encode_frozen(fed.world, private["context"]), atol=1e-6)
    assert report.uploaded_bytes == 4 * 3 * width
    assert report.downloaded_bytes == (1 + 3) * 4 * 3 * width  # the global context and three experts
    gate_values = sum(tensor.numel() for tensor in gate_of(private).values())
    assert gate_values == 4 * (8 * 8 + 8)


# Partial participation


def test_entries_of_absent_clients_stay_in_the_pool_with_their_round():
    fed = federation().run([[0, 1], [1, 2]])
    old = fed.server.state["pool.context"].clone()
    fed.run([[1]])
    state = fed.server.state
    assert state["pool.round"].tolist() == [1, 3, 2, 0]
    assert torch.equal(state["pool.context"][[0, 2, 3]], old[[0, 2, 3]])
    assert not torch.equal(state["pool.context"][1], old[1])
    assert torch.equal(state["pool.context"][1], fed.privates[1]["context"])
    assert torch.equal(state["pool.text"][1], fed.privates[1]["text"])


def test_the_global_prompt_is_the_mean_over_the_cohort_alone():
    fed = federation().run([ALL, [1, 3]])
    counts = {1: 8, 3: 12}  # tiny_client gives client i 6 + 2 i examples
    wanted = sum(counts[i] * fed.privates[i]["context"] for i in counts) / 20
    assert torch.allclose(fed.server.state["context"], wanted, atol=1e-7)
    assert torch.allclose(fed.server.state["text"], encode_frozen(fed.world, wanted), atol=1e-6)


def test_a_client_that_never_trained_predicts_with_the_global_prompt():
    fed = federation().run([[0, 1, 2]] * 2)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    assert torch.equal(fed.logits(3), similarity_logits(fed.world, features, fed.server.state["text"]))


def test_a_client_that_trained_once_predicts_with_its_own_prompt_and_no_gate():
    fed = federation().run([ALL])
    assert len(fed.download(2).tensors["experts"]) == 3
    features = tiny_examples(fed.world, 8, seed=77).images.features
    assert torch.equal(fed.logits(2), similarity_logits(fed.world, features, fed.privates[2]["text"]))
    assert fed.clients[2].evaluate(1, fed.privates[2], fed.download(2)).described == {}


def test_a_client_that_trained_twice_mixes_its_own_prompt_with_the_experts():
    fed = federation(**{"lambda": 0.7}).run([ALL, ALL])
    private, download, config = fed.privates[2], fed.download(2), fed.world.config
    features = tiny_examples(fed.world, 8, seed=77).images.features
    texts = torch.cat([private["text"][None], download.attached["expert_text"]])
    attention = AttentionGate(config.gate_width, config.gate_heads, config.gating_temperature)
    gated = attention.scores(private, features, texts)
    wanted = 20.0 * gated + 0.7 * 20.0 * features @ private["text"].T
    assert torch.allclose(fed.logits(2), wanted, atol=1e-5)


def test_described_are_the_experts_and_the_mean_weights():
    fed = federation(experts=2).run([ALL, ALL])
    described = fed.clients[1].evaluate(2, fed.privates[1], fed.download(1)).described
    assert described["experts"] == fed.download(1).attached["expert_ids"].tolist()
    assert len(described["gate_weights"]) == 3
    assert sum(described["gate_weights"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("participation", [0.1, 0.5, 1.0])
def test_any_participation_runs_and_everybody_can_be_evaluated(participation):
    from promptfleet.federation.conditions.cohort import sample_cohort

    fed = federation(clients=5, experts=2)
    fed.run([sample_cohort(0, round_index, 5, participation) for round_index in (1, 2, 3)])
    for i in range(5):
        evaluation = fed.clients[i].evaluate(3, fed.privates[i], fed.download(i))
        assert 0 <= evaluation.val_accuracy <= 1
        assert torch.isfinite(fed.logits(i)).all()


# Without experts it is PromptFL


def promptfl_contexts(fed: TinyFederation, rounds: int) -> list[torch.Tensor]:
    """FedAvg on the context, written out: torch's optimizer, plain cosine logits, a weighted mean."""
    config, clip = fed.world.config, fed.world.clip
    context, after_round = fed.server.state["context"], []
    for round_index in range(1, rounds + 1):
        trained, sizes = [], []
        for i in range(config.clients):
            examples = tiny_examples(fed.world, 6 + 2 * i, seed=i)
            order_rng = stream(config.seed, "local_update", client=i, round_index=round_index)
            own = context.clone().requires_grad_()
            optimizer = torch.optim.SGD(
                [own], lr=config.prompt_lr, momentum=config.momentum, weight_decay=config.weight_decay
            )
            for _ in range(config.local_epochs):
                for batch in torch.from_numpy(order_rng.permutation(len(examples))).split(config.batch_size):
                    text = encode_prompts(clip.tower, clip.classes, own[None])[0]
                    logits = clip.logit_scale * examples.images.features[batch] @ text.T
                    optimizer.zero_grad()
                    F.cross_entropy(logits, examples.labels[batch]).backward()
                    optimizer.step()
            trained.append(own.detach())
            sizes.append(len(examples))
        shares = torch.tensor([size / sum(sizes) for size in sizes], dtype=torch.float64).float()
        context = torch.tensordot(shares, torch.stack(trained), dims=1)
        after_round.append(context)
    return after_round


def test_without_experts_it_is_promptfl_bit_for_bit():
    fed = federation(experts=0)
    wanted = promptfl_contexts(fed, rounds=3)
    fed.run([ALL] * 3)
    for ours, theirs in zip(fed.contexts, wanted, strict=True):
        assert torch.equal(ours, theirs)
    assert not any(private["gate_ready"] for private in fed.privates.values())


def test_with_experts_it_is_not_promptfl_from_the_second_round_on():
    fed = federation()
    wanted = promptfl_contexts(fed, rounds=2)
    fed.run([ALL] * 2)
    assert torch.equal(fed.contexts[0], wanted[0])
    assert not torch.equal(fed.contexts[1], wanted[1])


# Options


@pytest.fixture(scope="module")
def usual_logits():
    return federation().run([ALL] * 2).logits(0)


@pytest.mark.parametrize(
    "option",
    [
        {"experts": 1},
        {"experts": 0},
        {"gating_temperature": 0.5},
        {"gate_width": 12},
        {"gate_heads": 4},
        {"gate_lr": 0.01},
        {"gate": "linear"},
        {"gate_sharing": "averaged"},
        {"pool": {"dtype": "float16"}},
        {"lambda": 0.0},
        {"lambda": 1.5},
        {"prompt_lr": 0.01},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"local_epochs": 1},
        {"batch_size": 3},
        {"shuffle": False},
        {"prompt_length": 2},
        {"seed": 1},
    ],
    ids=str,
)
def test_every_option_changes_the_result(usual_logits, option):
    assert not torch.allclose(federation(**option).run([ALL] * 2).logits(0), usual_logits, atol=1e-5)


def test_the_same_options_give_the_same_result(usual_logits):
    assert torch.equal(federation().run([ALL] * 2).logits(0), usual_logits)


# Ablations


def test_each_selection_gives_its_own_result():
    results = [federation(experts=1, selection=by).run([ALL] * 3) for by in ("nearest", "farthest", "random")]
    assert len({fed.download(1).attached["expert_ids"].item() for fed in results[:2]}) == 2
    assert len({fed.sha256() for fed in results}) == 3


def test_random_experts_are_drawn_anew_for_each_client_and_round_whoever_else_is_asked_for():
    fed = federation(clients=8, experts=3, selection="random").run([range(8)])
    drawn = {}
    for round_index in (1, 2, 3):
        together = fed.server.select(round_index, range(8))
        for i in range(8):
            ids = together[i].attached["expert_ids"].tolist()
            assert ids == fed.server.select(round_index, [i])[i].attached["expert_ids"].tolist()
            assert len(set(ids) - {i}) == 3
            drawn[round_index, i] = tuple(ids)
    assert len({drawn[round_index, 0] for round_index in (1, 2, 3)}) == 3
    assert len({drawn[1, i] for i in range(8)}) > 4


def test_averaged_gates_travel_and_are_the_mean_over_the_cohort():
    fed = federation(gate_sharing="averaged").run([ALL])
    assert not any(gate_of(private) for private in fed.privates.values())
    downloads = fed.server.select(2, [1, 3])
    trained = {i: fed.clients[i].train(2, fed.privates[i], downloads[i]) for i in (1, 3)}
    assert fed.server.aggregate(2, trained) == {}
    for name in ("gate.query.weight", "gate.output.bias"):
        one, three = (trained[i].upload.tensors[name] for i in (1, 3))
        assert not torch.equal(one, three)
        assert torch.allclose(fed.server.state[name], (8 * one + 12 * three) / 20, atol=1e-7)
    context, gate = 4 * 3 * fed.world.clip.tower.width, 4 * 4 * (8 * 8 + 8)
    assert trained[1].report.uploaded_bytes == context + gate
    assert trained[1].report.downloaded_bytes == (1 + 3) * context + gate
    fed.privates |= {i: one.private for i, one in trained.items()}
    fed.history.append(fed.server.state)
    other = {**fed.server.state, "gate.value.weight": -fed.server.state["gate.value.weight"]}
    before, fed.server.state = fed.logits(1), other
    assert not torch.allclose(fed.logits(1), before, atol=1e-3)  # the gate to predict with is the downloaded one


def test_a_linear_gate_weighs_experts_by_their_place():
    fed = federation(gate="linear", experts=2).run([ALL] * 2)
    private, download = fed.privates[1], fed.download(1)
    assert {name: tuple(tensor.shape) for name, tensor in gate_of(private).items()} == {
        "gate.weight": (3, 8),
        "gate.bias": (3,),
    }
    features = tiny_examples(fed.world, 8, seed=77).images.features
    texts = torch.cat([private["text"][None], download.attached["expert_text"]])
    logits = reduce_width(features, 8) @ private["gate.weight"].T + private["gate.bias"]
    weights = torch.softmax(logits, dim=1)
    wanted = 20.0 * sum(weights[:, [e]] * (features @ texts[e].T) for e in range(3)) + 10.0 * features @ texts[0].T
    assert torch.allclose(fed.logits(1), wanted, atol=1e-4)
    described = fed.clients[1].evaluate(2, private, download).described["gate_weights"]
    assert sum(described) == pytest.approx(1, abs=1e-5)
    swapped = Message(download.tensors, {**download.attached, "expert_text": download.attached["expert_text"].flip(0)})
    images = tiny_examples(fed.world, 8, seed=77).images
    assert not torch.allclose(
        PFedMoAP().predict(tiny_task(fed.world, private, swapped), images), fed.logits(1), atol=1e-4
    )


@pytest.mark.parametrize(
    "ablation", [{"gate": "linear"}, {"gate_sharing": "averaged"}, {"selection": "random"}], ids=str
)
def test_ablations_are_promptfl_without_experts_too(ablation):
    ours, promptfl = federation(experts=0, **ablation).run([ALL] * 2), federation("promptfl").run([ALL] * 2)
    assert all(torch.equal(a, b) for a, b in zip(ours.contexts, promptfl.contexts, strict=True))


def test_a_linear_gate_uses_as_many_outputs_as_there_are_experts():
    fed = federation(gate="linear", experts=3).run([[0, 1], [0, 1]])
    assert fed.privates[0]["gate_ready"]
    assert len(fed.clients[0].evaluate(2, fed.privates[0], fed.download(0)).described["gate_weights"]) == 2


def test_gate_wider_than_the_features_is_refused():
    with pytest.raises(ConfigError, match=r"^gate_width=32 exceeds the backbone's feature width 24$"):
        PFedMoAP().check(tiny_world(gate_width=32))
