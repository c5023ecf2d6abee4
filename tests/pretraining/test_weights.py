"""The shipped weights: they load, are as small and as good as the model card says; the job that makes them resumes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from promptfleet.errors import BackboneError, ConfigError
from promptfleet.pretraining import captions, evaluation, loop, model, steps, trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights():
    return load_file(model.WEIGHTS)


@pytest.fixture(scope="module")
def features():
    images, labels = evaluation.handwritten_digits()
    clip = model.load_model()
    return clip, evaluation.image_features(clip, images), labels


def card_figure(name):
    card = model.WEIGHTS.with_name("MODEL_CARD.md").read_text()
    return float(re.search(rf"\| {name} \| ([\d.]+) %", card)[1]) / 100


def test_weights_are_float16_and_load_strictly(weights):
    assert {value.dtype for value in weights.values()} == {torch.float16}
    config = model.read_config()
    clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    clip.load_state_dict(weights, strict=True)


def test_weights_are_finite(weights):
    assert all(value.isfinite().all() for value in weights.values())


def test_token_rows_never_seen_in_training_are_zero(weights):
    seen = model.Vocabulary(captions.vocabulary()).token_ids
    table = weights[model.TOKEN_TABLE]
    assert table.shape[0] == open_clip.SimpleTokenizer().vocab_size
    nonzero = (table != 0).any(1).nonzero()[:, 0]
    assert torch.equal(nonzero, seen)


def test_weights_are_small():
    assert model.compressed_bytes(model.WEIGHTS) <= model.MAX_WEIGHT_BYTES


def test_zero_shot_accuracy_is_the_one_in_the_model_card(features):
    assert abs(evaluation.zero_shot_accuracy(*features) - card_figure("zero-shot")) <= 0.005


def test_zero_shot_leaves_prompt_learning_something_to_gain(features):
    assert 0.70 <= evaluation.zero_shot_accuracy(*features) <= 0.88


@pytest.mark.slow
def test_accuracy_on_held_out_drawings_is_the_one_in_the_model_card(features):
    accuracy = steps.held_out_accuracy(features[0], open_clip.SimpleTokenizer(), steps.held_out_digits(0))
    assert abs(accuracy - card_figure("held-out drawings, zero-shot")) <= 0.005


def test_linear_probe_accuracy_is_the_one_in_the_model_card(features):
    assert abs(evaluation.linear_probe_accuracy(*features[1:]) - card_figure("linear probe")) <= 0.005


def test_the_transform_gives_what_training_saw():
    images, _ = evaluation.handwritten_digits()
    assert images.shape == (1797, 3, 32, 32)
    assert torch.equal(images[:, 0], images[:, 2])
    assert images.min() == pytest.approx(-0.3 / 0.35, abs=1e-6)
    assert images.max() == pytest.approx(0.7 / 0.35, abs=1e-6)


def test_cutting_the_padding_changes_no_text_feature(features):
    """Training runs the text tower on texts cut after EOT; open_clip runs it on all 77 positions."""
    clip = features[0]
    texts = ["a handwritten digit seven.", "3"]
    tokens = open_clip.SimpleTokenizer()(texts)
    short = tokens[:, : int(tokens.argmax(1).max()) + 1]
    with torch.no_grad():
        _, ours, _ = model.PairEncoder(clip)(torch.zeros(1, 3, 32, 32), short)
        assert torch.allclose(ours, clip.encode_text(tokens, normalize=True), atol=1e-5)


def test_the_loss_spreads_its_target_over_all_true_pairs():
    """Two images, two captions true of both, scale 0: every probability is 1/2, the loss is log 2."""
    unit = torch.nn.functional.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert model.matching_loss(unit, unit, torch.tensor(0.0), everything).item() == pytest.approx(0.6931472)
    own = torch.eye(2, dtype=torch.bool)
    assert model.matching_loss(unit, unit, torch.tensor(100.0), own) < model.matching_loss(
        unit, unit.flip(0), torch.tensor(100.0), own
    )


def test_missing_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(BackboneError, match=r"python jobs/pretrain\.py"):
        model.load_model(tmp_path / "none.safetensors")


def test_weights_that_are_too_large_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "MAX_WEIGHT_BYTES", 1)
    vocabulary = model.Vocabulary(["one"])
    with pytest.raises(BackboneError, match=r"the weights compress to \d+ bytes, more than 1; train fewer tokens"):
        model.export_weights(model.build_model(len(vocabulary)).state_dict(), vocabulary, tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(tmp_path):
    config = trainer.PretrainConfig(out=str(tmp_path), steps=4)
    with pytest.raises(ConfigError, match="nothing to resume"):
        trainer.check_resume(tmp_path, config, resume=True)
    parts = dict.fromkeys(loop.PARTS) | {"recipe": config.same_recipe() | {"seed": 5}}
    torch.save(parts, tmp_path / loop.CHECKPOINT)
    with pytest.raises(ConfigError, match="add --resume"):
        trainer.check_resume(tmp_path, config, resume=False)
    with pytest.raises(ConfigError, match="seed 5 -> 0"):
        trainer.check_resume(tmp_path, config, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / loop.CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="is damaged or not a checkpoint"):
        trainer.check_resume(tmp_path, trainer.PretrainConfig(out=str(tmp_path), steps=4), resume=True)
    torch.save(dict.fromkeys(loop.PARTS - {"model"}), tmp_path / loop.CHECKPOINT)
    with pytest.raises(ConfigError, match="is not a checkpoint of this job: it lacks model"):
        trainer.check_resume(tmp_path, trainer.PretrainConfig(out=str(tmp_path), steps=4), resume=True)


def job(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be positive, got 0"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--steps", "5", "--resume"], "nothing to resume"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(arguments, message, tmp_path):
    process = job("--out", tmp_path, *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_each_worker_gets_a_gpu_where_there_are_enough():
    config = trainer.PretrainConfig(out="unused", workers=2, threads=3)
    few, enough = trainer.scaling(config, gpus=1), trainer.scaling(config, gpus=2)
    assert (few.use_gpu, few.num_workers, few.resources_per_worker) == (False, 2, {"CPU": 3})
    assert (enough.use_gpu, enough.num_workers, enough.resources_per_worker) == (True, 2, {"CPU": 3, "GPU": 1})


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_stopped_run_resumes_and_exports_what_an_uninterrupted_one_does(tmp_path):
    """The job continues from what the uninterrupted run wrote after two of three steps.

    It does so in another process, where strings have other hashes.
    """
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    config = trainer.PretrainConfig(out=str(straight), steps=3, batch=8, report_every=2, checkpoint_every=2)

    def keep_the_second_step(record):
        if record["step"] == 2:
            shutil.copytree(straight, stopped)

    loop.train(config, 0, torch.device("cpu"), distribute=lambda encoder: encoder, report=keep_the_second_step)
    assert loop.read_checkpoint(stopped)["step"] == 2
    resumed = job("--out", stopped, "--resume", "--steps", 3, "--batch", 8, "--report-every", 1)
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert re.findall(r"step \d+ \(\d+%\)", errors) == ["step 3 (100%)"]
    assert json.loads(output)["compressed_bytes"] <= model.MAX_WEIGHT_BYTES
    one, other = (loop.read_checkpoint(folder)["average"] for folder in (straight, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)
    vocabulary = model.Vocabulary(captions.vocabulary())
    model.export_weights(one, vocabulary, straight / model.WEIGHTS.name)
    assert (straight / model.WEIGHTS.name).read_bytes() == (stopped / model.WEIGHTS.name).read_bytes()
