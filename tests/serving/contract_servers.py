"""The servers that keep the contract: ours, and TensorFlow Serving's own where its binary is at hand."""

import contextlib
import os
import socket
import subprocess

import grpc

from elcrec_tf.serving.server import LocalServer
from elcrec_tf.serving.server_options import ServerOptions
from tests.serving import asking

BINARY = "TF_MODEL_SERVER"
"""Environment variable with the path of a `tensorflow_model_server`."""


@contextlib.contextmanager
def local_server(folder, labels, batching=True):
    """Serves `tiny` with the versions that have labels; yields the address."""
    options = ServerOptions(port=0, model_name="tiny", labels=labels, batching=batching)
    with LocalServer(folder, options) as server:
        yield server.address


@contextlib.contextmanager
def tensorflow_model_server(folder, labels):
    """The same by TensorFlow Serving, from its documentation. Its log stands beside the model's folder."""
    port, config, log = free_port(), folder.parent / "models.config", folder.parent / "model_server.log"
    config.write_text(_models_config(folder, labels))
    command = [
        os.environ[BINARY],
        f"--port={port}",
        "--rest_api_port=0",
        f"--model_config_file={config}",  # replaces --model_name and --model_base_path, which know no labels
        "--allow_version_labels_for_unavailable_models=true",  # labels are given before the versions are loaded
        "--file_system_poll_wait_seconds=1",
    ]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            address = f"127.0.0.1:{port}"
            with grpc.insecure_channel(address) as channel:
                asking.wait_until(lambda: process.poll() is not None or _is_ready(channel, labels))
            assert process.poll() is None, log.read_text()[-2000:]
            yield address
        finally:
            process.terminate()


def _models_config(folder, labels):
    versions = "".join(f"versions: {version} " for version in sorted(labels.values()))
    named = "".join(f'version_labels {{ key: "{label}" value: {version} }} ' for label, version in labels.items())
    return (
        f'model_config_list {{ config {{ name: "tiny" base_path: "{folder.resolve()}" model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{ {versions}}} }} {named}}} }}\n"
    )


def _is_ready(channel, labels):
    with contextlib.suppress(grpc.RpcError):
        states = asking.status(channel, "tiny")
        return all(states.get(version) == "AVAILABLE" for version in labels.values())
    return False


def free_port():
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
