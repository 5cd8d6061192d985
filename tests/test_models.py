"""What models promises: ten logits, the layers of the story, a table to read."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnistlab.models import NETWORKS, FastCNN, ImprovedCNN, build
from mnistlab.preprocess import normalize

ALL = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture
def batch(digits):
    """float32 (200, 1, 28, 28) and labels"""
    inputs = torch.from_numpy(normalize(digits.images))[:, None]
    return inputs, torch.from_numpy(digits.labels)


@ALL
def test_an_untrained_network_knows_nothing(name, batch):
    inputs, labels = batch
    torch.manual_seed(0)
    logits = build(name).eval()(inputs)
    assert (logits.shape, logits.dtype) == ((200, 10), torch.float32)
    assert F.cross_entropy(logits, labels).item() == pytest.approx(
        math.log(10), abs=0.15
    )


@ALL
def test_every_parameter_learns(name, batch):
    inputs, labels = batch
    torch.manual_seed(0)
    network = build(name)
    F.cross_entropy(network(inputs), labels).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), parameter_name


@ALL
def test_a_digit_is_judged_alone(name, batch):
    network, (inputs, _) = build(name).eval(), batch
    torch.testing.assert_close(
        network(inputs)[3:4], network(inputs[3:4]), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    "name, count",
    [
        ("Linear", 784 * 10 + 10),
        ("MLP", 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10),
        (
            "SimpleCNN",
            32 * 9 + 32 + 64 * 32 * 9 + 64 + 3136 * 128 + 128 + 128 * 10 + 10,
        ),
        (
            "ImprovedCNN",
            sum(o * i * 9 + 3 * o for i, o in [(1, 32), (32, 32), (32, 64), (64, 64)])
            + (128 * 64 * 9 + 3 * 128)
            + (1152 * 512 + 512 + 512 * 128 + 128 + 128 * 10 + 10),
        ),
        (
            "FastCNN",
            (16 * 25 + 2 * 16)
            + (32 * 16 * 9 + 2 * 32)
            + (800 * 128 + 128 + 128 * 10 + 10),
        ),
        (
            "DigitCNN",
            (32 * 25 + 2 * 32)
            + (64 * 32 * 9 + 2 * 64)
            + (128 * 64 * 9 + 2 * 128)
            + (1152 * 128 + 128 + 128 * 10 + 10),
        ),
    ],
)
def test_parameters_are_as_many_as_the_layers_say(name, count):
    assert build(name).parameter_count == count


def test_the_two_small_networks_are_small():
    assert 105_000 < build("FastCNN").parameter_count < 115_000
    assert 235_000 < build("DigitCNN").parameter_count < 245_000


def test_improved_cnn_is_exactly_the_story_s():
    def conv(inputs, outputs):
        return [("Conv2d", inputs, outputs), ("BatchNorm2d", outputs), "ReLU"]

    def dense(inputs, outputs):
        return ("Linear", inputs, outputs)

    def tell(layer):
        name = type(layer).__name__
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))
            assert (layer.padding, layer.groups) == ((1, 1), 1)
            return (name, layer.in_channels, layer.out_channels)
        if isinstance(layer, nn.BatchNorm2d):
            return (name, layer.num_features)
        if isinstance(layer, nn.Linear):
            return (name, layer.in_features, layer.out_features)
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            return (name, layer.p)
        if isinstance(layer, nn.MaxPool2d):
            return (name, layer.kernel_size)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            return (name, layer.output_size)
        return name

    end_of_block = [("MaxPool2d", 2), ("Dropout2d", 0.25)]
    assert [tell(layer) for layer in ImprovedCNN()] == [
        *conv(1, 32),
        *conv(32, 32),
        *end_of_block,
        *conv(32, 64),
        *conv(64, 64),
        *end_of_block,
        *conv(64, 128),
        ("AdaptiveAvgPool2d", 3),
        "Flatten",
        dense(1152, 512),
        "ReLU",
        ("Dropout", 0.5),
        dense(512, 128),
        "ReLU",
        ("Dropout", 0.5),
        dense(128, 10),
    ]


def test_arguments_reach_the_network():
    assert build("SimpleCNN", width=8)[0].out_channels == 8
    assert build("MLP", hidden=64, dropout=0.5)[3].p == 0.5
    assert build("DigitCNN", dropout=0.3)[-2].p == 0.3


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("ResNet", {}, "'ResNet'.*Linear, MLP, SimpleCNN"),
        ("FastCNN", {"width": 8}, "FastCNN.*{'width': 8}.*width"),
    ],
)
def test_an_unknown_network_or_argument_is_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


def test_printing_shows_each_output_shape_and_the_parameters():
    lines = [line.split() for line in str(FastCNN()).splitlines()]
    assert lines[0] == ["FastCNN"]
    assert lines[1] == ["Conv2d", "16", "x", "24", "x", "24", "400"]
    assert lines[2] == ["MaxPool2d", "16", "x", "12", "x", "12", "0"]
    assert lines[-2] == ["Linear", "10", "1,290"]
    assert lines[-1] == ["parameters", "108,922"]


@pytest.mark.parametrize("training", [True, False])
def test_printing_changes_nothing(training):
    network = ImprovedCNN().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    repr(network)
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)


def test_batch_norm_follows_every_convolution_without_a_bias():
    # its shift would be taken away again by the mean
    for network in map(build, ("FastCNN", "DigitCNN")):
        convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in network if isinstance(layer, nn.BatchNorm2d)]
        assert len(convolutions) == len(norms)
        assert all(layer.bias is None for layer in convolutions)
