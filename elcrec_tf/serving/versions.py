"""Which versions of a model are served: watches its folder, loads new ones, lets the old ones finish, refuses broken ones."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from elcrec_tf.errors import UserError
from elcrec_tf.serving import layout
from elcrec_tf.serving import wire_pb2 as wire
from elcrec_tf.serving.request_error import RequestError, invalid
from elcrec_tf.serving.servable import Servable
from elcrec_tf.serving.server_metrics import ServerMetrics

State = wire.ModelVersionStatus
_HIGHEST = (1 << 63) - 1  # the protocol's


class Versions:
    """The versions of one model. One thread calls `poll`; any thread may ask.

    The newest versions are served, and those with a label. A new one is loaded and warmed while the old ones answer; then it answers,
    the old one finishes its requests, and its memory is freed. A version that cannot be loaded is refused until its files change. The
    last version that can answer stays, even if its folder goes.

    Args:
        folder: the model's folder.
        name: what requests call the model.
        load: makes a version from its folder and number, or raises whatever is wrong with it.
        latest: how many of the newest versions are served.
        labels: versions by label.
        metrics: counts swaps and refusals, and shows the states.
        report: takes a line for people.
        on_available: told whether any version answers, when that changes.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        load: Callable[[Path, int], Servable],
        latest: int,
        labels: Mapping[str, int],
        metrics: ServerMetrics,
        report: Callable[[str], None],
        on_available: Callable[[bool], None],
    ) -> None:
        self.folder = folder
        self.name = name
        self._load_version = load
        self._latest = latest
        self._labels = dict(labels)
        self._metrics = metrics
        self._report = report
        self._on_available = on_available
        self._serving: dict[int, _Held] = {}
        self._states: dict[int, tuple[wire.ModelVersionStatus.State, str]] = {}
        self._refused: dict[int, Any] = {}  # how the files were, by version
        self._reported: set[str] = set()
        self._waits = True
        self._loads = True
        self._left_requests = False  # whether a version was released while it had some
        self._changed = threading.Condition()

    @property
    def available(self) -> list[int]:
        """The versions that answer, oldest first."""
        return sorted(self._serving)

    @contextmanager
    def use(self, spec: wire.ModelSpec) -> Iterator[Servable]:
        """The version that a request asks for; it stays loaded during the block.

        Raises:
            RequestError: when there is no such model, version or label, and when the request names no model.
        """
        with self._changed:
            held = self._find(spec)
            held.in_flight += 1
        try:
            yield held.servable
        finally:
            with self._changed:
                held.in_flight -= 1
                if not held.in_flight:
                    self._changed.notify_all()

    def _find(self, spec: wire.ModelSpec) -> _Held:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        wanted = self._asked(spec)
        found = None
        if spec.name == self.name and self._serving:
            found = self._serving.get(max(self._serving) if wanted is None else wanted)
        if found is None:
            question = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {question}")
        return found

    def _asked(self, spec: wire.ModelSpec) -> int | None:
        """The version that a request names by number or label; None for the latest."""
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            if spec.name != self.name or spec.version_label not in self._labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            return self._labels[spec.version_label]
        return spec.version.value if choice == "version" else None

    def status(self, spec: wire.ModelSpec) -> list[wire.ModelVersionStatus]:
        """States of the versions that are known, newest first; of one if the request names it.

        Raises:
            RequestError: when there is no such model, version or label, or no version yet.
        """
        wanted = self._asked(spec)
        with self._changed:
            states = dict(self._states) if spec.name == self.name else {}
        if wanted is not None:
            states = {version: state for version, state in states.items() if version == wanted}
        if not states:
            which = "any versions" if wanted is None else f"version {wanted}"
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find {which} of model {spec.name}")
        return [
            State(version=version, state=state, status=wire.Status(error_code=2 if error else 0, error_message=error))
            for version, (state, error) in sorted(states.items(), reverse=True)
        ]

    def poll(self) -> None:
        """Look at the folder, and load and release what that asks for."""
        try:
            found = {number: path for number, path in layout.versions(self.folder).items() if number <= _HIGHEST}
        except UserError as error:
            self._report_once(f"{error}; the versions in memory stay")
            return
        self._refused = {number: files for number, files in self._refused.items() if number in found and files == _files(found[number])}
        while self._loads and (missing := [number for number in self._wanted(found) if number not in self._serving]):
            self._load(missing[0], found[missing[0]])
        if not self._loads:
            return
        wanted = self._wanted(found)
        kept = [number for number in self._serving if number in wanted]
        for number in sorted(self._serving.keys() - set(kept)):
            if kept:
                self._release(number)
            else:
                self._report_once(
                    f"version {number} of {self.name} is no longer in {self.folder}; it stays in memory, as there is no other"
                )

    def stop_loading(self) -> None:
        """From now on no version is loaded; one that is being loaded is."""
        self._loads = False

    def stop_waiting(self) -> None:
        """From now on no version waits for its requests before it is released: the server stops."""
        with self._changed:
            self._waits = False
            self._changed.notify_all()

    def release_all(self) -> bool:
        """Release every version, when no request can come any more. Returns whether all requests have ended, those of versions that were
        released before among them."""
        for number in self.available:
            self._release(number)
        return not self._left_requests

    def _wanted(self, found: Mapping[int, Path]) -> list[int]:
        """The versions to be served: the newest good ones, and those with labels. Newest first."""
        good = sorted(found.keys() - self._refused.keys(), reverse=True)
        labelled = set(self._labels.values())
        return [number for position, number in enumerate(good) if position < self._latest or number in labelled]

    def _load(self, number: int, folder: Path) -> None:
        files = _files(folder)
        self._set_state(number, State.LOADING)
        try:
            servable = self._load_version(folder, number)
        except Exception as error:  # TensorFlow raises many kinds for a broken file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._refused[number] = files
            self._metrics.refused.inc()
            self._set_state(number, State.END, reason)
            self._report(f"version {number} of {self.name} is refused until its files change: {reason}")
            return
        self._serve({**self._serving, number: _Held(servable)})
        self._set_state(number, State.AVAILABLE)  # only now: who reads it may ask at once

    def _release(self, number: int) -> None:
        """Take a version out, wait for its requests, and free its memory, unless a request goes on all the same."""
        held = self._serving[number]
        self._set_state(number, State.UNLOADING)
        self._serve({other: one for other, one in self._serving.items() if other != number})
        with self._changed:
            self._changed.wait_for(lambda: not (held.in_flight and self._waits))
            if held.in_flight:
                self._left_requests = True
                return
        held.servable.close()
        gc.collect()  # a loaded SavedModel refers to itself
        self._set_state(number, State.END)

    def _serve(self, serving: dict[int, _Held]) -> None:
        """From now on these versions answer."""
        with self._changed:
            before, after = max(self._serving, default=None), max(serving, default=None)
            self._serving = serving
        if before is None or after is None:
            self._on_available(after is not None)
        elif before != after:
            self._metrics.swaps.inc()
            self._report(f"version {after} of {self.name} takes over from {before}")

    def _set_state(self, number: int, state: wire.ModelVersionStatus.State, error: str = "") -> None:
        with self._changed:
            self._states[number] = (state, error)
        self._metrics.version_state.labels(str(number)).set(state)

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._report(line)


class _Held:
    """A version that answers, and how many requests it has in flight."""

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self.in_flight = 0


def _files(folder: Path) -> Any:
    """What a version's files look like from outside: another value when one of them changes."""
    try:
        return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in (folder, *folder.rglob("*")))
    except OSError:  # a file went while we looked: other files next time
        return None
