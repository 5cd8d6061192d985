"""What fit promises: it learns, it repeats itself, it keeps the best, it can stop."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from mnistlab import training
from mnistlab.data import Digits
from mnistlab.evaluation import evaluate
from mnistlab.models import build
from mnistlab.preprocess import normalize
from mnistlab.training import fit, has_bfloat16, one_cycle, random_affine

CLASSICAL = dict(optimizer="adam", lr=1e-3, schedule=None, label_smoothing=0.0)


def new(name="FastCNN", **arguments):
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


# --- learning -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings",
    [
        ("MLP", CLASSICAL),
        ("FastCNN", {}),
        ("FastCNN", CLASSICAL),
        ("FastCNN", {"bfloat16": True}),
    ],
)
def test_32_images_are_learnt_by_heart(digits, name, settings):
    few, model = digits.take(slice(32)), new(name)
    quick(model, few, epochs=40, batch_size=32, **settings)
    assert evaluate(model, few).accuracy == 1
    assert next(model.parameters()).dtype == torch.float32
    assert has_bfloat16() in (True, False)


def test_shuffled_labels_are_learnt_and_do_not_carry_over(halves):
    # the control: what is right above comes from the images, not from a leak
    train, validation = halves
    labels = np.random.default_rng(0).permutation(train.labels)
    model = new("MLP")
    quick(model, Digits(train.images, labels, ""), epochs=40, **CLASSICAL)
    assert evaluate(model, Digits(train.images, labels, "")).accuracy > 0.95
    assert evaluate(model, validation).accuracy < 0.4


@pytest.mark.parametrize("smoothing, sure", [(0.0, 1.0), (0.5, 0.55)])
def test_smoothed_labels_are_learnt_as_they_are(digits, smoothing, sure):
    few, model = digits.take(slice(32)), new("MLP")
    quick(model, few, epochs=60, batch_size=32, label_smoothing=smoothing)
    assert evaluate(model, few).confidence == pytest.approx(sure, abs=0.05)


def test_the_history_holds_what_evaluate_measures(halves):
    train, validation = halves
    model = new()
    history = quick(model, train, validation, epochs=1)
    report = evaluate(model, validation)
    assert history.validation_accuracy == (report.accuracy,)
    # plain, without smoothing
    assert history.validation_loss == pytest.approx([report.loss], rel=1e-4)
    assert history.train_loss == pytest.approx([evaluate(model, train).loss], rel=1e-4)
    assert (history.best_epoch, history.stopped) == (1, "all epochs done")
    assert history.seconds > 0


def test_training_figures_are_of_random_images_as_many_as_there_are_to_validate(
    digits, monkeypatch
):
    measured = []
    monkeypatch.setattr(
        training, "evaluate", lambda m, d: measured.append(d) or evaluate(m, d)
    )
    by_class = digits.take(np.argsort(digits.labels))  # some data sets are
    quick(new("Linear"), by_class, digits.take(slice(20)), epochs=1)
    assert [len(some) for some in measured] == [20, 20]
    assert len(set(measured[0].labels)) > 5


def test_without_validation_nothing_is_measured_and_the_last_weights_stay(halves):
    model = new()
    history = quick(model, halves[0], epochs=2)
    assert history.validation_accuracy == history.train_loss == ()
    assert history.best_epoch == 0 and not same_weights(model, new())


# --- the loop -----------------------------------------------------------------------


class Watch:
    """An augmentation that changes nothing and remembers every batch."""

    def __init__(self, model=None):
        self.batches, self.model = [], model

    def __call__(self, batch, generator):
        assert self.model is None or self.model.training
        assert isinstance(generator, torch.Generator)
        self.batches.append(batch.clone())
        return batch


def test_every_epoch_shows_every_image_once_in_another_order(digits):
    model = new().eval()  # as after an earlier fit
    watch = Watch(model)
    quick(model, digits, digits.take(slice(10)), epochs=2, batch_size=64, augment=watch)
    assert [len(batch) for batch in watch.batches] == [64, 64, 64, 8] * 2
    first, second = torch.cat(watch.batches[:4]), torch.cat(watch.batches[4:])
    assert not torch.equal(first, second)
    every = sorted(image.tobytes() for image in normalize(digits.images))
    for epoch in (first, second):
        assert sorted(image.numpy().tobytes() for image in epoch) == every
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("epochs, steps", [(0.5, 5), (1, 10), (2.3, 23), (1e-9, 1)])
def test_epochs_may_be_a_fraction(digits, epochs, steps):
    watch = Watch()
    quick(new("Linear"), digits, epochs=epochs, batch_size=20, augment=watch)
    assert len(watch.batches) == steps


@pytest.mark.parametrize("augment", [None, random_affine])
def test_a_last_batch_of_one_image_is_no_trouble(digits, augment):
    model = new("ImprovedCNN")
    quick(model, digits.take(slice(5)), batch_size=4, epochs=1, augment=augment)
    assert not evaluate(model, digits).logits[0].tolist() == [0] * 10


@pytest.fixture
def optimizers(monkeypatch):
    """Every optimizer that fit makes, in order."""
    made = []
    for name, make in training.OPTIMIZERS.items():

        def keep(weights, lr, make=make):
            made.append(make(weights, lr=lr))
            return made[-1]

        monkeypatch.setitem(training.OPTIMIZERS, name, keep)
    return made


@pytest.mark.parametrize(
    "settings, kind, betas, share",
    [
        ({"lr": 0.01}, "AdamW", (0.8, 0.95), one_cycle),
        (CLASSICAL, "Adam", (0.9, 0.999), lambda _: 1),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    digits, optimizers, settings, kind, betas, share
):
    rates = []

    def watch(batch, generator):
        rates.append(optimizers[0].param_groups[0]["lr"])
        return batch

    quick(new("Linear"), digits, epochs=5, batch_size=20, augment=watch, **settings)
    assert type(optimizers[0]).__name__ == kind
    assert optimizers[0].param_groups[0]["betas"] == betas
    assert rates == pytest.approx([settings["lr"] * share(i / 50) for i in range(50)])


def test_the_seconds_are_those_of_training_alone_in_all_epochs(halves, monkeypatch):
    clock = iter(range(100))  # each look at it takes a second
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    assert quick(new("Linear"), *halves, epochs=3).seconds == 3


def test_one_cycle_climbs_to_the_peak_and_comes_down_to_nothing():
    progress = np.linspace(0, 1, 201)
    share = np.array([one_cycle(p) for p in progress])
    peak = share.argmax()
    assert 0 < share[0] < 0.02 and share[-1] == pytest.approx(0, abs=1e-9)
    assert progress[peak] == pytest.approx(0.15, abs=0.01)
    assert share[peak] == pytest.approx(1, abs=0.01)
    assert (np.diff(share[: peak + 1]) > 0).all() and (np.diff(share[peak:]) < 0).all()


# --- the same again -----------------------------------------------------------------


def trained(digits, seed=0, drawn_before=0):
    model = new("MLP", hidden=32, dropout=0.5)
    torch.rand(drawn_before)
    state = torch.get_rng_state()
    quick(model, digits, epochs=2, augment=random_affine, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)  # it is left alone
    return model


def test_the_same_seed_gives_the_same_weights_bit_for_bit(digits):
    first = trained(digits)
    assert same_weights(first, trained(digits, drawn_before=7))
    assert not same_weights(first, trained(digits, seed=1))


def test_measuring_does_not_change_what_is_learnt(halves):
    measured, not_measured = new(), new()
    assert quick(measured, *halves, epochs=1).best_epoch == 1
    quick(not_measured, halves[0], epochs=1)
    assert same_weights(measured, not_measured)


# --- the end ------------------------------------------------------------------------


def after(calls, effect):
    """An augmentation that has an effect from that call on."""
    count = 0

    def augment(batch, generator):
        nonlocal count
        count += 1
        return effect(batch) if count > calls else batch

    return augment


def interrupt(batch):
    raise KeyboardInterrupt


def spoil(batch):
    return -20 * batch.flip(0)  # each image with another one's label


def not_a_number(batch):
    return batch * math.nan


def test_the_best_weights_are_kept_although_training_goes_on(halves):
    model = new()
    history = quick(model, *halves, epochs=8, augment=after(8, spoil), **CLASSICAL)
    accuracy = history.validation_accuracy
    assert len(accuracy) == 8 and history.best_epoch < 8
    assert accuracy[-1] < max(accuracy)  # so the last weights are others
    assert history.best_epoch == 1 + int(np.argmax(accuracy))
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


def test_the_interrupt_key_leaves_the_best_weights_and_a_usable_history(halves):
    model = new()
    history = quick(model, *halves, epochs=9, augment=after(7, interrupt), **CLASSICAL)
    assert history.stopped == "interrupted"
    assert [len(row) for row in dataclasses.astuple(history)[:6]] == [3] * 6
    best = history.validation_accuracy[history.best_epoch - 1]
    assert best == evaluate(model, halves[1]).accuracy
    assert best == max(history.validation_accuracy) and not model.training


def test_an_interrupt_in_the_first_epoch_leaves_a_model_that_works(halves):
    model = new()
    history = quick(model, *halves, epochs=9, augment=after(1, interrupt))
    told = history.best_epoch, history.validation_loss, history.stopped
    assert told == (0, (), "interrupted")
    assert np.isfinite(evaluate(model, halves[1]).loss)


def test_a_loss_that_is_no_number_is_an_error_and_the_best_weights_stay(halves):
    model, twin = new(), new()
    with pytest.raises(FloatingPointError) as caught:
        quick(model, *halves, epochs=9, augment=after(5, not_a_number), **CLASSICAL)
    history = quick(twin, *halves, epochs=9, augment=after(4, interrupt), **CLASSICAL)
    told = f"nan in step 6 of 18. Lower the .*0.001.* epoch {history.best_epoch}\\."
    assert re.search(told, str(caught.value))
    assert same_weights(model, twin)


def test_a_loss_that_explodes_at_once_leaves_no_good_weights_and_says_so(halves):
    with pytest.raises(FloatingPointError, match="no good weights: build it anew"):
        quick(new("MLP"), halves[0], epochs=9, **{**CLASSICAL, "lr": 1e30})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "'epochs': 0.*above 0"),
        ({"batch_size": 0}, "'batch_size': 0"),
        ({"lr": -0.1}, "'lr': -0.1"),
        ({"patience": 0}, "patience=0"),
        ({"optimizer": "sgdx"}, r"'sgdx'.*\['adamw', 'adam'"),
        ({"schedule": "cosine"}, "'cosine'.*'one-cycle' or None"),
    ],
)
def test_impossible_settings_are_named(digits, settings, message):
    model = new("Linear")
    with pytest.raises(ValueError, match=message):
        quick(model, digits, **settings)
    assert same_weights(model, new("Linear"))


def test_nothing_to_train_on_or_to_validate_with_is_said(digits):
    none = digits.take(slice(0))
    for sets in (none,), (digits, none):
        with pytest.raises(ValueError, match="no images to train on, or to validate"):
            quick(new("Linear"), *sets)


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
    changed = (result[:100] != batch[:100]).flatten(1).any(1)
    assert changed.all()
    assert torch.equal(moved(batch, share=0), batch)
    assert torch.equal(moved(batch), result)  # the generator alone decides how
    assert not torch.equal(moved(batch, seed=1), result)


def test_paper_stays_paper_and_ink_gets_no_brighter(batch):
    result = moved(batch, share=1, shift_px=6)
    assert result.amin().item() == pytest.approx(batch.amin().item(), abs=1e-5)
    assert result.amax().item() <= batch.amax().item() + 1e-5
    blank = torch.full((4, 1, 28, 28), batch.amin().item())
    torch.testing.assert_close(moved(blank, share=1, shift_px=6), blank)


STILL = {"degrees": 0, "scale": 0, "shear": 0, "shift_px": 0, "share": 1}


def measure(images):
    """Ink mass, and its centre (y, x), of each image"""
    ink = (images - images.amin())[:, 0]
    mass, axis = ink.sum((1, 2)), torch.arange(28.0)
    return mass, torch.stack([ink.sum(2) @ axis, ink.sum(1) @ axis], 1) / mass[:, None]


def test_no_movement_is_identity(batch):
    torch.testing.assert_close(moved(batch, **STILL), batch, atol=1e-4, rtol=0)


def test_a_shift_moves_the_centre_by_up_to_so_many_pixels(batch):
    _, centre = measure(batch)
    _, new_centre = measure(moved(batch, **STILL | {"shift_px": 2}))
    shift = (new_centre - centre).abs()
    assert 1.8 < shift.max() < 2.02 and shift.mean() == pytest.approx(1, abs=0.15)


def test_scaling_keeps_the_centre_and_changes_the_ink(batch):
    mass, centre = measure(batch)
    new_mass, new_centre = measure(moved(batch, **STILL | {"scale": 0.1}))
    assert (new_centre - centre).abs().max() < 0.3
    ratio = new_mass / mass
    assert 0.78 < ratio.min() < 0.9 and 1.1 < ratio.max() < 1.28


def test_turning_keeps_the_ink(batch):
    mass, _ = measure(batch)
    new_mass, _ = measure(moved(batch, **STILL | {"degrees": 10}))
    torch.testing.assert_close(new_mass, mass, rtol=0.02, atol=0)
