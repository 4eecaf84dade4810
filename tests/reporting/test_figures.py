import re

import numpy as np
import pytest

from elcrec_tf.reporting import figures
from elcrec_tf.reporting.figures import Curve
from elcrec_tf.reporting.maps import UserMap


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    centers = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    return {
        "lines": figures.line_chart("Loss", [Curve("total", [1, 2], [3.0, 2.5]), Curve("_next $item", [1, 2], [2.0, 1.5], 1)], mark=2),
        "sizes": figures.size_chart(np.array([3, 0, 5])),
        "map": figures.user_map(UserMap("best model", rng.normal(size=(30, 2)), rng.integers(0, 5, 30)), [3, 1]),
        "centers": figures.center_map(centers, np.arange(5)),
    }


@pytest.mark.parametrize("name", ["lines", "sizes", "map", "centers"])
def test_a_picture_fits_any_width_and_any_page(pictures, name):
    text = pictures[name]
    head = text[: text.index(">")]
    assert re.fullmatch(r'<svg viewBox="[\d. ]+" role="img" aria-label="[^"<]+"', head)
    assert "currentColor" in text
    assert "#123456" not in text
    assert "http" not in text
    references = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    assert references <= set(re.findall(r'id="([^"]+)"', text))
    assert len(re.findall(r'id="', text)) == len(set(re.findall(r'id="([^"]+)"', text)))


def test_a_picture_tells_its_numbers_and_shows_labels_as_they_are(pictures):
    assert "Loss over epoch: total from 3 to 2.5; _next $item from 2 to 1.5" in pictures["lines"]
    assert re.search(r">\u200b?_next \$item</text>", pictures["lines"])
    assert "Sizes of 3 intents: from 62.5% to 0.0% of the users, equal 33.3%" in pictures["sizes"]


def test_the_same_figure_gives_the_same_text():
    curves = [Curve("loss", [1, 2, 3], [3.0, 2.0, 1.0])]
    assert figures.line_chart("a", curves) == figures.line_chart("a", curves)


def test_a_curve_of_one_epoch_is_a_point():
    assert "<use" in figures.line_chart("a", [Curve("loss", [1], [2.0])])
