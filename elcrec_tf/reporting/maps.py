"""Two-dimensional maps of users (t-SNE), and an order of the intents in which similar ones are neighbours."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from elcrec_tf.config import Config
from elcrec_tf.data.pipeline import histories
from elcrec_tf.errors import UserError
from elcrec_tf.evaluation import output_model
from elcrec_tf.model import ELCRec
from elcrec_tf.reporting.loading import Run

USERS = 2000
_MOST_MAPS = 6
_FEWEST_USERS = 10  # fewer make no picture
_PERPLEXITY = 30.0


@dataclass(frozen=True, eq=False)
class UserMap:
    """A picture of users: `points` `[n, 2]`, and the intent of each, `intents` `[n]`, as of what `title` says.

    `intents` is None where the numbers stood for other intents than in the best model.
    """

    title: str
    points: np.ndarray
    intents: np.ndarray | None


def user_maps(run: Run, model: ELCRec) -> list[UserMap]:
    """A map for each snapshot of the run (at most 6, evenly chosen), or one of its best model where it has none.

    A map shows the states whose intent is chosen, of at most 2,000 users; none is made of fewer than 10 users. Where training numbers the
    intents anew, the maps of snapshots have no intents, and one of the best model follows.

    Raises:
        UserError: for a snapshot that cannot be read.
    """
    found = ((re.fullmatch(r"epoch-(\d+)\.npz", path.name), path) for path in run.folder.snapshots.glob("*.npz"))
    snapshots = sorted((int(match[1]), path) for match, path in found if match)
    if not snapshots:
        return _best_map(run, model)
    chosen = np.unique(np.linspace(0, len(snapshots) - 1, min(len(snapshots), _MOST_MAPS)).round().astype(int))
    renumbered = _renumbers_intents(run.config)
    picked = [snapshots[index] for index in chosen.tolist()]
    maps = [one for epoch, path in picked if (one := _snapshot_map(epoch, path, renumbered)) is not None]
    return [*maps, *_best_map(run, model)] if renumbered else maps


def _renumbers_intents(config: Config) -> bool:
    """Whether a centre may become another intent's from one epoch to the next, instead of moving along."""
    return config.model.auto_clusters or config.model.intent_clustering == "em" or config.schedule.revive_below > 0


def _best_map(run: Run, model: ELCRec) -> list[UserMap]:
    """The map of the best model, or none where there are too few users."""
    users, history = histories(run.sequences, "test", run.config.model.max_length, most=USERS)
    if len(users) < _FEWEST_USERS:
        return []
    outputs = output_model(model, "pooled", "intents").predict(history, batch_size=256, verbose=0)
    return [UserMap("best model", project(outputs["pooled"]), outputs["intents"].argmax(-1))]


def _snapshot_map(epoch: int, path: Path, renumbered: bool) -> UserMap | None:
    try:
        with np.load(path) as arrays:
            pooled, intents = arrays["pooled"], arrays["intents"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is no snapshot that elcrec_tf wrote ({error}); remove it") from None
    if len(pooled) < _FEWEST_USERS:
        return None
    # The users of all snapshots are the same, so the same are drawn from each.
    rows = np.sort(np.random.default_rng(0).permutation(len(pooled))[:USERS])
    title = f"after epoch {epoch}" if epoch else "before training"
    return UserMap(title, project(pooled[rows]), None if renumbered else intents[rows])


def project(vectors: np.ndarray) -> np.ndarray:
    """t-SNE of the directions of vectors `[n, size]`: `[n, 2]`, the same for the same vectors; one point where they are all equal."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if np.allclose(unit, unit[:1]):  # scikit-learn divides by their spread, and then crashes over NaN
        return np.zeros((len(unit), 2), np.float32)
    perplexity = min(_PERPLEXITY, (len(unit) - 1) / 3)
    # Several threads sum in another order each time, and wait for each other where the machine has other work.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init="pca" if unit.shape[1] > 1 else "random", random_state=0).fit_transform(unit)


def similarity_order(centers: np.ndarray) -> np.ndarray:
    """An order of the centres `[k, size]` in which similar ones stand together: the leaves of average-linkage clustering by cosine."""
    # The best order of the leaves takes a second for 512 centres, and a minute for 2,048.
    return leaves_list(linkage(centers, method="average", metric="cosine", optimal_ordering=len(centers) <= 512))
