"""Start JupyterLab or the web page on this machine, quick enough to draw with.

python tools/serve.py lab [options of jupyter lab]
python tools/serve.py app [options of voila] notebook
"""

import sys

from jupyter_server.services.kernels.connection.channels import (
    ZMQChannelsWebsocketConnection,
)

# Voila's page links two style sheets on another host; the browser need not ask for
# them. Jupyter's own pages need inline scripts, styles and eval.
OWN_HOST_ONLY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' ws: wss: data:; frame-ancestors 'self'"
)


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


def page(handler, notebook, cwd):
    """Keep the cells tagged "page"; a notebook without that tag is kept whole."""
    cells = [cell for cell in notebook.cells if "page" in cell.metadata.get("tags", [])]
    notebook.cells = cells or notebook.cells
    return notebook


def main(kind: str, *options: str) -> None:
    """Serve on the loopback address until interrupted; kind is "lab" or "app"."""
    server = {"ip": "127.0.0.1", "kernel_websocket_connection_class": PromptConnection}
    if kind == "lab":
        from jupyterlab.labapp import LabApp

        server["kernel_websocket_connection_class"] = "serve.PromptConnection"
        server["allow_root"] = True  # as one is in a container; only loopback is served
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
    elif kind == "app":
        from traitlets.config import Config
        from voila.app import Voila

        headers = {"Content-Security-Policy": OWN_HOST_ONLY}
        config = Config(
            Voila={**server, "tornado_settings": {"headers": headers}},
            VoilaConfiguration={"prelaunch_hook": page},
        )
        Voila.launch_instance(list(options), config=config)
    else:
        raise SystemExit(f"{kind!r} is neither lab nor app.\n{__doc__}")


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
