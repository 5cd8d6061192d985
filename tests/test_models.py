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
def test_an_untrained_network_knows_nothing_and_judges_each_digit_alone(name, batch):
    inputs, labels = batch
    torch.manual_seed(0)
    network = build(name).eval()
    logits = network(inputs)
    assert (logits.shape, logits.dtype) == ((200, 10), torch.float32)
    loss = F.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(math.log(10), abs=0.15)
    alone = network(inputs[3:4])
    torch.testing.assert_close(logits[3:4], alone, atol=1e-5, rtol=1e-4)


@ALL
def test_every_parameter_learns(name, batch):
    inputs, labels = batch
    torch.manual_seed(0)
    network = build(name)
    F.cross_entropy(network(inputs), labels).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), parameter_name


# Parameters, and three logits of a ramp from paper to ink after seed 0, as the first
# version of each network gave them: another layer, order or first weight is seen.
FIRST = {
    "Linear": (7_850, [0.4773, -0.4634, 0.1920]),
    "MLP": (669_706, [0.2038, 0.2126, 0.1352]),
    "SimpleCNN": (421_642, [0.0148, 0.0080, -0.0550]),
    "ImprovedCNN": (796_778, [-0.0773, -0.0436, 0.0218]),
    "FastCNN": (26_874, [-0.0323, -0.0684, 0.0413]),
    "DigitCNN": (242_282, [0.0845, -0.0653, -0.0422]),
}


@ALL
def test_a_network_is_still_the_one_of_the_story(name):
    torch.manual_seed(0)
    network = build(name).eval()
    ramp = torch.linspace(-0.4, 2.8, 784).reshape(1, 1, 28, 28)
    count, logits = FIRST[name]
    assert network.parameter_count == count
    assert network(ramp)[0, :3].tolist() == pytest.approx(logits, abs=5e-4)
    weights = [w for w in network.parameters() if w.ndim == 4]
    fast = {"memory_format": torch.channels_last}  # for convolutions
    assert all(weight.is_contiguous(**fast) for weight in weights)


def dropouts(network) -> list[float]:
    return [x.p for x in network if isinstance(x, nn.Dropout | nn.Dropout2d)]


def test_arguments_reach_the_network():
    assert build("SimpleCNN", width=8)[0].out_channels == 8
    assert build("MLP", hidden=64)[1].out_features == 64
    for name, times in {"MLP": 2, "SimpleCNN": 1, "DigitCNN": 1}.items():
        assert dropouts(build(name, dropout=0.3)) == [0.3] * times
    assert dropouts(build("ImprovedCNN")) == [0.25, 0.25, 0.5, 0.5]


def test_an_unknown_network_or_argument_is_named():
    with pytest.raises(ValueError, match="'ResNet'.*Linear, MLP, SimpleCNN"):
        build("ResNet")
    with pytest.raises(ValueError, match="MLP.*{'width': 8}.*width"):
        build("MLP", width=8)


def test_printing_shows_each_output_shape_and_the_parameters():
    lines = [line.split() for line in str(FastCNN()).splitlines()]
    assert lines[0] == ["FastCNN"]
    assert lines[1] == ["Conv2d", "16", "x", "24", "x", "24", "400"]
    assert lines[2] == ["MaxPool2d", "16", "x", "6", "x", "6", "0"]
    assert lines[-2] == ["Linear", "10", "650"]
    assert lines[-1] == ["parameters", "26,874"]


@pytest.mark.parametrize("training", [True, False])
def test_printing_changes_nothing(training):
    network = ImprovedCNN().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    repr(network)
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
