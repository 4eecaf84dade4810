import numpy as np

from pipelines.abtest.feed import Feed

BOTH = np.array([0, 1])


class Recorder:
    """A policy that counts up from 1, leaves out the history, and remembers what it was asked."""

    def __init__(self, step=1, items=50, width=6):
        self.asked, self._items, self._width = [], range(step, items * step + 1, step), width

    def __call__(self, histories):
        self.asked.append([list(history) for history in histories])
        answer = np.zeros((len(histories), self._width), np.int32)
        for row, history in zip(answer, histories, strict=True):
            left = [item for item in self._items if item not in history][: self._width]
            row[: len(left)] = left
        return answer


def test_each_arm_answers_its_own_users_and_is_asked_when_a_history_changed():
    ones, tens = Recorder(1), Recorder(10)
    feed, histories = Feed([ones, tens], np.array([0, 1, 0]), k=2, most_pages=3), [[], [10], [1]]
    users = np.array([0, 1, 2])
    assert feed.next_page(users, histories).tolist() == [[1, 2], [20, 30], [2, 3]]
    assert feed.next_page(users, histories).tolist() == [[3, 4], [40, 50], [4, 5]]
    assert (ones.asked, tens.asked) == ([[[], [1]]], [[[10]]])
    histories[2].append(5)
    feed.history_changed(np.array([2]))
    assert feed.next_page(users[1:], histories).tolist() == [[60, 70], [6, 7]]
    assert ones.asked[1:] == [[[1, 5]]] and len(tens.asked) == 1


def test_a_session_shows_nothing_twice_and_the_next_one_starts_anew():
    policy = Recorder()
    feed, histories, user = Feed([policy], np.array([0]), k=2, most_pages=3), [[]], np.array([0])
    assert feed.next_page(user, histories).tolist() == [[1, 2]]
    histories[0].append(2)
    feed.history_changed(user)
    assert feed.next_page(user, histories).tolist() == [[3, 4]]  # 1 is the best again, but was shown
    assert not feed.used_up(user)[0]
    assert feed.next_page(user, histories).tolist() == [[5, 6]]
    assert feed.used_up(user)[0]
    feed.end_session(user)
    assert feed.next_page(user, histories).tolist() == [[1, 3]]
    assert len(policy.asked) == 2


def test_where_nothing_is_left_a_page_has_gaps():
    feed = Feed([Recorder(items=3)], np.array([0]), k=2, most_pages=3)
    user, pages, ends = np.array([0]), [], []
    for _ in range(3):
        pages.append(feed.next_page(user, [[]]).tolist())
        ends.append(bool(feed.used_up(user)[0]))
    assert pages == [[[1, 2]], [[3, 0]], [[0, 0]]]
    assert ends == [False, True, True]  # nobody looks at a page with nothing on it
