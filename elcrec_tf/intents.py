"""How healthy the intents are, and how well they recover planted ones. NumPy only."""

from __future__ import annotations

import numpy as np


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Vectors `[n, size]` at length 1; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def separation(cosines: np.ndarray) -> float:
    """How clearly users belong to one intent: the simplified silhouette (Hruschka et al., 2004), between 0 and 1, higher is better.

    The mean of `1 - a/b` with the distances `1 - cosine` to the nearest centre (a) and to the next one (b). Two centres for one group of
    users lower it, and so does one centre for two groups: it tells which of several numbers of intents fits.

    Args:
        cosines: `[users, k]` cosine of each user with each centre, k at least 2.
    """
    next_one, nearest = np.partition(cosines, (-2, -1), axis=1)[:, -2:].T
    return float(np.mean((nearest - next_one) / np.maximum(1 - next_one, 1e-12)))


def assignment_health(assigned: np.ndarray, num_clusters: int) -> dict[str, float]:
    """How users divide over the intents.

    Args:
        assigned: `[users]` intent of each user.
        num_clusters: number of intents.

    Returns:
        `intents_used`: share of intents with at least one user; `intent_perplexity`: exp of the assignment's entropy, between 1
        and `num_clusters`; `largest_intent`, `smallest_intent`: their shares of the users.
    """
    share = np.bincount(assigned, minlength=num_clusters) / max(len(assigned), 1)
    used = share[share > 0]
    return {
        "intents_used": float(np.mean(share > 0)),
        "intent_perplexity": float(np.exp(-np.sum(used * np.log(used)))),
        "largest_intent": float(share.max()),
        "smallest_intent": float(share.min()),
    }


def center_health(centers: np.ndarray) -> dict[str, float]:
    """Mean and largest cosine between different centres, `[num_clusters, size]` unit vectors."""
    cosine = centers @ centers.T
    different = cosine[~np.eye(len(centers), dtype=bool)]
    return {"center_cosine_mean": float(different.mean()), "center_cosine_max": float(different.max())}


def view_health(view_a: np.ndarray, view_b: np.ndarray) -> dict[str, float]:
    """Alignment `mean ‖a - b‖²` and uniformity `log mean exp(-2 ‖x - y‖²)` of L2-normalised views (Wang & Isola, 2020).

    Lower is better for both.

    Args:
        view_a, view_b: `[users, size]`, row i of both from the same user.
    """
    a, b = unit_rows(view_a), unit_rows(view_b)
    distance = 2 - 2 * a @ a.T
    different = distance[~np.eye(len(a), dtype=bool)]
    return {
        "view_alignment": float(np.mean(np.sum((a - b) ** 2, axis=1))),
        "view_uniformity": float(np.log(np.mean(np.exp(-2 * different)))) if len(different) else 0.0,
    }


def recovery(assigned: np.ndarray, planted: np.ndarray) -> float:
    """Normalised mutual information between assigned and planted intents, 0 to 1 (arithmetic mean of the entropies)."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(planted, assigned))


def kmeans(vectors: np.ndarray, num_clusters: int, seed: int, tries: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's KMeans on L2-normalised vectors, the best of `tries` starts: (centres `[k, size]`, labels `[n]`)."""
    from sklearn.cluster import KMeans

    fitted = KMeans(num_clusters, n_init=tries, random_state=seed).fit(unit_rows(vectors))
    return fitted.cluster_centers_, fitted.labels_
