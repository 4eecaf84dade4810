"""What a server says of its model: the state of its versions, and its signatures. Imports neither TensorFlow nor gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.tensors import DTYPE_NAMES

AVAILABLE = "AVAILABLE"
"""State of a version that takes traffic."""


@dataclass(frozen=True)
class VersionState:
    """A version of a model on a server.

    Attributes:
        version: its number.
        state: START, LOADING, AVAILABLE, UNLOADING or END; UNKNOWN for any other.
        error: why it could not be loaded; empty where nothing went wrong.
    """

    version: int
    state: str
    error: str = ""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    Attributes:
        dtype: NumPy's name of the type; "string" for strings.
        shape: sizes, None for one that may differ; None in place of all where even their number may differ.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a signature, by name."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


def version_states(response: wire.GetModelStatusResponse) -> list[VersionState]:
    """The versions in a response, newest first."""
    known = wire.ModelVersionStatus.State
    states = [
        VersionState(
            version=status.version,
            state=known.Name(status.state) if status.state in known.values() else "UNKNOWN",
            error=status.status.error_message,
        )
        for status in response.model_version_status
    ]
    return sorted(states, key=lambda state: -state.version)


def signatures(response: wire.GetModelMetadataResponse) -> dict[str, Signature]:
    """The signatures in a response, by name.

    Raises:
        ValueError: when the response holds none, or something else.
    """
    if "signature_def" not in response.metadata:
        raise ValueError("the response holds no signatures")
    try:
        found = wire.SignatureDefMap.FromString(response.metadata["signature_def"].value)
    except DecodeError as error:
        raise ValueError(f"the signatures cannot be read ({error})") from None
    return {name: Signature(_infos(one.inputs), _infos(one.outputs)) for name, one in sorted(found.signature_def.items())}


def _infos(infos: Mapping[str, wire.TensorInfo]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(_dtype(info.dtype), _shape(info.tensor_shape)) for name, info in sorted(infos.items())}


def _dtype(number: int) -> str:
    return DTYPE_NAMES.get(number, f"DataType {number}")


def _shape(shape: wire.TensorShape) -> tuple[int | None, ...] | None:
    return None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
