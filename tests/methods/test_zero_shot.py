import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from promptfleet.clip.backbone import load_backbone
from promptfleet.config import BackboneConfig
from promptfleet.data.datasets.digits import CLASS_NAMES, TEMPLATES, load
from promptfleet.federation.prepare import prepare
from promptfleet.federation.settings import federation_config
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Images, Message, World
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, tiny_federation


@pytest.mark.slow  # imports what reads images, and encodes all digits where nobody has yet
def test_it_is_open_clips_own_zero_shot_on_the_same_images(tmp_path):
    config = federation_config({"method": "zero_shot", "storage": {"path": str(tmp_path)}})
    prepared, model = prepare(config), load_backbone(BackboneConfig()).model
    dataset, chosen = load(), range(0, 1797, 9)
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    pixels = torch.stack([transform(dataset.read_image(index)) for index in chosen])
    with torch.no_grad():
        features = model.encode_image(pixels, normalize=True)
        templates = [template.format for template in TEMPLATES]
        classifier = open_clip.build_zero_shot_classifier(model, open_clip.tokenize, CLASS_NAMES, templates)
        wanted = model.logit_scale.exp() * features @ classifier
    world = World(config, prepared.clip, prepared.class_names)
    logits = load_method("zero_shot").predict(tiny_task(world, {}, Message({})), Images(features))
    assert torch.allclose(logits, wanted, atol=1e-4)
    accuracy = (logits.argmax(dim=1).numpy() == dataset.labels[chosen]).mean()
    assert accuracy > 0.7  # chance is 0.1


def test_nothing_is_kept_and_nothing_is_sent():
    fed = tiny_federation("zero_shot").run([ALL, [1]])
    assert fed.server.state == {}
    assert all(private == {} for private in fed.privates.values())
    report = fed.clients[0].train(1, {}, fed.download(0)).report
    assert (report.uploaded_bytes, report.downloaded_bytes, report.metrics) == (0, 0, {})


@pytest.mark.parametrize("other", [{"seed": 5}, {"prompt_length": 5}, {"class_specific_context": True}], ids=str)
def test_nothing_about_prompts_or_seeds_changes_it(other):
    fed = tiny_federation("zero_shot", **other)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    assert torch.equal(fed.logits(0), 20.0 * features @ fed.world.clip.zero_shot_text.T)
