"""Encoding images ahead of the federations that need them."""

import numpy as np
import pytest
from PIL import Image

from promptfleet.data.feature_store import open_store


@pytest.mark.slow
def test_a_folder_of_images_is_encoded_once(tmp_path, run_here):
    def job(*arguments):
        status, out, _ = run_here("encode.py", *arguments)
        assert status == 0
        *files, summary = out.splitlines()
        return {line.split()[0]: line.split()[1:] for line in files}, summary

    for index in range(6):
        path = tmp_path / "data/images/train" / ("cat" if index < 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 40 * index, np.uint8)).save(path)
    wanted = ["dataset=imagefolder", "data.folder=images", "features.views=2", "runtime.backend=local"]
    arguments = [part for setting in wanted for part in ("--set", setting)]

    files, summary = job(*arguments)
    assert files["features"][1:5] == ["6", "x", "128", "float32"]
    assert files["views"][1:7] == ["6", "x", "2", "x", "128", "float32"]
    assert summary.startswith("6 images of imagefolder with glyph-clip: ")
    assert summary.endswith(" images/s")
    store = open_store(features=files["features"][0], views=files["views"][0])
    assert store.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert np.allclose(np.linalg.norm(store.features, axis=1), 1, atol=1e-6)

    assert job(*arguments) == (files, "6 images of imagefolder with glyph-clip: all of it was there")
