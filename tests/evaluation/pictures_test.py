import base64
import io

import numpy as np
import PIL.Image

from mmjax.evaluation import pictures


def test_a_thumbnail_is_a_small_jpeg_of_the_same_form():
    image = np.zeros((300, 600, 3), np.uint8)
    image[:, 300:] = (250, 10, 10)
    data = base64.b64decode(pictures.thumbnail(image), validate=True)
    with PIL.Image.open(io.BytesIO(data)) as small:
        assert (small.format, small.size) == ("JPEG", (96, 48))
        red, green, _ = np.asarray(small)[24, 80]
    assert red > 230
    assert green < 30


def test_one_pixel_is_a_picture_too():
    assert pictures.thumbnail(np.zeros((1, 1, 3), np.uint8))


def test_samples_without_picture_get_no_thumbnail(random_context):
    context = random_context(samples=4)
    object.__setattr__(context, "sample", lambda position: {"captions": ()})
    assert pictures.thumbnails(context, [0, 2]) == {}


def test_places_are_spread_evenly():
    assert pictures.spread(100, 4) == [0, 25, 50, 75]
    assert pictures.spread(3, 10) == [0, 1, 2]
    assert pictures.spread(0, 5) == []


def test_long_captions_are_cut():
    assert len(pictures.shorten("x" * 1_000_000)) == pictures.CAPTION_LENGTH
    assert pictures.shorten("short") == "short"
