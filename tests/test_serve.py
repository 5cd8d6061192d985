"""How lab and page are started, and whom they answer: asked with real requests."""

import http.client
import json
import re
import time
from itertools import product
from types import SimpleNamespace
from urllib.parse import urlsplit

import pad_page
import pytest
from jupyterlab.labapp import LabApp
from nbformat.v4 import new_code_cell, new_notebook
from tornado.web import Finish, HTTPError
from voila.app import Voila

from tools import serve
from tools.serve import PromptConnection, main, usher

ICON = "@jupyterlab/application-extension:faviconbusy"


def launched(monkeypatch, application, *arguments):
    """What an application would have been started with."""
    calls = []
    monkeypatch.setattr(LabApp, "serverapp_config", {"open_browser": True})
    launch = lambda argv, **settings: calls.append((argv, settings))  # noqa: E731
    monkeypatch.setattr(application, "launch_instance", launch)
    main(*arguments)
    return calls[0]


def test_lab_and_page_listen_on_this_machine_only_and_send_at_once(monkeypatch):
    argv, _ = launched(monkeypatch, LabApp, "lab", "--no-browser")
    assert "--ServerApp.ip=127.0.0.1" in argv and argv[-1] == "--no-browser"
    assert "--ServerApp.allow_root=True" in argv
    name = "serve.PromptConnection"
    assert f"--ServerApp.kernel_websocket_connection_class={name}" in argv
    given = "--ServerApp.ip=::1"  # by hand, and so it wins
    argv, _ = launched(monkeypatch, LabApp, "lab", given)
    assert [option for option in argv if ".ip=" in option] == [given]
    argv, settings = launched(monkeypatch, Voila, "app", "04.ipynb")
    config = settings["config"]
    assert argv == ["04.ipynb"] and config.Voila.ip == "127.0.0.1"
    assert config.Voila.kernel_websocket_connection_class is PromptConnection
    ends = config.MappingKernelManager
    assert ends.cull_idle_timeout == serve.IDLE_S and ends.cull_interval <= 60
    assert ends.cull_connected is True, "a page that is open and forgotten, too"
    for arguments in [], ["lamp"]:
        with pytest.raises(SystemExit, match="python tools/serve.py lab"):
            main(*arguments)


def test_the_page_loads_nothing_from_elsewhere_and_is_framed_by_nobody():
    rules = dict(rule.split(" ", 1) for rule in serve.OWN_HOST_ONLY.split("; "))
    assert rules.keys() == {"default-src", "connect-src", "frame-ancestors"}
    assert rules["frame-ancestors"] == "'self'"
    assert set(rules["connect-src"].split()) <= {"'self'", "ws:", "wss:", "data:"}
    own = {"'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
    assert set(rules["default-src"].split()) <= own


def test_lab_leaves_out_the_busy_icon_and_what_was_left_out_before(monkeypatch):
    launched(monkeypatch, LabApp, "lab")
    assert LabApp.serverapp_config["open_browser"]
    calm = LabApp.serverapp_config["tornado_settings"]["page_config_hook"]
    config = calm(None, {"a": 1, "disabledExtensions": ["b"]})
    assert config == {"a": 1, "disabledExtensions": ["b", ICON]}
    assert calm(None, {}) == {"disabledExtensions": [ICON]}


def test_a_connection_switches_nagle_off_before_the_first_message(monkeypatch):
    events = []
    base = PromptConnection.__mro__[1]
    monkeypatch.setattr(base, "connect", lambda self: events.append("connected"))
    handler = SimpleNamespace(set_nodelay=events.append)
    monkeypatch.setattr(PromptConnection, "websocket_handler", handler)
    PromptConnection.__new__(PromptConnection).connect()
    assert events == [True, "connected"]


def visitor(kernels=0, draft="0123abcd"):
    """A request for the page, as far as the hook looks at it."""
    sent = []
    return SimpleNamespace(
        kernel_manager=SimpleNamespace(list_kernel_ids=lambda: ["k"] * kernels),
        get_query_argument=lambda name, default: draft,
        request=SimpleNamespace(uri="/?token=x"),
        redirect=sent.append,
        sent=sent,
    )


def test_the_page_has_the_cells_tagged_for_it_or_else_all():
    cells = [new_code_cell(text) for text in "abc"]
    for expected in "abc", "b":
        notebook = usher(1)(visitor(), new_notebook(cells=cells), "")
        assert [cell.source for cell in notebook.cells] == list(expected)
        cells[1].metadata.tags = ["page"]


def test_every_tab_has_a_draft_of_its_own_and_there_are_not_too_many():
    sent = []
    for _ in range(2):
        new = visitor(draft=None)
        with pytest.raises(Finish):
            usher(1)(new, new_notebook(), "")
        sent += new.sent
    assert all(re.fullmatch(r"/\?token=x&draft=[0-9a-f]{8}", one) for one in sent)
    assert len(set(sent)) == 2
    usher(2)(visitor(kernels=1), new_notebook(), "")
    with pytest.raises(HTTPError, match="All 2 pads are taken"):
        usher(2)(visitor(kernels=2), new_notebook(), "")


# --- real requests --------------------------------------------------------------------


class Client:
    """Asks a server as a browser would, or as somebody who means no good."""

    def __init__(self, address):
        at = urlsplit(address)
        self.port, self.token = at.port, at.query.split("token=")[1].split("&")[0]

    def ask(self, path, method="GET", body=None, host=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for _ in range(100):  # it says where it is before it listens
            try:
                connection.connect()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        headers = {name.replace("_", "-"): said for name, said in headers.items()}
        headers["Host"] = host or f"127.0.0.1:{self.port}"
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        upgraded = reply.status == 101
        text = "" if upgraded else reply.read().decode(errors="replace")
        connection.close()
        self.cookies = {
            one.split(";")[0] for one in reply.headers.get_all("Set-Cookie", [])
        }
        return reply.status, text, reply.headers

    def channels(self, kernel, **headers):
        """The status of an attempt to open a kernel's websocket."""
        hello = {"Upgrade": "websocket", "Connection": "Upgrade"}
        hello |= {"Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        hello |= {"Sec_WebSocket_Version": "13"}
        return self.ask(f"/api/kernels/{kernel}/channels", **hello, **headers)[0]

    def open_page(self):
        """Follow the way of a browser to the page; the kernel that it has got."""
        status, text, headers = self.ask(f"/?token={self.token}")
        if status == 302:
            assert "draft=" in headers["Location"]
            status, text, _ = self.ask(headers["Location"])
        found = re.search(r'"kernelId": ?"([0-9a-f-]{36})"', text)
        return status, found and found[1], text


IDLE_S = 8


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A small page without a pad; two may be open, and one ends when it is idle."""
    folder = tmp_path_factory.mktemp("served")
    said = "import os; print('tab', os.environ['QUERY_STRING'])"
    pad_page.write_notebook(folder, said)
    (folder / "secret.txt").write_text("secret")
    idle = f"--MappingKernelManager.cull_idle_timeout={IDLE_S}"
    often = "--MappingKernelManager.cull_interval=1"
    options = "--pages=2", idle, often
    with pad_page.serve("app", folder, *options, token=None) as address:
        yield Client(address)


@pytest.fixture(scope="module")
def full_house(served):
    """What the first is told who finds all pages taken."""
    for _ in range(3):
        told = served.open_page()
    return told


def test_the_page_answers_who_has_the_token_and_came_by_our_name(served):
    assert re.fullmatch("[0-9a-f]{32,}", served.token), "in the address, and its own"
    status, kernel, text = served.open_page()
    assert status == 200 and kernel and re.search("tab .*draft=", text)
    own = {"Authorization": f"token {served.token}"}
    about = f"/api/kernels/{kernel}"
    home = f"http://127.0.0.1:{served.port}"
    assert served.ask(about, **own)[0] == 200
    assert served.channels(kernel, Origin=home, **own) == 101

    # no token
    status, text, headers = served.ask("/")
    assert status == 302 and "/login" in headers["Location"] and kernel not in text
    assert headers["Content-Security-Policy"] == serve.OWN_HOST_ONLY
    assert served.ask(about)[0] == 403
    assert served.channels(kernel, Origin=home) == 403
    assert served.ask("/?token=wrong")[0] in (302, 403)

    # a name that somebody else's DNS has for this machine
    evil = {"host": f"evil.example:{served.port}", "Origin": "http://evil.example"}
    for path in "/", f"/?token={served.token}", about, "/login":
        status, text, _ = served.ask(path, **evil, **own)
        assert status in (403, 404) and kernel not in text, path
    assert served.channels(kernel, **evil, **own) in (403, 404)

    # another page's scripts, with or without saying where they come from, and
    # with the cookies of somebody who is known
    forged = {"Cookie": "_xsrf=mine", "X_XSRFToken": "mine"}
    served.ask(f"/login?token={served.token}")
    known = forged | {"Cookie": "; ".join(served.cookies | {"_xsrf=mine"})}
    assert served.channels(kernel, Origin=home, **known) == 101
    foreign, shut = {"Origin": "http://evil.example"}, f"/voila/api/shutdown/{kernel}"
    for headers in evil | forged, foreign | forged, forged, foreign | known:
        assert served.channels(kernel, **headers) in (403, 404)
        assert served.ask(shut, "POST", "", **headers)[0] in (403, 404)
    assert served.ask(about, **own)[0] == 200, "and its kernel lives on"


def test_the_page_hands_out_no_files(served):
    own = {"Authorization": f"token {served.token}"}
    files = "secret.txt", "../secret.txt", "..%2f..%2fetc/passwd"
    for path, file in product(("/voila/files/", "/voila/static/", "/"), files):
        status, text, _ = served.ask(path + file, **own)
        assert status >= 300 and "secret" not in text and "root:" not in text


def test_who_comes_to_a_full_house_is_told_so(full_house):
    status, kernel, text = full_house
    assert status == 503 and "All 2 pads are taken" in text and not kernel


def test_lab_answers_to_our_name_only(tmp_path):
    pad_page.write_notebook(tmp_path)
    with pad_page.serve("lab", tmp_path) as address:
        client = Client(address)
        own = {"Authorization": f"token {client.token}"}
        assert client.ask("/api/kernels", **own)[:2] == (200, json.dumps([]))
        assert client.ask("/api/kernels")[0] == 403
        assert client.ask("/api/kernels", host="evil.example", **own)[0] in (403, 404)


def test_idle_pages_make_room(served, full_house):
    """Late in this file: the others take some of the seconds that it takes."""
    status, until = full_house[0], time.monotonic() + 5 * IDLE_S
    while status == 503 and time.monotonic() < until:
        time.sleep(0.2)
        status, kernel, _ = served.open_page()
    assert status == 200 and kernel
