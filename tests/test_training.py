"""What fit promises: it learns, it repeats itself, it keeps the best, it can stop."""

import math
import re

import numpy as np
import pytest
import torch

from mnistlab import training
from mnistlab.evaluation import evaluate
from mnistlab.models import build
from mnistlab.preprocess import normalize
from mnistlab.training import fit, has_bfloat16, one_cycle, random_affine

CLASSICAL = dict(optimizer="adam", lr=1e-3, schedule=None, label_smoothing=0.0)


def new(name="MLP", **arguments):
    torch.manual_seed(0)
    return build(name, **arguments)


def quick(model, train, validation=None, **settings):
    usual = {"batch_size": 50, "bfloat16": False, "progress": False}
    return fit(model, train, validation, **{**usual, **settings})


def same_weights(a, b) -> bool:
    weights = b.state_dict()
    return all(torch.equal(w, weights[name]) for name, w in a.state_dict().items())


@pytest.fixture(scope="module")
def halves(digits):
    return digits.take(slice(100)), digits.take(slice(100, 200))


@pytest.mark.parametrize("augment", [None, random_affine])
def test_a_last_batch_of_one_image_is_no_trouble(digits, augment):
    history = quick(new("FastCNN"), digits.take(slice(51)), epochs=2, augment=augment)
    assert history.stopped == "all epochs done"


# --- learning -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings, sure",
    [
        ("FastCNN", {}, 0.91),
        ("FastCNN", {"bfloat16": True}, 0.91),
        ("FastCNN", {"optimizer": "muon", "lr": 0.02}, 0.91),
        ("FastCNN", CLASSICAL, 1),
        ("MLP", CLASSICAL, 1),
        ("MLP", {"label_smoothing": 0.5}, 0.55),
    ],
)
def test_32_images_are_learnt_by_heart_and_as_surely_as_told(
    digits, name, settings, sure
):
    few, model = digits.take(slice(32)), new(name)
    quick(model, few, **{"epochs": 60, "batch_size": 32} | settings)
    report = evaluate(model, few)
    assert report.accuracy == 1
    assert report.confidence == pytest.approx(sure, abs=0.07)
    assert next(model.parameters()).dtype == torch.float32
    assert has_bfloat16() in (True, False)


def test_the_history_holds_what_evaluate_measures(halves):
    train, validation = halves
    model = new("FastCNN")
    history = quick(model, train, validation, epochs=1)
    for name, digits in {"train": train, "validation": validation}.items():
        report = evaluate(model, digits)
        for figure in ("loss", "accuracy", "confidence"):  # plain, without smoothing
            (found,) = getattr(history, f"{name}_{figure}")
            assert found == pytest.approx(getattr(report, figure), rel=1e-4)
    assert (history.best_epoch, history.stopped) == (1, "all epochs done")


def test_training_figures_are_of_random_images_as_many_as_there_are_to_validate(
    digits, monkeypatch
):
    measured = []
    monkeypatch.setattr(
        training, "evaluate", lambda m, d: measured.append(d) or evaluate(m, d)
    )
    by_class = digits.take(np.argsort(digits.labels))  # some data sets are
    quick(new(), by_class, digits.take(slice(20)), epochs=1)
    assert [len(some) for some in measured] == [20, 20]
    assert len(set(measured[0].labels)) > 5


def test_without_validation_the_same_is_learnt_and_nothing_measured(halves):
    model, measured = new("FastCNN"), new("FastCNN")
    history = quick(model, halves[0], epochs=1)
    assert (history.validation_accuracy, history.best_epoch) == ((), 0)
    quick(measured, *halves, epochs=1)
    assert same_weights(model, measured) and not same_weights(model, new("FastCNN"))


# --- the loop -----------------------------------------------------------------------


def test_every_epoch_shows_every_image_once_in_another_order(digits):
    model, batches = new().eval(), []  # as after an earlier fit

    def watch(batch, generator):
        assert model.training and isinstance(generator, torch.Generator)
        batches.append(batch.clone())
        return batch

    quick(model, digits, digits.take(slice(10)), epochs=2, batch_size=64, augment=watch)
    assert [len(batch) for batch in batches] == [64, 64, 64, 8] * 2
    first, second = torch.cat(batches[:4]), torch.cat(batches[4:])
    assert not torch.equal(first, second)
    every = sorted(image.tobytes() for image in normalize(digits.images))
    for epoch in (first, second):
        assert sorted(image.numpy().tobytes() for image in epoch) == every
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("epochs, steps", [(0.5, 5), (1, 10), (2.3, 23), (1e-9, 1)])
@pytest.mark.parametrize(
    "settings, kind, betas, share",
    [
        ({"lr": 0.01}, torch.optim.AdamW, (0.8, 0.95), one_cycle),
        (CLASSICAL, torch.optim.Adam, (0.9, 0.999), lambda _: 1),
    ],
)
def test_the_learning_rate_follows_its_schedule_for_a_fraction_of_epochs(
    digits, monkeypatch, settings, kind, betas, share, epochs, steps
):
    rates, made = [], []
    for name, make in training.OPTIMIZERS.items():

        def keep(weights, lr, make=make):
            made.append(make(weights, lr=lr))
            return made[-1]

        monkeypatch.setitem(training.OPTIMIZERS, name, keep)

    def watch(batch, generator):
        rates.append(made[0].param_groups[0]["lr"])
        return batch

    settings = {"epochs": epochs, "batch_size": 20, "augment": watch, **settings}
    quick(new("Linear"), digits, **settings)
    assert type(made[0]) is kind and made[0].param_groups[0]["betas"] == betas
    expected = [settings["lr"] * share(i / steps) for i in range(steps)]
    assert rates == pytest.approx(expected)


def test_muon_moves_rare_directions_nearly_as_far_as_common_ones():
    torch.manual_seed(0)
    weights = [torch.zeros(shape) for shape in [(8, 3, 2, 2), (8,), (16, 8), (10, 16)]]
    optimizer = training.OPTIMIZERS["muon"](weights, lr=0.01)
    for weight in weights:  # each direction twice as common as the next
        u, _, v = torch.linalg.svd(torch.randn(len(weight), weight[0].numel()))
        n = min(len(u), len(v))
        gradient = u[:, :n] * 0.5 ** torch.arange(n) @ v[:n]
        weight.grad = gradient.reshape(weight.shape)
    optimizer.step()
    filters, bias, matrix, last = weights
    for weight, tall in ((filters.flatten(1), 1), (matrix, 2**0.5)):
        moved = torch.linalg.svdvals(weight) / (20 * 0.01 * tall)
        assert 0.7 < moved.max() < 1.2 and moved.max() < 16 * moved.min()  # of 128
        assert (moved[:4] > 0.6).all()
    for weight in (bias, last):  # AdamW's first step is the rate itself
        torch.testing.assert_close(weight.abs(), torch.full_like(weight, 0.01))


def test_a_dead_units_momentum_becomes_0_and_never_so_small_that_it_is_slow():
    weights = [torch.zeros(4, 3), torch.zeros(2, 4)]
    optimizer = training.OPTIMIZERS["muon"](weights, lr=0.01)
    (momentum,) = optimizer.momenta
    for step in range(200):
        weights[0].grad, weights[1].grad = torch.ones(4, 3), torch.ones(2, 4)
        weights[0].grad[1] *= step == 0
        optimizer.step()
        squares = momentum.double()[momentum != 0] ** 2
        assert squares.min() > torch.finfo(torch.float32).tiny
    assert (momentum[1] == 0).all() and (momentum[[0, 2, 3]] > 2).all()


def test_the_seconds_are_those_of_training_alone_in_all_epochs(halves, monkeypatch):
    clock = iter(range(100))  # each look at it takes a second
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    assert quick(new("Linear"), *halves, epochs=3).seconds == 3


def test_one_cycle_climbs_to_the_peak_and_comes_down_to_nothing():
    share = np.array([one_cycle(p) for p in np.linspace(0, 1, 201)])
    assert 0 < share[0] < 0.02 and share[-1] == pytest.approx(0, abs=1e-9)
    assert share.argmax() == 30 and share.max() == pytest.approx(1, abs=0.01)
    assert (np.diff(share[:31]) > 0).all() and (np.diff(share[30:]) < 0).all()


def test_the_same_seed_gives_the_same_weights_bit_for_bit(digits):
    def trained(seed=0, drawn_before=0):
        model = new(hidden=32, dropout=0.5)
        torch.rand(drawn_before)
        state = torch.get_rng_state()
        quick(model, digits, epochs=2, augment=random_affine, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)  # it is left alone
        return model

    first = trained()
    assert same_weights(first, trained(drawn_before=7))
    assert not same_weights(first, trained(seed=1))


# --- the end ------------------------------------------------------------------------


def after(calls, effect):
    """An augmentation that has an effect from that call on."""
    count = iter(range(10_000))
    return lambda batch, _: effect(batch) if next(count) >= calls else batch


def interrupt(batch):
    raise KeyboardInterrupt


def spoil(batch):
    return -20 * batch.flip(0)  # each image with another one's label


def test_the_best_weights_are_kept_although_training_goes_on(halves):
    model = new("FastCNN")
    history = quick(model, *halves, epochs=8, augment=after(8, spoil), **CLASSICAL)
    accuracy = history.validation_accuracy
    assert len(accuracy) == 8 and history.best_epoch == 1 + int(np.argmax(accuracy))
    assert accuracy[-1] < max(accuracy)  # so the last weights are others
    report, best = evaluate(model, halves[1]), history.best_epoch - 1
    assert report.accuracy == accuracy[best]
    assert report.loss == pytest.approx(history.validation_loss[best], rel=1e-4)


def test_of_equal_epochs_the_first_is_the_best(digits):
    few = digits.take(slice(20))
    history = quick(new(), few, few, epochs=40, **CLASSICAL)
    assert history.validation_accuracy.count(1.0) > 1
    assert history.best_epoch == history.validation_accuracy.index(1.0) + 1


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_it_that_many_epochs_after_the_best(halves, patience):
    settings = {"patience": patience, "augment": after(8, spoil), **CLASSICAL}
    history = quick(new(), *halves, epochs=50, **settings)
    assert len(history.validation_accuracy) == history.best_epoch + patience < 50
    assert history.stopped == f"no better for {patience} epochs"


@pytest.mark.parametrize("steps, epochs", [(1, 0), (7, 3)])
def test_the_interrupt_key_leaves_the_best_weights_and_a_usable_history(
    halves, steps, epochs
):
    model, augment = new(), after(steps, interrupt)
    history = quick(model, *halves, epochs=9, augment=augment, **CLASSICAL)
    assert history.stopped == "interrupted" and not model.training
    assert len(history.train_loss) == len(history.validation_accuracy) == epochs
    report = evaluate(model, halves[1])
    assert np.isfinite(report.loss)
    assert not epochs or report.accuracy == max(history.validation_accuracy)


def test_a_loss_that_is_no_number_is_an_error_and_the_best_weights_stay(halves):
    model, twin = new(), new()
    lost = after(5, lambda batch: batch * math.nan)
    with pytest.raises(FloatingPointError) as caught:
        quick(model, *halves, epochs=9, augment=lost, **CLASSICAL)
    history = quick(twin, *halves, epochs=9, augment=after(4, interrupt), **CLASSICAL)
    told = f"nan in step 6 of 18. Lower the .*0.001.* epoch {history.best_epoch}\\."
    assert re.search(told, str(caught.value))
    assert same_weights(model, twin)
    with pytest.raises(FloatingPointError, match="no good weights: build it anew"):
        quick(new(), halves[0], epochs=9, **{**CLASSICAL, "lr": 1e30})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "'epochs': 0.*above 0"),
        ({"batch_size": 0}, "'batch_size': 0"),
        ({"lr": -0.1}, "'lr': -0.1"),
        ({"patience": 0}, "patience=0"),
        ({"optimizer": "sgdx"}, r"'sgdx'.*\['adamw', 'adam', 'muon'"),
        ({"schedule": "cosine"}, "'cosine'.*'one-cycle' or None"),
    ],
)
def test_impossible_settings_and_no_images_are_named(digits, settings, message):
    model, none = new("Linear"), digits.take(slice(0))
    with pytest.raises(ValueError, match=message):
        quick(model, digits, **settings)
    assert same_weights(model, new("Linear"))
    for sets in (none,), (digits, none):
        with pytest.raises(ValueError, match="no images to train on, or to validate"):
            quick(model, *sets)


# --- augmentation -------------------------------------------------------------------


@pytest.fixture
def batch(digits):
    return torch.from_numpy(normalize(digits.images))[:, None]


def moved(batch, seed=0, **settings):
    return random_affine(batch, torch.Generator().manual_seed(seed), **settings)


def test_half_of_a_batch_is_moved_and_the_rest_is_untouched(batch):
    result = moved(batch)
    assert (result.shape, result.dtype) == (batch.shape, batch.dtype)
    assert torch.equal(result[100:], batch[100:])
    assert (result[:100] != batch[:100]).flatten(1).any(1).all()
    assert torch.equal(moved(batch[:1]), batch[:1])  # half of one is none
    assert torch.equal(moved(batch), result)  # the generator alone decides how
    assert not torch.equal(moved(batch, seed=1), result)


def test_paper_stays_paper_and_ink_gets_no_brighter(batch):
    result = moved(batch, share=1, shift_px=6)
    assert result.amin().item() == pytest.approx(batch.amin().item(), abs=1e-5)
    assert result.amax().item() <= batch.amax().item() + 1e-5
    blank = torch.full((4, 1, 28, 28), batch.amin().item())
    torch.testing.assert_close(moved(blank, share=1, shift_px=6), blank)


def test_each_movement_is_as_large_as_it_says(batch):
    """Ink is kept by a turn and a shift, the centre by a turn and a scale."""

    def measure(**settings):
        still = {"degrees": 0, "scale": 0, "shear": 0, "shift_px": 0, "share": 1}
        images = moved(batch, **still | settings)
        ink = (images - images.amin())[:, 0]
        mass, axis = ink.sum((1, 2)), torch.arange(28.0)
        centre = torch.stack([ink.sum(2) @ axis, ink.sum(1) @ axis], 1)
        return images, mass, centre / mass[:, None]

    images, mass, centre = measure()
    torch.testing.assert_close(images, batch, atol=1e-4, rtol=0)
    shift = (measure(shift_px=2)[2] - centre).abs()
    assert 1.8 < shift.max() < 2.02 and shift.mean() == pytest.approx(1, abs=0.15)
    _, scaled, same_centre = measure(scale=0.1)
    assert (same_centre - centre).abs().max() < 0.3
    ratio = scaled / mass
    assert 0.78 < ratio.min() < 0.9 and 1.1 < ratio.max() < 1.28
    torch.testing.assert_close(measure(degrees=10)[1], mass, rtol=0.02, atol=0)
