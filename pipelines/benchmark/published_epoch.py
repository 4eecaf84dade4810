"""Seconds of a training epoch as the paper's configuration for Beauty has it, in plain PyTorch: what our epoch is compared with.

Run it with the python of the environment that `python -m pipelines.benchmark peer` makes (it has PyTorch, which ours has not):

    ~/.cache/elcrec_tf/rectools-env/bin/python pipelines/benchmark/published_epoch.py Beauty.txt [EPOCHS]

Written from the paper's equations and the settings that its code states: 256 users a step, every sequence padded to 50 items, one layer,
one negative an item; the encoder is called for the sequences, for both views (sequence contrastive, states fused position by position with
the nearest of 256 centres and compared side by side), and for both views again (intent contrastive); Eq. 3; Adam over everything.
LayerNorm, GELU and the binary cross entropy are put together from elementary operations, as there. Batches are made before the clock
starts, so a data loader costs nothing here.
"""

import math
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, LENGTH, HEADS, CENTERS, BATCH, DROPOUT = 64, 50, 2, 256, 256, 0.5
CROP, MASK, REORDER = 0.2, 0.7, 0.2


class LayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(SIZE)), nn.Parameter(torch.zeros(SIZE))

    def forward(self, states: Tensor) -> Tensor:
        centred = states - states.mean(-1, keepdim=True)
        return self.scale * (centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-12)) + self.shift


class Encoder(nn.Module):
    """One post-LN attention block over item and position embeddings; the centres live beside it."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.items = nn.Embedding(rows, SIZE, padding_idx=0)
        self.places = nn.Embedding(LENGTH, SIZE)
        self.query, self.key, self.value, self.output = (nn.Linear(SIZE, SIZE) for _ in range(4))
        self.expand, self.contract = nn.Linear(SIZE, 4 * SIZE), nn.Linear(4 * SIZE, SIZE)
        self.norms = nn.ModuleList(LayerNorm() for _ in range(3))
        self.centers = nn.Parameter(functional.normalize(torch.randn(CENTERS, SIZE), dim=1))
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, history: Tensor) -> Tensor:
        def split(states: Tensor) -> Tensor:
            return states.view(len(history), LENGTH, HEADS, SIZE // HEADS).transpose(1, 2)

        causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        bias = torch.where((history > 0)[:, None, None, :] & causal, 0.0, -10_000.0)
        states = dropped(self.norms[0](self.items(history) + self.places.weight))
        query, key, value = split(self.query(states)), split(self.key(states)), split(self.value(states))
        weights = dropped(torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(SIZE // HEADS) + bias, dim=-1))
        mixed = (weights @ value).transpose(1, 2).reshape(len(history), LENGTH, SIZE)
        states = self.norms[1](states + dropped(self.output(mixed)))
        return self.norms[2](states + dropped(self.contract(gelu(self.expand(states)))))


def gelu(values: Tensor) -> Tensor:
    return values * 0.5 * (1 + torch.erf(values / math.sqrt(2)))


def dropped(states: Tensor) -> Tensor:
    return functional.dropout(states, DROPOUT)


def squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    return points.square().sum(-1, keepdim=True) + centers.square().sum(-1) - 2 * points @ centers.T


def nt_xent(one: Tensor, other: Tensor) -> Tensor:
    both = torch.cat([one, other])
    own = torch.eye(len(both), dtype=torch.bool)
    return functional.cross_entropy((both @ both.T).masked_fill(own, -math.inf), torch.arange(len(both)).roll(len(one)))


def loss(model: Encoder, history: Tensor, positive: Tensor, negative: Tensor, view_a: Tensor, view_b: Tensor) -> Tensor:
    states, views, users = model(history), torch.cat([view_a, view_b]), len(history)
    chosen, refused = (torch.sigmoid((states * model.items(items)).sum(-1)) for items in (positive, negative))
    wanted = (positive > 0).float()
    total = -((torch.log(chosen + 1e-24) + torch.log(1 - refused + 1e-24)) * wanted).sum() / wanted.sum()

    encoded = model(views)
    fused = encoded + model.centers[squared_distances(encoded, model.centers).argmin(-1)]
    total = total + 0.1 * nt_xent(*fused.flatten(1).split(users))

    model.centers.data = functional.normalize(model.centers.data, dim=1)
    distances = squared_distances(functional.normalize(states.mean(1), dim=1), model.centers)
    total = total + 10 * (distances.mean() - squared_distances(model.centers, model.centers).mean())
    intents = model.centers[distances.argmin(-1)]
    return total + 0.05 * sum(nt_xent(view, intents) for view in model(views).mean(1).split(users))


def padded(items: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(LENGTH, np.int64), items])[-LENGTH:]


def view_of(items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind, items = rng.integers(3), items.copy()
    if kind == 0:
        size = max(1, int(CROP * len(items)))
        start = rng.integers(len(items) - size + 1)
        return items[start : start + size]
    if kind == 1:
        items[rng.permutation(len(items))[: int(MASK * len(items))]] = 0
        return items
    size = int(REORDER * len(items))
    start = rng.integers(len(items) - size + 1)
    items[start : start + size] = rng.permutation(items[start : start + size])
    return items


def make_batches(sequences: list[np.ndarray], num_items: int, rng: np.random.Generator) -> list[list[Tensor]]:
    rows = []
    for user in rng.permutation(len(sequences)):
        items = sequences[user]
        inputs = items[:-3]
        negative = rng.integers(1, num_items + 1, len(inputs))
        rows.append([padded(part) for part in (inputs, items[1:-2], negative, view_of(inputs, rng), view_of(inputs, rng))])
    return [[torch.from_numpy(np.stack(part)) for part in zip(*rows[start : start + BATCH])] for start in range(0, len(rows), BATCH)]  # noqa: B905


def main(path: str, epochs: int) -> None:
    torch.manual_seed(0)
    with open(path, encoding="ascii") as file:
        sequences = [np.array(line.split()[1:], np.int64) for line in file]
    sequences = [items for items in sequences if len(items) >= 4]
    num_items = int(max(items.max() for items in sequences))
    batches = make_batches(sequences, num_items, np.random.default_rng(0))
    model = Encoder(num_items + 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        for batch in batches:
            value = loss(model, *batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        seconds = time.perf_counter() - began
        print(
            f"epoch {epoch}: {seconds:.1f} s, {len(batches)} steps, loss {value.item():.3f}, {torch.get_num_threads()} threads", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)
