"""The networks of the story, from linear to ImprovedCNN, and the one shipped.

Every network takes float32 (N, 1, 28, 28), normalised by preprocess.normalize,
and returns logits float32 (N, 10). `print` one to see its layers.
"""

import torch
from torch import nn


class Network(nn.Sequential):
    """Layers one after the other; its repr lists their shapes and parameters."""

    def __init__(self, *layers: nn.Module):
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)  # convolutions run faster so

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def __repr__(self) -> str:
        was_training, rows = self.training, [self._get_name()]
        self.eval()
        x = torch.zeros(1, 1, 28, 28, device=next(self.parameters()).device)
        with torch.no_grad():
            for layer in self:
                x = layer(x)
                count = sum(p.numel() for p in layer.parameters())
                shape = " x ".join(map(str, x.shape[1:]))
                rows.append(f"  {layer._get_name():<18} {shape:<14} {count:>9,}")
        self.train(was_training)
        rows.append(f"  {'parameters':<33} {self.parameter_count:>9,}")
        return "\n".join(rows)


def _conv_pool(inputs: int, outputs: int, size: int, padding: int, pool: int = 2):
    """Pooling comes first: batch norm (so no bias) and ReLU have less to do."""
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, bias=False)
    return [conv, nn.MaxPool2d(pool), nn.BatchNorm2d(outputs), nn.ReLU()]


def _conv_norm(inputs: int, outputs: int):
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def _dense(inputs: int, outputs: int, dropout: float):
    return [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]


class Linear(Network):
    """One layer: ten weighted sums of the pixels."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))


class MLP(Network):
    """Two hidden layers that do not know which pixels are neighbours."""

    def __init__(self, hidden: int = 512, dropout: float = 0.0):
        super().__init__(
            nn.Flatten(),
            *_dense(784, hidden, dropout),
            *_dense(hidden, hidden, dropout),
            nn.Linear(hidden, 10),
        )


class SimpleCNN(Network):
    """Two convolutions and one hidden layer: the story's "simpler model"."""

    def __init__(self, width: int = 32, dropout: float = 0.0):
        super().__init__(
            *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *_dense(2 * width * 7 * 7, 4 * width, dropout),
            nn.Linear(4 * width, 10),
        )


class ImprovedCNN(Network):
    """The story's deeper network: five convolutions, three hidden layers."""

    def __init__(self):
        super().__init__(
            *_conv_norm(1, 32),
            *_conv_norm(32, 32),
            *(nn.MaxPool2d(2), nn.Dropout2d(0.25)),
            *_conv_norm(32, 64),
            *_conv_norm(64, 64),
            *(nn.MaxPool2d(2), nn.Dropout2d(0.25)),
            *_conv_norm(64, 128),
            *(nn.AdaptiveAvgPool2d(3), nn.Flatten()),
            *_dense(1152, 512, 0.5),
            *_dense(512, 128, 0.5),
            nn.Linear(128, 10),
        )


class FastCNN(Network):
    """26,874 parameters; 99 % on MNIST after half an epoch.

    It pools at once to 6 x 6: the second convolution, the dearest layer, then has few
    places to visit, and can spend more filters on each.
    """

    def __init__(self, width: int = 16):
        super().__init__(
            *_conv_pool(1, width, 5, padding=0, pool=4),
            *_conv_pool(width, 4 * width, 3, padding=0),
            *(nn.Flatten(), nn.Linear(16 * width, 4 * width), nn.ReLU()),
            nn.Linear(4 * width, 10),
        )


class DigitCNN(Network):
    """About 0.24 M parameters; the network that is shipped."""

    def __init__(self, dropout: float = 0.0):
        super().__init__(
            *_conv_pool(1, 32, 5, padding=2),
            *_conv_pool(32, 64, 3, padding=1),
            *_conv_pool(64, 128, 3, padding=1),
            nn.Flatten(),
            *_dense(1152, 128, dropout),
            nn.Linear(128, 10),
        )


_STORY = Linear, MLP, SimpleCNN, ImprovedCNN, FastCNN, DigitCNN
NETWORKS = {network.__name__: network for network in _STORY}


def build(name: str, **arguments) -> Network:
    """The network called `name`; ValueError names the ones there are."""
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETWORKS)}.")
    try:
        return NETWORKS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built with {arguments}: {error}") from error
