"""What evaluation promises: the figures of scikit-learn, and an untouched model."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from mnistlab.evaluation import Report, evaluate, predict_logits, softmax
from mnistlab.models import build
from mnistlab.preprocess import normalize


@pytest.fixture
def report():
    """400 guesses of which about half are right: too sure, and too unsure."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (400, 10)).astype(np.float32)
    labels = np.where(rng.random(400) < 0.5, logits.argmax(1), rng.integers(0, 10, 400))
    return Report(logits, labels, "a test")


def test_the_figures_are_scikit_learn_s(report):
    y, guess = report.labels, report.logits.argmax(1)
    assert report.accuracy == metrics.accuracy_score(y, guess)
    np.testing.assert_array_equal(report.confusion, metrics.confusion_matrix(y, guess))
    recall = metrics.recall_score(y, guess, average=None)
    np.testing.assert_allclose(report.per_class, recall)
    loss = metrics.log_loss(y, softmax(report.logits.astype(float)))
    assert report.loss == pytest.approx(loss)


def test_calibration_error_is_the_mean_gap_over_fifteen_bins(report):
    confidence, expected = report.probabilities.max(1), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            difference = report.correct[inside].mean() - confidence[inside].mean()
            expected += inside.mean() * abs(difference)
    assert report.calibration_error == pytest.approx(expected, abs=1e-6)


def test_the_worst_are_mistakes_and_the_most_confident_come_first(report):
    worst = report.worst(1000)
    assert sorted(worst) == np.flatnonzero(~report.correct).tolist()
    assert (np.diff(report.probabilities.max(1)[worst]) <= 0).all()
    np.testing.assert_array_equal(report.worst(5), worst[:5])


def test_large_logits_give_probabilities_and_a_finite_loss():
    logits = np.float32([[1e4] + [0] * 9, [0] * 10])
    np.testing.assert_allclose(softmax(logits), [[1] + [0] * 9, [0.1] * 10], rtol=1e-6)
    loss = Report(logits[:1], np.array([1]), "").loss
    assert loss == pytest.approx(12 * math.log(10))


def test_a_report_names_its_source_and_its_number_of_images_and_classes(report):
    third = Report(report.logits[:3], report.logits[:3].argmax(1), "a test")
    third.labels[0] = 3
    assert third.summary == {"accuracy": 0.66667, "n": 3, "source": "a test"}
    assert str(third).startswith("66.67% of 3 (a test), loss ")
    assert "3: 0.0%" in str(third) and "0: no samples" in str(third)
    assert np.isnan(third.per_class[0]) and "no samples" not in str(report)
    assert "array" not in repr(report)


def test_bytes_and_normalised_floats_give_the_same_logits(digits):
    model = build("FastCNN")
    logits = predict_logits(model, digits.images)
    floats = predict_logits(model, normalize(digits.images))
    np.testing.assert_array_equal(logits, floats)
    with torch.no_grad():
        last = model.eval()(torch.from_numpy(normalize(digits.images[-1:]))[:, None])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[-1:], last, atol=1e-5)


def test_evaluating_is_repeatable_and_leaves_the_model_as_it_was(digits):
    model = build("ImprovedCNN").train()
    model[1].eval()  # somebody froze one batch norm
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (evaluate(model, digits).logits for _ in range(2))
    hook = model[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, digits)
    hook.remove()
    assert modes == [module.training for module in model.modules()]
    assert torch.is_grad_enabled()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name  # running statistics, too
    np.testing.assert_array_equal(first, second)
    model.eval()[1].train()  # or woke it
    np.testing.assert_array_equal(first, predict_logits(model, digits.images))
    assert model[1].training and not model.training


def test_other_images_or_none_are_refused(digits):
    for images in np.zeros((2, 784), np.uint8), np.zeros((2, 28, 28)):
        with pytest.raises(ValueError, match="expected uint8"):
            predict_logits(build("Linear"), images)
    with pytest.raises(ValueError, match="no images"):
        evaluate(build("Linear"), digits.take(slice(0)))
