"""What an experiment shows its users: pages cut from the answers of the policy that each user's arm has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elcrec_tf.padding import PADDING
from pipelines.abtest.policies import Policy


class Feed:
    """The users' pages. A page has the best items of the latest answer that the session has not shown yet.

    A policy is asked again when a history has changed, never otherwise: its answer would be the same.

    Args:
        policies: one for each arm; their answers have at least `k * most_pages` items.
        arms: `[users]` index of the policy that answers each user.
        k: items a page.
        most_pages: of a session.
    """

    def __init__(self, policies: Sequence[Policy], arms: np.ndarray, k: int, most_pages: int):
        self._policies, self._arms, self._k = policies, arms, k
        self._answer = np.full((len(arms), k * most_pages), PADDING, np.int32)
        self._outdated = np.ones(len(arms), bool)
        self._pages = np.zeros(len(arms), int)
        self._shown = np.full_like(self._answer, PADDING)  # items of the session's pages
        self._used = np.zeros(self._answer.shape, bool)  # which of the answer are among them

    def next_page(self, users: np.ndarray, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """int32 `[n, k]` items for `users` `[n]`, each once; 0 where nothing is left. `histories` are those of all users."""
        self._ask(users, histories)
        rows = users[:, None]
        missing = self._used[users] | (self._answer[users] == PADDING)
        places = np.argsort(missing, axis=1, kind="stable")[:, : self._k]  # what is there comes to the front, in its order
        items = np.where(self._used[rows, places], PADDING, self._answer[rows, places])
        self._used[rows, places] = True
        self._shown[rows, self._pages[rows] * self._k + np.arange(self._k)] = items
        self._pages[users] += 1
        return items

    def used_up(self, users: np.ndarray) -> np.ndarray:
        """`[n]` whether the session of each of `users` can have no further page: none of the answer is left (it may be short of items)."""
        nothing_left = (self._used[users] | (self._answer[users] == PADDING)).all(axis=1)
        return nothing_left | (self._pages[users] * self._k == self._answer.shape[1])

    def history_changed(self, users: np.ndarray) -> None:
        self._outdated[users] = True

    def end_session(self, users: np.ndarray) -> None:
        self._pages[users], self._shown[users], self._used[users] = 0, PADDING, False

    def _ask(self, users: np.ndarray, histories: Sequence[Sequence[int]]) -> None:
        for arm, policy in enumerate(self._policies):
            asking = users[self._outdated[users] & (self._arms[users] == arm)]
            if not len(asking):
                continue
            self._answer[asking] = policy([histories[user] for user in asking])[:, : self._answer.shape[1]]
            self._outdated[asking] = False
            self._used[asking] = False
            for shown in self._shown[asking].T:
                if shown.any():
                    self._used[asking] |= self._answer[asking] == shown[:, None]
