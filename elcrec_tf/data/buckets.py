"""Length buckets: the few widths that batches are padded to, chosen so that padding is least."""

import numpy as np


def bucket_widths(lengths: np.ndarray, count: int) -> tuple[int, ...]:
    """At most `count` widths that cover all `lengths` with the fewest padded positions, ascending; the last is the longest length.

    Exact, by dynamic programming over the distinct lengths: `best[j] = min_i best[i] + examples(i..j) * length[j]`.

    Args:
        lengths: positive integers, one an example.
        count: most widths, at least 1.
    """
    distinct, examples = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(examples)])
    n = len(distinct)
    count = min(count, n)
    # cost[i, j]: positions when the distinct lengths i..j share the width distinct[j]
    cost = np.where(np.arange(n)[:, None] <= np.arange(n), (below[1:] - below[:-1, None]) * distinct, np.inf)
    best = cost[0].copy()
    previous = np.full((count, n), -1)
    for layer in range(1, count):
        options = best[:-1, None] + cost[1:]  # [i, j]: the last bucket begins behind the distinct length i
        previous[layer] = options.argmin(axis=0)
        best = options.min(axis=0)
    widths, end = [], n - 1
    for layer in range(count - 1, -1, -1):
        widths.append(int(distinct[end]))
        end = previous[layer, end]
    return tuple(reversed(widths))
