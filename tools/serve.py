"""Start JupyterLab or the web page on this machine, quick enough to draw with.

python tools/serve.py lab [options of jupyter lab]
python tools/serve.py app [--pages=4] [options of voila] notebook

Both ask for the token in the address that they print and open, and answer nobody who
came by another name than this machine's. --pages: how many web pages may be open at
once; each has a kernel of its own, of some 650 MB, until it is closed or idle.
"""

import argparse
import sys
from secrets import token_hex

from jupyter_server.services.kernels.connection.channels import (
    ZMQChannelsWebsocketConnection,
)
from tornado.httputil import url_concat
from tornado.web import Finish, HTTPError

# Voila's page links two style sheets on another host; the browser need not ask for
# them. Jupyter's own pages need inline scripts, styles and eval.
OWN_HOST_ONLY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' ws: wss: data:; frame-ancestors 'self'"
)
PAGES = 4
IDLE_S = 1800  # after which the kernel of a web page ends


class PromptConnection(ZMQChannelsWebsocketConnection):
    """Sends every message at once.

    Jupyter leaves Nagle's algorithm on, which holds a small message back until the
    browser has acknowledged the one before: 40 ms for each answer of a widget.
    """

    def connect(self):
        self.websocket_handler.set_nodelay(True)
        return super().connect()


def calm(handler, page_config):
    """Leave JupyterLab's browser tab its one icon.

    It has another for a busy kernel, and fetches one of the two at each message: some
    forty requests for a stroke, which doubled the time till its answer was seen.
    """
    plugin = "@jupyterlab/application-extension:faviconbusy"
    disabled = page_config.get("disabledExtensions", [])
    return {**page_config, "disabledExtensions": [*disabled, plugin]}


def usher(pages):
    """What is done before a web page is given its kernel."""

    def page(handler, notebook, cwd):
        """Keep the cells tagged "page"; a notebook without that tag is kept whole.

        A tab has a draft of its own, by a name in its address: it outlives a reload.
        """
        if len(handler.kernel_manager.list_kernel_ids()) >= pages:
            raise HTTPError(
                503,
                reason=f"All {pages} pads are taken. Close another one, or wait: a "
                f"pad that nobody uses is given back after {IDLE_S // 60} minutes.",
            )
        if handler.get_query_argument("draft", None) is None:
            handler.redirect(url_concat(handler.request.uri, {"draft": token_hex(4)}))
            raise Finish
        tagged = [c for c in notebook.cells if "page" in c.metadata.get("tags", [])]
        notebook.cells = tagged or notebook.cells
        return notebook

    return page


def lab(*options: str) -> None:
    from jupyterlab.labapp import LabApp

    server = {
        "ip": "127.0.0.1",
        "kernel_websocket_connection_class": "serve.PromptConnection",
        "allow_root": True,  # as one is in a container; only loopback is served
    }
    settings = [
        f"--ServerApp.{name}={value}"
        for name, value in server.items()
        if not any(f".{name}=" in option for option in options)  # given by hand
    ]
    LabApp.serverapp_config = {
        **LabApp.serverapp_config,
        "tornado_settings": {"page_config_hook": calm},
    }
    LabApp.launch_instance([*settings, *options])


def app(*options: str) -> None:
    from traitlets.config import Config
    from voila.app import Voila

    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--pages", type=int, default=PAGES)
    ours, theirs = parser.parse_known_args(options)
    config = Config(
        Voila={
            "ip": "127.0.0.1",
            "kernel_websocket_connection_class": PromptConnection,
            "auto_token": True,
            "tornado_settings": {
                "headers": {"Content-Security-Policy": OWN_HOST_ONLY},
                "allow_remote_access": False,  # Voila would answer to any name
            },
        },
        VoilaConfiguration={"prelaunch_hook": usher(ours.pages)},
        MappingKernelManager={
            "cull_idle_timeout": IDLE_S,
            "cull_interval": 60,
            "cull_connected": True,
        },
    )
    Voila.launch_instance(theirs, config=config)


def main(kind: str = "", *options: str) -> None:
    """Serve on the loopback address until interrupted; kind is "lab" or "app"."""
    if kind not in ("lab", "app"):
        raise SystemExit(f"{kind!r} is neither lab nor app.\n{__doc__}")
    {"lab": lab, "app": app}[kind](*options)


if __name__ == "__main__":
    main(*sys.argv[1:])
