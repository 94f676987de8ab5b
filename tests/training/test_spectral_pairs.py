from __future__ import annotations

import numpy as np
import pytest

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import CropSpec
from trackctl.training.data.spectral import SpectralPairs, SpectralSpec

CROP = CropSpec()


def pairs(seed: int = 0, **options) -> SpectralPairs:
    return SpectralPairs(SpectralSpec(**{"worlds": 2, "size": (160, 128), "bands": 9, **options}), CROP, seed=seed)


@pytest.mark.parametrize(("view", "channels"), [("bands", 9), ("luminance", 9), ("pca", 3)])
def test_a_pair_is_determined_by_seed_and_number(view: str, channels: int) -> None:
    one, again, other = pairs(view=view), pairs(view=view), pairs(seed=1, view=view)
    for number in (3, 0, 7):
        first, second = one[number], again[number]
        assert first.template.shape == (channels, 127, 127)
        assert first.search.shape == (channels, 255, 255)
        assert first.search.dtype == np.uint8
        np.testing.assert_array_equal(first.template, second.template)
        np.testing.assert_array_equal(first.search, second.search)
        np.testing.assert_array_equal(first.box_xyxy, second.box_xyxy)
        assert not np.array_equal(first.search, other[number].search)


def test_luminance_has_one_level_for_all_bands() -> None:
    search = pairs(view="luminance")[0].search
    assert (search == search[:1]).all()
    bands = pairs()[0].search
    assert not (bands == bands[:1]).all()


def test_the_box_holds_what_has_the_templates_spectrum() -> None:
    """Equal luminance: in the search patch, the spectrum of the template's middle is found in the box and hardly outside."""
    drawn = pairs(equal=1.0, negatives=0.0, spectra=None)
    hits, false = [], []
    for number in range(12):
        pair = drawn[number]
        assert pair.positive
        own = pair.template[:, 58:69, 58:69].reshape(9, -1).astype(float).mean(axis=1)
        search = pair.search.reshape(9, -1).astype(float)
        cosine = own @ search / np.linalg.norm(own) / np.maximum(np.linalg.norm(search, axis=0), 1e-6)
        alike = (cosine > np.cos(0.1)).reshape(255, 255)
        left, top, right, bottom = np.clip(np.rint(pair.box_xyxy), 0, 255).astype(int)
        inside = np.zeros((255, 255), bool)
        inside[top:bottom, left:right] = True
        hits.append(alike[inside].mean() if inside.any() else 1.0)
        false.append(alike[~inside].mean())
    assert np.median(hits) > 3 * np.median(false) + 0.1


def test_negatives_are_as_many_as_asked_for() -> None:
    assert not any(pairs(negatives=1.0)[number].positive for number in range(4))
    assert all(pairs(negatives=0.0)[number].positive for number in range(4))


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(InputError, match="bands, luminance, pca"):
        SpectralSpec(view="grey")  # type: ignore[arg-type]
