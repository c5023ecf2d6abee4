import numpy as np
import pytest
import torch

from promptfleet.data.feature_store import NONE, FeatureStore
from promptfleet.features.stored_images import images_of
from promptfleet.methods.parts.prompts import local_batches
from promptfleet.methods.protocol import Examples, Images, Needs
from tests.fakes import tiny_task, tiny_world

CPU = torch.device("cpu")


@pytest.fixture
def store() -> FeatureStore:
    rng = np.random.default_rng(0)
    patches = rng.random((6, 4, 3), dtype=np.float32).astype(np.float16)
    features, views = rng.random((6, 3), dtype=np.float32), rng.random((6, 2, 3), dtype=np.float32)
    none = np.full(6, NONE)
    return FeatureStore(features, np.zeros(6, np.int64), none, none, {}, patches, views)


def test_patches_are_read_when_asked_for_and_as_float32(store):
    rows = np.array([4, 0, 5])
    images = images_of(store, rows, Needs.PATCHES, CPU)
    wanted = torch.from_numpy(store.patches.astype(np.float32))
    assert images.patches.dtype == torch.float32
    assert torch.equal(images.patches, wanted[rows])
    chosen = images[torch.tensor([2, 1])]
    assert type(chosen) is Images
    assert torch.equal(chosen.patches, wanted[[5, 0]])
    assert torch.equal(chosen.features, torch.from_numpy(store.features[[5, 0]]))
    store.patches[4] = 0
    assert (images.patches[0] == 0).all()  # nothing was kept


def test_methods_of_global_features_touch_no_patches(store):
    assert images_of(store, np.array([1]), Needs.GLOBAL, CPU).patches is None


def test_views_are_for_training_only(store):
    assert images_of(store, np.array([1]), Needs.GLOBAL, CPU).views is None
    images = images_of(store, np.array([1, 3]), Needs.GLOBAL, CPU, with_views=True)
    assert torch.equal(images.views, torch.from_numpy(store.views[[1, 3]]))
    assert images[torch.tensor([1])].views.shape == (1, 2, 3)


def test_each_epoch_draws_a_view_per_example(store):
    world = tiny_world(local_epochs=40, batch_size=4)
    views = torch.from_numpy(store.views)
    examples = Examples(Images(torch.from_numpy(store.features), views=views), torch.arange(6))

    def batches(seed: int) -> list[Examples]:
        return list(local_batches(tiny_task(world, train=examples, seed=seed)))

    drawn = []
    for batch in batches(0):
        assert batch.images.views is None
        for features, label in zip(batch.images.features, batch.labels, strict=True):
            (view,) = [view for view in range(2) if torch.equal(features, views[label, view])]
            drawn.append((int(label), view))
    counts = np.array([[drawn.count((label, view)) for view in range(2)] for label in range(6)])
    assert (counts.sum(axis=1) == 40).all()
    assert counts.min() > 8
    first, again, other = (torch.cat([batch.images.features for batch in batches(seed)]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
