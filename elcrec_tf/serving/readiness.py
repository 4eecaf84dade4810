"""Waiting for a server to have a model: what both clients share of it.

TF Serving's generic health check says "serving" from the start; only the state of the versions tells when a model can be asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from elcrec_tf.serving.connection import Connection, ServingError, StatusCode, time_left, waits
from elcrec_tf.serving.model_info import AVAILABLE, VersionState

# A server that is not there yet, that does not know the model yet, or that is too busy with loading it to answer.
_NOT_YET = (StatusCode.UNAVAILABLE, StatusCode.NOT_FOUND, StatusCode.DEADLINE_EXCEEDED)
_SECONDS_A_POLL = 1.0


class Readiness:
    """Decides after each look at a server whether its model is ready, and how long to wait for the next look.

    Args:
        connection: to the server.
        timeout: seconds until `pause` gives up.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._end = connection.ends_at(timeout)
        self._waits = waits()
        self._last = "no answer"

    @property
    def poll_timeout(self) -> float:
        """Seconds that the next look may take."""
        return max(min(_SECONDS_A_POLL, time_left(self._end)), 0.001)

    def is_ready(self, states: Sequence[VersionState]) -> bool:
        """Whether the version that is wanted, or any if none is, takes traffic."""
        self._last = ", ".join(f"version {state.version} {state.state} {state.error}".strip() for state in states) or "no versions"
        wanted = self._connection.version
        return any(state.state == AVAILABLE and wanted in (None, state.version) for state in states)

    def failed(self, error: ServingError) -> None:
        """Remember why a look failed. Raises the error when waiting does not mend it."""
        if error.code not in _NOT_YET:
            raise error
        if error.code is not StatusCode.DEADLINE_EXCEEDED:  # the last look is cut short: what was seen before it says more
            self._last = f"{error.code.name}: {error.details}"

    def pause(self) -> float:
        """Seconds until the next look.

        Raises:
            ServingError: DEADLINE_EXCEEDED when the time is up, with what the last look saw.
        """
        left = time_left(self._end)
        if not left:
            details = f"model {self._connection.model!r} is not ready after {self._timeout:g} s; last seen: {self._last}"
            raise ServingError(self._connection.address, StatusCode.DEADLINE_EXCEEDED, details, "the server's log may say more")
        return min(next(self._waits), left)
