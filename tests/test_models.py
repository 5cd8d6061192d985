"""What models promises: ten logits, the layers of the story, a table to read."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnistlab.models import NETWORKS, build
from mnistlab.preprocess import normalize

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


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_one_of_the_story_and_knows_nothing_yet(name, digits):
    torch.manual_seed(0)
    network = build(name).eval()
    count, logits = FIRST[name]
    ramp = torch.linspace(-0.4, 2.8, 784).reshape(1, 1, 28, 28)
    assert network.parameter_count == count
    assert network(ramp)[0, :3].tolist() == pytest.approx(logits, abs=5e-4)
    fast = {"memory_format": torch.channels_last}  # for convolutions
    weights = [w for w in network.parameters() if w.ndim == 4]
    assert all(weight.is_contiguous(**fast) for weight in weights)

    inputs = torch.from_numpy(normalize(digits.images))[:, None]
    logits, labels = network(inputs), torch.from_numpy(digits.labels)
    assert (logits.shape, logits.dtype) == ((200, 10), torch.float32)
    assert F.cross_entropy(logits, labels).item() == pytest.approx(math.log(10), 0.07)
    F.cross_entropy(network.train()(inputs), labels).backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


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


@pytest.mark.parametrize("training", [True, False])
def test_printing_shows_each_output_shape_and_the_parameters(training):
    network = build("ImprovedCNN").train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lines = [line.split() for line in str(network).splitlines()]
    assert [len(lines), *lines[0]] == [len(network) + 2, "ImprovedCNN"]
    assert lines[1] == ["Conv2d", "32", "x", "28", "x", "28", "320"]
    assert lines[7] == ["MaxPool2d", "32", "x", "14", "x", "14", "0"]
    assert lines[-2:] == [["Linear", "10", "1,290"], ["parameters", "796,778"]]
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
