"""The configuration: frozen dataclasses, one group a topic, checked when made, with a JSON round trip and presets.

No TensorFlow is imported here. Every field states its default once, and carries its help text and its bounds, from which the
command line and the checks are made. A value is decided in one place: default < preset < file < flag (`resolve`).
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elcrec_tf.config_fields import Group, field
from elcrec_tf.errors import UserError
from elcrec_tf.files import read_json_object
from elcrec_tf.presets import PRESETS

MOST_SEED = 2**32 - 1
"""The largest seed that NumPy and scikit-learn take."""


@dataclass(frozen=True)
class DataConfig(Group):
    """Where the interactions come from and how a log is read."""

    GROUP: typing.ClassVar[str] = "data"

    dataset: str = field(
        "simulated",
        "data set: simulated, beauty, sports, toys, yelp, movielens-100k, movielens-1m, or the path of a file: "
        "'user item item ...' text, a log in CSV, Parquet or JSONL, or a folder that pipelines.prepare wrote",
        metavar="NAME|PATH",
    )
    data_dir: str | None = field(
        None,
        "folder to look for named data sets in, and to download them to (default: ~/.cache/elcrec_tf; of MovieLens ~/tensorflow_datasets)",
        metavar="DIR",
    )
    format: str = field(
        "auto",
        "format of the file; auto goes by its ending (.txt is sequences); mind is the behaviors.tsv of the MIND news data",
        choices=("auto", "sequences", "csv", "parquet", "jsonl", "mind"),
    )
    user_column: str = field("user", "name of a log's user column", metavar="NAME")
    item_column: str = field("item", "name of a log's item column", metavar="NAME")
    time_column: str = field("timestamp", "name of a log's time column: numbers, or ISO 8601 dates", metavar="NAME")
    filter_column: str | None = field(
        None, "keep only the rows of a log whose value in this column passes --min-value and --keep-values, where given", metavar="NAME"
    )
    min_value: float | None = field(None, "smallest value kept of the filter column (a rating, say)")
    keep_values: tuple[str, ...] | None = field(None, "values kept of the filter column (event types, say)")
    k_core: int = field(
        5,
        "drop users and items with fewer events than this, again and again until none is left to drop; 1 keeps all. Then users go who lack "
        "the 3 events of leave-one-out, so 2 may leave items with a single one",
        low=1,
    )
    ties: str = field(
        "file",
        "order of a user's events at the same time: as they stand in the file, or by item id, whatever the order of the rows (as "
        "pipelines.prepare does it)",
        choices=("file", "item"),
    )
    repeated_rows: str = field(
        "keep", "keep or drop rows that repeat user, item and time of another one (a logger's retries, say)", choices=("keep", "drop")
    )
    item_metadata: str | None = field(
        None, "file (CSV, Parquet or JSONL) with the columns id and title, shown wherever items are shown", metavar="FILE"
    )


@dataclass(frozen=True)
class SimulatorConfig(Group):
    """The embedded data set: simulated users with planted intents."""

    GROUP: typing.ClassVar[str] = "simulator"

    sim_users: int = field(4000, "simulated users", low=1)
    sim_items: int = field(1000, "simulated items; at least two an intent", low=10)
    sim_intents: int = field(32, "planted intents", low=1)
    sim_events: float = field(16.0, "mean number of events a user (at least 5 each); at most half of the items", low=5)
    sim_switch: float = field(0.1, "probability that a user's intent switches to another one from one event to the next", low=0, high=1)
    sim_noise: float = field(0.12, "share of events that follow no intent", low=0, high=1)
    sim_shared: float = field(0.25, "share of items that belong to two intents", low=0, high=1)
    sim_zipf: float = field(1.0, "Zipf exponent of the items' popularity within an intent", low=0, high=3)
    sim_drift: float = field(
        0.0, "share of each intent's items that change from the beginning to the end of the simulated time", low=0, high=1
    )
    sim_seed: int = field(0, "seed of the simulator (not of training)", low=0)


@dataclass(frozen=True)
class ModelConfig(Group):
    """The network."""

    GROUP: typing.ClassVar[str] = "model"

    max_length: int = field(50, "latest items of a history that the encoder sees", low=1)
    hidden_size: int = field(64, "size of item embeddings and hidden states", low=1)
    num_layers: int = field(2, "self-attention blocks", low=1)
    num_heads: int = field(2, "attention heads", low=1)
    dropout: float = field(0.5, "dropout rate, everywhere", low=0, below=1)
    local_width: int = field(
        0, "latest items before each one that a learned filter beside attention adds in every block; 0 has no filter", low=0
    )
    score: str = field("cosine", "how a state scores an item", choices=("dot", "cosine"))
    score_temperature: float = field(0.1, "start of the cosine score's learnable temperature, which counts as 1/64 below that", above=0)
    memory_weight: float = field(
        0.0,
        "weight of a memory of counted transitions: it adds to an item's score how often it came after the latest items; 0 has none",
        low=0,
    )
    activity_features: bool = field(
        False,
        "add to the state that predicts what is known of a user's activity: length of the history (in powers of two) and its quartile",
    )
    num_clusters: int | str = field(
        256,
        "latent intents (cluster centres); auto starts with --most-clusters and lets training decide how many it keeps",
        low=2,
        word="auto",
        metavar="N|auto",
    )
    most_clusters: int = field(
        256,
        "intents that --num-clusters auto starts with, and has at most; each that it keeps has 10 of the sampled users, 4,000 or 15 for "
        "each of these intents, whichever is more",
        low=2,
    )
    centers_start: str = field(
        "random", "start of the centres: random unit vectors, or k-means on the untrained encoder's outputs", choices=("random", "kmeans")
    )
    intent_clustering: str = field(
        "learned",
        "where the centres come from: learned with everything else (ELCM), or k-means over all users at the start of every epoch and "
        "fixed in between, without ELCM (the alternating scheme of ICLRec)",
        choices=("learned", "em"),
    )
    intent_pooling: str = field("last", "state that stands for a history when its intent is chosen", choices=("mean", "last"))
    fusion: str = field(
        "shift", "how a state is fused with its nearest intent in the sequence contrastive loss", choices=("shift", "concat", "none")
    )

    @property
    def auto_clusters(self) -> bool:
        """Whether training decides the number of intents."""
        return self.num_clusters == "auto"

    @property
    def centers(self) -> int:
        """Cluster centres that training starts with."""
        return self.most_clusters if isinstance(self.num_clusters, str) else self.num_clusters


@dataclass(frozen=True)
class LossConfig(Group):
    """The training objective: next item + contrastive terms + ELCM."""

    GROUP: typing.ClassVar[str] = "loss"

    examples: str = field(
        "positions",
        "train on every position of a sequence at once (fast), or on every prefix as its own example",
        choices=("positions", "prefixes"),
    )
    next_item: str = field(
        "softmax",
        "next-item loss: full softmax, sampled softmax with logQ correction (large catalogues), or the paper's BCE with one negative",
        choices=("softmax", "sampled_softmax", "bce"),
    )
    negatives: str = field(
        "uniform",
        "negatives of the sampled softmax: drawn from the catalogue, evenly or by popularity rank; all targets of the batch; or half "
        "drawn evenly and half from the batch's targets. BCE's are drawn evenly, off the items that the encoder sees; official keeps them "
        "off the user's whole sequence, held-out items included, which tells the model something of the test: only to see what that does",
        choices=("uniform", "log-uniform", "in-batch", "mixed", "official"),
    )
    num_negatives: int = field(1024, "negatives that are drawn for a batch (in-batch takes all its targets instead)", low=1)
    sequence_weight: float = field(0.1, "weight of the sequence contrastive loss", low=0)
    intent_weight: float = field(0.1, "weight of the intent contrastive loss", low=0)
    cluster_weight: float = field(0.1, "weight of the ELCM loss (the paper's alpha)", low=0)
    cluster_form: str = field(
        "assign", "form of the ELCM loss: Eq. 3 of the paper, or one that pulls each history to its own intent", choices=("paper", "assign")
    )
    temperature: float = field(0.2, "temperature of the contrastive losses", above=0)
    similarity: str = field("cosine", "similarity in the contrastive losses", choices=("dot", "cosine"))
    sequence_pooling: str = field(
        "mean",
        "what the sequence contrastive loss compares: the masked mean of the fused states, or all of them side by side",
        choices=("mean", "flatten"),
    )
    mask_same_intent: bool = field(False, "leave users of the same intent out of the contrastive losses' negatives")
    contrastive_batch: str = field(
        "local",
        "histories that the contrastive losses compare where several devices share a batch: a device's own, or those of all",
        choices=("local", "global"),
    )
    official_padding: bool = field(
        False, "let padding positions enter pooled states, as the official code does (fixes the length of a batch to max_length)"
    )


@dataclass(frozen=True)
class ScheduleConfig(Group):
    """How the contrastive weights and temperature move while training, and the care of the centres."""

    GROUP: typing.ClassVar[str] = "schedule"

    contrastive_warmup: int = field(0, "epochs over which the contrastive weights rise from 0", low=0)
    contrastive_schedule: str = field(
        "constant", "course of the contrastive weights after the warm-up", choices=("constant", "linear", "cosine")
    )
    contrastive_final: float = field(1.0, "share of the contrastive weights that a linear or cosine schedule ends with", low=0)
    final_temperature: float | None = field(None, "contrastive temperature that the last epoch ends with (default: unchanged)", above=0)
    revive_below: float = field(
        0.0, "revive a centre whose share of users is below this fraction of an equal share; 0 never does", low=0, below=1
    )

    @property
    def lasts_all_epochs(self) -> bool:
        """Whether something moves until the last epoch, so that each epoch depends on how many there are."""
        return self.contrastive_schedule != "constant" or self.final_temperature is not None


@dataclass(frozen=True)
class AugmentConfig(Group):
    """The two augmented views of the contrastive losses."""

    GROUP: typing.ClassVar[str] = "augment"

    augmentations: tuple[str, ...] = field(
        ("crop", "mask", "reorder"),
        "augmentations; a view draws one of them. dropout leaves the history as it is: two views differ by the model's dropout alone",
        choices=("crop", "mask", "reorder", "substitute", "insert", "dropout"),
    )
    crop_ratio: float = field(0.6, "share of a history that a crop keeps", above=0, high=1)
    mask_ratio: float = field(0.3, "share of a history's items that a mask hides", low=0, below=1)
    reorder_ratio: float = field(0.6, "share of a history that a reorder shuffles", low=0, high=1)
    substitute_ratio: float = field(0.3, "share of a history's items that a substitute replaces by similar ones", above=0, high=1)
    insert_ratio: float = field(0.3, "share of a history's items that an insert puts a similar one before", above=0, high=1)

    @property
    def ratios(self) -> tuple[tuple[str, float], ...]:
        """The augmentations, each with its ratio; dropout has none."""
        return tuple((name, getattr(self, f"{name}_ratio", 0.0)) for name in self.augmentations)


@dataclass(frozen=True)
class TrainConfig(Group):
    """The optimisation."""

    GROUP: typing.ClassVar[str] = "train"

    epochs: int = field(20, "most epochs", low=0)
    batch_size: int = field(256, "examples a batch", low=2)
    learning_rate: float = field(2e-3, "Adam's learning rate", above=0)
    average_momentum: float = field(
        0.0,
        "validate and keep the moving average of the weights over the steps instead of the weights themselves, with this momentum; "
        "0 averages nothing",
        low=0,
        below=1,
    )
    patience: int = field(8, "epochs without a better validation metric before training stops", low=1)
    monitor: str = field(
        "NDCG@20", "validation metric that picks the best epoch", choices=("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR")
    )
    seed: int = field(0, "seed of weights, shuffling, augmentation and dropout", low=0, high=MOST_SEED)
    warm_start: str | None = field(
        None,
        "start from this run's best model, whose settings are the defaults then; items are matched by id, new ones join",
        metavar="RUN_DIR",
    )
    new_items: str = field(
        "neighbors",
        "where a warm start places new items: near the known items next to them in the training data, or at random",
        choices=("neighbors", "random"),
    )
    products: str = field(
        "auto",
        "number format of training's matrix products; auto is bfloat16 where the hardware multiplies it natively, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    xla: str = field(
        "auto",
        "what XLA compiles: the whole training step (on), the chains of element-wise operations between matrix products (chains), "
        "or nothing; auto is on for a GPU, chains for a CPU",
        choices=("auto", "on", "chains", "off"),
    )
    item_updates: str = field(
        "auto",
        "rows of the item table that a step updates: all of them, or those that it touched, whose cost does not grow with the catalogue; "
        "auto is touched for a sampled loss over more than 100,000 items on a CPU, else all",
        choices=("auto", "all", "touched"),
    )
    eval_batch_size: int = field(256, "users a batch when ranking", low=1)
    snapshot_epochs: tuple[int, ...] | None = field(
        None, "epochs after which user embeddings and intents are written to the run folder; 0 is before training", low=0
    )
    recovery: bool = field(True, "on simulated data, train two more models to compare how well the planted intents are recovered")
    snapshot_users: int = field(5000, "users sampled for a snapshot", low=1)


GROUPS: tuple[type[Group], ...] = (
    DataConfig,
    SimulatorConfig,
    ModelConfig,
    LossConfig,
    ScheduleConfig,
    AugmentConfig,
    TrainConfig,
)


@dataclass(frozen=True)
class Config:
    """All groups together. `preset` names the preset that the values started from (information only)."""

    preset: str = "default"
    data: DataConfig = DataConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        if self.model.hidden_size % self.model.num_heads:
            raise UserError(
                f"model.hidden_size should be a multiple of model.num_heads. Received: {self.model.hidden_size} and {self.model.num_heads}"
            )
        if self.model.auto_clusters and self.model.intent_clustering == "em":
            raise UserError("model.intent_clustering em has a fixed number of intents: model.num_clusters should be a number, not auto")
        if self.model.auto_clusters and self.schedule.revive_below:
            raise UserError("schedule.revive_below keeps every intent in use, where model.num_clusters auto decides which are; set it to 0")
        moved = self.model.auto_clusters or self.model.intent_clustering == "em" or self.schedule.revive_below
        if self.train.average_momentum and moved:
            raise UserError(
                "train.average_momentum averages centres that training alone moves: it should be 0 with model.num_clusters auto, "
                'model.intent_clustering "em" and schedule.revive_below'
            )
        if self.loss.sequence_pooling == "flatten" and not self.loss.official_padding:
            raise UserError('loss.sequence_pooling "flatten" compares all positions, padding included: it needs loss.official_padding true')
        if self.loss.negatives == "official" and (self.loss.next_item, self.loss.examples) != ("bce", "positions"):
            raise UserError(
                'loss.negatives "official" is how the official code draws: it needs loss.next_item "bce" and loss.examples "positions"'
            )
        if self.loss.negatives not in ("uniform", "official") and self.loss.next_item != "sampled_softmax":
            raise UserError(
                f'loss.negatives "{self.loss.negatives}" is for loss.next_item "sampled_softmax": choose that, or negatives "uniform". '
                f'Received: loss.next_item "{self.loss.next_item}"'
            )
        if self.model.intent_clustering == "em" and self.schedule.revive_below:
            raise UserError(
                'schedule.revive_below should be 0 with model.intent_clustering "em": k-means places all centres anew every epoch'
            )

    @property
    def elcm(self) -> bool:
        """Whether the ELCM loss is among the terms."""
        return self.loss.cluster_weight > 0 and self.model.intent_clustering == "learned"

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    def replace(self, **fields: Any) -> Config:
        """A copy with some fields changed, named without their group: `config.replace(epochs=3, num_clusters=8)`."""
        return _updated(self, {key: value for key, value in fields.items()}, "argument")

    def with_preset(self, name: str) -> Config:
        """A copy that names another preset as the one its values started from; the values stay."""
        return dataclasses.replace(self, preset=name)

    @staticmethod
    def from_dict(values: Mapping[str, Any], *, base: Config | None = None, where: str = "config") -> Config:
        """Overlay nested `values` on `base` (default: `Config()`). Unknown groups and keys raise `UserError`."""
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: should hold a JSON object of groups, as a run's config.json does")
        flat: dict[str, Any] = {}
        groups = {kind.GROUP: kind for kind in GROUPS}
        for key, group_values in values.items():
            if key == "preset":
                continue
            if key not in groups:
                raise UserError(f"{where}: unknown group {key!r}{_closest(key, groups)}")
            if not isinstance(group_values, Mapping):
                raise UserError(f"{where}: {key!r} should be an object of fields. Received: {group_values!r}")
            names = {one.name for one in dataclasses.fields(groups[key])}
            for name, value in group_values.items():
                if name not in names:
                    raise UserError(f"{where}: unknown field {name!r} in {key!r}{_closest(name, names)}")
                flat[name] = value
        return _updated(base or Config(), flat, where)


def _closest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _updated(config: Config, fields: Mapping[str, Any], where: str) -> Config:
    """`config` with `fields` (named without their group) replaced; every group checks itself again."""
    owner = {one.name: kind.GROUP for kind in GROUPS for one in dataclasses.fields(kind)}
    changes: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        if name not in owner:
            raise UserError(f"{where}: unknown field {name!r}{_closest(name, owner)}")
        changes.setdefault(owner[name], {})[name] = value
    groups = {group: dataclasses.replace(getattr(config, group), **values) for group, values in changes.items()}
    return dataclasses.replace(config, **groups)


def resolve(
    preset: str | None = None, file: str | Path | None = None, flags: Mapping[str, Any] | None = None, base: Config | None = None
) -> Config:
    """The configuration of a run: default < preset < file < flag.

    Args:
        preset: a name in `PRESETS`; None takes the file's, else `simulated` for the embedded data set and `default` for others.
        file: a JSON file as `Config.to_dict` writes it; it may leave out groups and fields.
        flags: fields by name (no group) that win over everything.
        base: settings that stand in the preset's place, those of another run.

    Raises:
        UserError: for an unknown preset, an unreadable file, unknown keys, values out of bounds, or snapshots after the last epoch.
    """
    values = {} if file is None else read_json_object(file, "groups, as a run's config.json does")
    data = values.get("data", {})
    dataset = (flags or {}).get("dataset") or (data.get("dataset") if isinstance(data, dict) else None) or DataConfig().dataset
    name = preset or values.get("preset") or ("simulated" if dataset == "simulated" else "default")
    if not isinstance(name, str) or name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    config = base or _updated(Config(), PRESETS[name], "preset").with_preset(name)
    config = _updated(Config.from_dict(values, base=config, where=str(file)), flags or {}, "flag")
    if config.train.snapshot_epochs != (base.train.snapshot_epochs if base else None):  # another run's may have been made for more epochs
        _check_snapshots(config.train)
    return config


def _check_snapshots(train: TrainConfig) -> None:
    # Not in a group's own checks: with fewer epochs than it was made for (a trial of Hyperband) a configuration is whole, too.
    late = max(train.snapshot_epochs or (0,))
    if late > train.epochs:
        raise UserError(f"train.snapshot_epochs should be at most train.epochs, {train.epochs}. Received: {late}")
