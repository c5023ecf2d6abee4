import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from promptfleet.data.views import AREA, RATIO, _crop, random_views
from promptfleet.seeding import stream


def pixels(image: Image.Image, sample: int, views: int) -> list[list]:
    return [np.asarray(view).tolist() for view in random_views(image, sample, views, 16)]


def test_views_depend_on_the_sample_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8))
    four = pixels(image, 7, 4)
    assert pixels(image, 7, 2) == four[:2]
    assert pixels(image, 8, 4) != four
    assert len({str(view) for view in four}) == 4
    assert np.shape(four) == (4, 16, 16, 3)


def test_about_half_of_the_views_are_mirrored():
    ramp = Image.fromarray(np.tile(np.arange(0, 200, 5, dtype=np.uint8), (40, 1)))
    mirrored = [view[0][0][0] > view[0][-1][0] for view in pixels(ramp, 0, 400)]
    assert 160 < sum(mirrored) < 240


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), sample=st.integers(0, 99))
def test_crops_lie_in_the_image_and_have_an_allowed_shape(width, height, sample):
    left, top, crop_width, crop_height = _crop(width, height, stream(0, "test", sample=sample))
    assert 0 <= left <= left + crop_width <= width
    assert 0 <= top <= top + crop_height <= height
    assert crop_width > 0 < crop_height
    assert (crop_width - 0.5) * (crop_height - 0.5) <= width * height * AREA[1]
    assert (crop_width - 0.5) / (crop_height + 0.5) <= RATIO[1]
    assert (crop_width + 0.5) / (crop_height - 0.5) >= RATIO[0]
