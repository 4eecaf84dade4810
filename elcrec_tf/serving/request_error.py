"""The error of a request, with the gRPC status that TensorFlow Serving gives for it."""

from __future__ import annotations

import grpc

_LONGEST = 300


class RequestError(Exception):
    """A request that is not answered.

    Args:
        code: the status.
        message: what was wrong; a long one is cut, as it travels in a header.

    Attributes:
        code: the status.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...")
        self.code = code


def invalid(message: str) -> RequestError:
    """The error of a request whose content is wrong."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)
