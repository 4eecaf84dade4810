"""Data sets by name or path: the simulator, the four published benchmark files, MovieLens, and a user's own files."""

from __future__ import annotations

import hashlib
import http.client
import re
import unicodedata
import urllib.error
import urllib.request
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from elcrec_tf.config import DataConfig, SimulatorConfig
from elcrec_tf.data.catalog import Catalog
from elcrec_tf.data.inherited import without_empty_filter
from elcrec_tf.data.interactions import read_log, read_titles
from elcrec_tf.data.mind import read_mind
from elcrec_tf.data.movielens import MOVIELENS, load_movielens
from elcrec_tf.data.sequence_file import read_sequence_file
from elcrec_tf.data.shards import AnySequences, is_prepared, load_shards
from elcrec_tf.data.tables import FORMATS, file_format
from elcrec_tf.errors import UserError
from elcrec_tf.files import atomic_path, expanded

BASE_URL = "https://raw.githubusercontent.com/salesforce/ICLRec/master/data"
TIMEOUT_SECONDS = 30
BENCHMARKS = {
    "beauty": ("Beauty.txt", "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8"),
    "sports": ("Sports_and_Outdoors.txt", "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2"),
    "toys": ("Toys_and_Games.txt", "176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f"),
    "yelp": ("Yelp.txt", "724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed"),
}
"""Published benchmark files by data set name: file name and SHA-256."""

NAMES = ("simulated", *BENCHMARKS, *MOVIELENS)
"""Data sets known by name."""

_ENDINGS = (*FORMATS, ".tsv")


def load_dataset(config: DataConfig, simulator: SimulatorConfig | None = None) -> AnySequences:
    """Load the data set that `config.dataset` names, or the file or the folder of shards whose path it is.

    The k-core and the least length of a history apply to every data set but the simulated one, which is used as it is made, and
    shards, which are as they were prepared. Shards are checked here, and read later.
    `Sequences.name` is the data set's name, or a short name from the file's, safe for folders.

    Args:
        config: the data set, and how to read it; an empty `filter_column` is no filter.
        simulator: settings of the simulated data set; the defaults if None.

    Raises:
        UserError: for an unknown name, a fault in a file or in the options, or a download that fails.
    """
    config = without_empty_filter(config)
    name = config.dataset
    sequences: AnySequences
    if name == "simulated":
        from elcrec_tf.data.simulate import simulate

        _refuse_filter(config)
        sequences = simulate(simulator or SimulatorConfig())
    elif name in BENCHMARKS:
        _refuse_filter(config)
        sequences = read_sequence_file(benchmark_file(name, config.data_dir), name, config.k_core)
    elif name in MOVIELENS:
        sequences = load_movielens(config)
    else:
        sequences = _load_file(config)
    return sequences if config.item_metadata is None else _with_titles(sequences, expanded(config.item_metadata))


def benchmark_file(name: str, data_dir: str | None = None) -> Path:
    """Path of a published benchmark file, downloaded at the first call.

    Args:
        name: a key of `BENCHMARKS`.
        data_dir: folder to look in and to download to; `~/.cache/elcrec_tf` if None.

    Raises:
        UserError: when the file cannot be fetched, or is not the published one.
    """
    file_name, digest = BENCHMARKS[name]
    path = expanded(data_dir or "~/.cache/elcrec_tf") / file_name
    if not path.exists():
        _download(f"{BASE_URL}/{file_name}", path, digest)
    elif _sha256(path) != digest:
        raise UserError(
            f"{path}: is not the published {file_name} (its SHA-256 differs); remove it to download it again, "
            f"or give its path with --dataset to use it as it is"
        )
    return path


def _download(url: str, path: Path, digest: str) -> None:
    by_hand = f"put the file by hand at {path}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - the scheme is BASE_URL's
            content = response.read()  # 2 MB at most
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the answer's socket
        raise UserError(f"{url}: cannot be fetched ({error}); check the network, or {by_hand}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{url}: gives another file than the published one (its SHA-256 differs), so it was not kept; {by_hand}")
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another folder with --data-dir") from None


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _load_file(config: DataConfig) -> AnySequences:
    path = expanded(config.dataset)
    if is_prepared(path):
        _refuse_filter(config)
        return load_shards(path, short_name(path))
    if not path.exists() and path.name == config.dataset and not path.suffix:
        close = get_close_matches(config.dataset.lower(), NAMES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown data set {config.dataset!r}; {hint}Known: {', '.join(NAMES)}, or the path of a file")
    format = file_format(path, config.format)  # noqa: A001 - as the flag is called
    readers = {"sequences": read_sequence_file, "mind": read_mind}
    if format in readers:
        _refuse_filter(config)
        return readers[format](path, short_name(path), config.k_core)
    return read_log(path, format, config, short_name(path))


def short_name(path: Path) -> str:
    """A name for the data set of a file or a folder: its own in lower case without a known ending, with letters and digits of any script,
    `-`, `_` and `.` only; `beauty` for `Beauty.txt`.
    """
    published = {file_name: name for name, (file_name, _) in BENCHMARKS.items()}
    own = path.stem if path.suffix.lower() in _ENDINGS else path.name  # `shop-2024.06` has none
    kept = (one if one in "_." or unicodedata.category(one)[0] in "LMN" else "-" for one in unicodedata.normalize("NFC", own.lower()))
    return published.get(path.name) or re.sub("-+", "-", "".join(kept)).strip("-_.") or "dataset"


def _refuse_filter(config: DataConfig) -> None:
    if config.filter_column is not None or config.min_value is not None or config.keep_values is not None:
        raise UserError(
            f"{config.dataset}: has no columns, so --filter-column, --min-value and --keep-values do not fit; they go with CSV, Parquet "
            "and JSON Lines logs, and with MovieLens; --filter-column '' turns off a filter that is inherited from another run"
        )


def _with_titles(sequences: AnySequences, path: Path) -> AnySequences:
    titles = read_titles(path)
    catalog = sequences.catalog
    found = {raw: titles[raw] for raw in catalog.ids if raw in titles}
    if not found:
        other = next(iter(titles), "")
        raise UserError(f"{path}: has no title for any item; its ids look like {other!r}, the data set's like {catalog.ids[0]!r}")
    return replace(sequences, catalog=Catalog(catalog.ids, catalog.counts, {**catalog.titles, **found}))
