import torch

from promptfleet.methods.parts.prompts import encode_frozen
from promptfleet.methods.parts.side_by_side import run_alone
from tests.fakes import tiny_task
from tests.tiny_federation import ALL, tiny_federation

COHORTS = [ALL, [0, 3]]


def test_the_server_sees_promptfl():
    tuned, promptfl = (tiny_federation(name).run(COHORTS) for name in ("promptfl_ft", "promptfl"))
    assert tuned.sha256() == promptfl.sha256()
    for i in ALL:
        assert not torch.allclose(tuned.logits(i), promptfl.logits(i), atol=1e-3)


def test_without_epochs_it_predicts_as_promptfl():
    tuned = tiny_federation("promptfl_ft", finetune_epochs=0).run(COHORTS)
    promptfl = tiny_federation("promptfl").run(COHORTS)
    for i in ALL:
        assert torch.allclose(tuned.logits(i), promptfl.logits(i), rtol=0, atol=1e-5)
        evaluations = [fed.clients[i].evaluate(2, fed.privates[i], fed.download(i)) for fed in (tuned, promptfl)]
        assert evaluations[0] == evaluations[1]


def test_a_client_tunes_the_global_prompt_as_it_would_train_it():
    fed = tiny_federation("promptfl_ft", finetune_epochs=2).run([ALL])  # as many as local_epochs
    given = fed.world, {}, fed.download(1), fed.examples(1)
    tuned = run_alone(fed.world, fed.method.personalize(tiny_task(*given, seed=3)), "personalize")
    update = run_alone(fed.world, fed.method.local_update(tiny_task(*given, seed=3)))
    assert torch.equal(tuned["text"], encode_frozen(fed.world, update.upload.tensors["context"]))
    assert tuned.keys() == {"context", "text"}


def test_fitting_its_own_examples_better_is_what_it_is_for():
    fed = tiny_federation("promptfl_ft", finetune_epochs=6).run([ALL])
    download, examples = fed.download(2), fed.examples(2)

    def loss(text):
        return torch.nn.functional.cross_entropy(20.0 * examples.images.features @ text.T, examples.labels)

    task = tiny_task(fed.world, {}, download, examples)
    tuned = run_alone(fed.world, fed.method.personalize(task), "personalize")
    assert loss(tuned["text"]) < loss(download.attached["text"])
