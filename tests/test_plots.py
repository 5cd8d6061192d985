"""Pictures are looked at; what can be counted in them is counted here."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mnistlab.plots import show_matrix


@pytest.fixture(autouse=True)
def figures_stay_here(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def test_a_matrix_never_rounds_to_none_or_all_what_is_not():
    show_matrix([[0, 0.001, 0.5], [1, 0.999, np.nan]], ["a", "b"], ["x", "y", "z"])
    texts = [text.get_text() for text in plt.gca().texts]
    assert texts == ["0", "1", "50", "100", "99"]
