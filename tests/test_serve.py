"""How lab and page are started: on loopback, at once, with nothing from elsewhere."""

from types import SimpleNamespace

import jupyterlab.labapp
import pytest
import voila.app
from nbformat.v4 import new_code_cell, new_notebook

from tools.serve import PromptConnection, calm, main, page


def launched(monkeypatch, application, *arguments):
    """What an application would have been started with."""
    calls = []
    kept = {"open_browser": True}
    monkeypatch.setattr(jupyterlab.labapp.LabApp, "serverapp_config", kept)

    def launch(argv, **settings):
        calls.append((argv, settings))

    monkeypatch.setattr(application, "launch_instance", launch)
    main(*arguments)
    return calls[0]


def test_lab_and_page_listen_on_this_machine_only_and_send_at_once(monkeypatch):
    argv, _ = launched(monkeypatch, jupyterlab.labapp.LabApp, "lab", "--no-browser")
    assert "--ServerApp.ip=127.0.0.1" in argv and argv[-1] == "--no-browser"
    assert "--ServerApp.allow_root=True" in argv
    name = "serve.PromptConnection"
    assert f"--ServerApp.kernel_websocket_connection_class={name}" in argv
    argv, settings = launched(monkeypatch, voila.app.Voila, "app", "04.ipynb")
    config = settings["config"]
    assert argv == ["04.ipynb"] and config.Voila.ip == "127.0.0.1"
    assert config.Voila.kernel_websocket_connection_class is PromptConnection
    policy = config.Voila.tornado_settings["headers"]["Content-Security-Policy"]
    rules = {
        name: said.split()
        for name, said in (r.split(" ", 1) for r in policy.split("; "))
    }
    assert rules.keys() == {"default-src", "connect-src", "frame-ancestors"}
    assert rules["frame-ancestors"] == ["'self'"]
    assert set(rules["connect-src"]) <= {"'self'", "ws:", "wss:", "data:"}
    own = {"'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
    assert set(rules["default-src"]) <= own


def test_lab_leaves_out_the_busy_icon_and_what_was_left_out_before(monkeypatch):
    lab = jupyterlab.labapp.LabApp
    launched(monkeypatch, lab, "lab")
    assert lab.serverapp_config["open_browser"]
    settings = lab.serverapp_config["tornado_settings"]
    config = settings["page_config_hook"](None, {"a": 1, "disabledExtensions": ["b"]})
    icon = "@jupyterlab/application-extension:faviconbusy"
    assert config == {"a": 1, "disabledExtensions": ["b", icon]}
    assert calm(None, {}) == {"disabledExtensions": [icon]}


def test_an_option_given_by_hand_wins(monkeypatch):
    given = "--ServerApp.ip=::1"
    argv, _ = launched(monkeypatch, jupyterlab.labapp.LabApp, "lab", given)
    assert [option for option in argv if ".ip=" in option] == [given]


def test_neither_lab_nor_app_is_refused_with_the_usage():
    with pytest.raises(SystemExit, match="python tools/serve.py lab"):
        main("")


def test_a_connection_switches_nagle_off_before_the_first_message(monkeypatch):
    events = []
    base = PromptConnection.__mro__[1]
    monkeypatch.setattr(base, "connect", lambda self: events.append("connected"))
    handler = SimpleNamespace(set_nodelay=events.append)
    monkeypatch.setattr(PromptConnection, "websocket_handler", handler)
    PromptConnection.__new__(PromptConnection).connect()
    assert events == [True, "connected"]


def test_the_page_has_the_cells_tagged_for_it_or_else_all():
    cells = [new_code_cell(text) for text in "abc"]
    notebook = page(None, new_notebook(cells=cells), "")
    assert len(notebook.cells) == 3
    cells[1].metadata.tags = ["page"]
    notebook = page(None, new_notebook(cells=cells), "")
    assert [cell.source for cell in notebook.cells] == ["b"]
