"""A model on a server, as the `recommend` command asks one. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from elcrec_tf.errors import UserError
from elcrec_tf.serving.answers import Answers
from elcrec_tf.serving.client import Client, Tls
from elcrec_tf.serving.connection import read_token
from elcrec_tf.serving.histories import ItemId, texts

# Rows and candidates of one call, so that its deadline does not depend on how long the input is.
_ROWS = 256
_CANDIDATES = 4096


class RemoteRecommender:
    """What the `recommend` command needs of a `Recommender`, answered by a server.

    Args:
        client: of an elcrec_tf export.
    """

    titles: Mapping[str, str] = {}
    """A server knows no titles."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @staticmethod
    def connect(
        address: str, model: str, timeout: float = 5.0, tls_root: Path | None = None, token_file: Path | None = None
    ) -> RemoteRecommender:
        """For a server at `HOST:PORT`.

        Args:
            address: of its gRPC port.
            model: its name for the model.
            timeout: seconds for each request of at most 256 histories.
            tls_root: PEM file with the certificates that may have signed the server's; plain text if None.
            token_file: file with the server's token.

        Raises:
            UserError: for files that cannot be read, and whatever else `Client` refuses.
        """
        tls = None if tls_root is None else Tls(tls_root)
        token = None if token_file is None else read_token(token_file)
        return RemoteRecommender(Client(address, model, deadline=timeout, tls=tls, token=token))

    @cached_property
    def top_k(self) -> int:
        """The most recommendations that a question can have: the width of the signature's output."""
        signature = self.client.metadata().get("recommend")
        ids = signature.outputs.get("item_ids") if signature else None
        if ids is None or ids.shape is None or len(ids.shape) != 2 or ids.shape[1] is None:
            raise UserError(f"{self._where}: is no model that elcrec_tf exported; give another --model")
        return ids.shape[1]

    def check_k(self, k: int) -> None:
        """Raise `UserError` unless `k` is between 1 and `top_k`."""
        if not 1 <= k <= self.top_k:
            more = "export the run again with a larger --top-k for more"
            raise UserError(f"k should be from 1 to {self.top_k}, which is what {self._where} answers. Received: {k}; {more}")

    def answer(self, histories: Sequence[Sequence[ItemId]], k: int = 10, include_history: bool = False) -> Answers:
        """As `Recommender.answer`."""
        self.check_k(k)
        answers = Answers.blank(len(histories), k)
        for first in range(0, len(histories), _ROWS):
            rows = slice(first, first + _ROWS)
            part = self.client.recommend(histories[rows], include_history)
            width = min(k, part.item_ids.shape[1])  # less than k where a version that answers fewer has taken over
            answers.item_ids[rows, :width] = part.item_ids[:, :width]
            answers.scores[rows, :width] = part.scores[:, :width]
            answers.intent[rows] = part.intent
            answers.fallback[rows] = part.fallback
        return answers

    def known(self, ids: Iterable[ItemId]) -> np.ndarray:
        """`[ids]` bool: which ids are in the catalogue; the others have no score."""
        candidates = texts(ids)
        pieces = [candidates[first : first + _CANDIDATES] for first in range(0, len(candidates), _CANDIDATES)]
        return np.concatenate([np.empty(0, bool), *(self.client.score([[]], [piece]).scores[0] > -np.inf for piece in pieces)])

    @property
    def _where(self) -> str:
        return f"{self.client.connection.model} at {self.client.connection.address}"
