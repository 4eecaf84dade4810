"""MovieLens through tensorflow-datasets, which is imported only here and only when asked for."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from elcrec_tf.config import DataConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.interactions import log_sequences
from elcrec_tf.data.sequences import Sequences
from elcrec_tf.data.tables import Table
from elcrec_tf.errors import UserError
from elcrec_tf.files import expanded

MOVIELENS = {"movielens-100k": "movielens/100k-ratings", "movielens-1m": "movielens/1m-ratings"}
"""MovieLens data sets by name, as tensorflow-datasets calls them."""

ARCHIVES = {name: f"https://files.grouplens.org/datasets/movielens/ml-{name.removeprefix('movielens-')}.zip" for name in MOVIELENS}
"""What tensorflow-datasets downloads at the first use."""

_FEATURES = ("user_id", "movie_id", "movie_title", "timestamp", "user_rating")
_BATCH = 10_000


def load_movielens(config: DataConfig) -> Sequences:
    """Ratings as interactions, with movie titles in the catalogue. `config.filter_column` may be `user_rating`.

    Raises:
        UserError: without tensorflow-datasets, when the download fails, and as `log_sequences` does.
    """
    if config.filter_column not in (None, "user_rating"):
        raise UserError(
            f"{config.dataset}: the column to filter on is user_rating ('': no filter). Received: --filter-column {config.filter_column}"
        )
    columns = _read(config.dataset, config.data_dir)
    config = replace(config, user_column="user_id", item_column="movie_id", time_column="timestamp")
    sequences = log_sequences(Table(config.dataset, "parquet", columns), config, config.dataset)
    catalog = sequences.catalog
    titles = dict(zip(columns["movie_id"].to_pylist(), columns["movie_title"].to_pylist(), strict=True))
    kept = {raw: titles[raw] for raw in catalog.ids}
    return replace(sequences, catalog=Catalog(catalog.ids, catalog.counts, kept))


def _read(name: str, data_dir: str | None) -> pa.Table:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"{name} needs a package that is not installed: pip install tensorflow-datasets") from None
    folder = str(expanded(data_dir)) if data_dir else None
    try:
        builder = tfds.builder(MOVIELENS[name], data_dir=folder)
        if not builder.is_prepared():
            _check_reachable(ARCHIVES[name])
        builder.download_and_prepare()
    except ImportError as error:
        raise UserError(f"{name}: tensorflow-datasets needs a package that is not installed: pip install {error.name}") from None
    except Exception as error:  # what a failed download raises differs from one release to the next
        raise UserError(
            f"{ARCHIVES[name]}: cannot be fetched ({_one_line(error)}); check the network, or let tensorflow-datasets prepare "
            f"{MOVIELENS[name]} elsewhere and put its folder by hand at {folder or '~/tensorflow_datasets'}/{MOVIELENS[name]}"
        ) from error
    # The genres have no fixed length and would not batch; shuffling would make ties in time differ from run to run.
    features = tfds.decode.PartialDecoding(dict.fromkeys(_FEATURES, True))
    data = builder.as_dataset(split="train", batch_size=_BATCH, decoders=features, shuffle_files=False)
    batches = list(tfds.as_numpy(data))
    return pa.table({feature: _column([batch[feature] for batch in batches]) for feature in _FEATURES})


def _check_reachable(url: str) -> None:
    """Fail at once without a network: tensorflow-datasets would try again for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30).close()
    except urllib.error.HTTPError as error:  # somebody answers: let tensorflow-datasets find out the rest
        error.close()


def _column(parts: list[Any]) -> pa.Array:
    values = np.concatenate(parts)
    return pa.array(values, pa.binary()).cast(pa.string()) if values.dtype == object else pa.array(values)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."
