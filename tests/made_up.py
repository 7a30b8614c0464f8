"""Data sets that are made, not downloaded: colours, volumes, and an Ising model whose probabilities are known exactly.

`python tests/made_up.py FOLDER` writes them as colours.npy, volumes.npy and ising.npy.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

CRITICAL = np.log(1 + np.sqrt(2)) / 2  # Onsager 1944: the coupling over the temperature at which the infinite lattice orders


def colours(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """Discs before gradients between two colours: uint8 [N, side, side, 3]."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side]
    pictures = np.zeros((count, side, side, 3), np.uint8)
    for picture in pictures:
        angle, (begin, end, disc) = rng.uniform(0, 2 * np.pi), rng.integers(0, 256, (3, 3))
        along = column * np.cos(angle) + row * np.sin(angle)
        share = ((along - along.min()) / np.ptp(along))[..., None]
        picture[:] = begin * (1 - share) + end * share
        middle, radius = rng.uniform(2, side - 2, 2), rng.uniform(side / 5, side / 3)
        picture[(row - middle[0]) ** 2 + (column - middle[1]) ** 2 < radius**2] = disc
    return pictures


def volumes(count: int, shape: tuple[int, ...] = (4, 5, 6), materials: int = 3, seed: int = 0) -> np.ndarray:
    """Boxes of one of some materials in an empty volume: int64 [N, *shape] of 0 to `materials`."""
    rng = np.random.default_rng(seed)
    grids = np.zeros((count, *shape), np.int64)
    for grid in grids:
        begin = [rng.integers(size) for size in shape]
        box = tuple(slice(first, rng.integers(first, size) + 1) for first, size in zip(begin, shape))
        grid[box] = rng.integers(1, materials + 1)
    return grids


class Ising(NamedTuple):
    """The Ising model on a cylinder: `height` rows of `width` spins, which are neighbours around the cylinder and between rows.

    A configuration s of spins -1 and 1 has the probability exp(coupling * sum over neighbours s_i s_j) / Z. A transfer matrix over the
    2^width states of a row gives Z, and so the nats of any configuration, and independent samples, row by row.
    """

    height: int = 8
    width: int = 8
    coupling: float = CRITICAL

    def rows(self) -> np.ndarray:
        """The states of a row: [2^width, width] of -1 and 1."""
        return 2 * (np.arange(2**self.width)[:, None] >> np.arange(self.width) & 1) - 1

    def messages(self) -> np.ndarray:
        """Logarithms of the weights of all rows from one on, by its state: [height, 2^width]."""
        rows = self.rows()
        inside = self.coupling * (rows * np.roll(rows, 1, 1)).sum(1)
        between = self.coupling * rows @ rows.T
        found = [inside]
        for _ in range(self.height - 1):
            below = between + found[0]
            most = below.max(1)
            found.insert(0, inside + most + np.log(np.exp(below - most[:, None]).sum(1)))
        return np.array(found)

    def log_z(self) -> float:
        first = self.messages()[0]
        return float(first.max() + np.log(np.exp(first - first.max()).sum()))

    def pairs(self, spins: np.ndarray) -> np.ndarray:
        """The sum of s_i s_j over neighbours, for symbols [N, height, width] of 0 and 1: the energy, with the opposite sign."""
        s = 2 * spins.astype(int) - 1
        return (s * np.roll(s, 1, 2)).sum((1, 2)) + (s[:, 1:] * s[:, :-1]).sum((1, 2))

    def nats(self, spins: np.ndarray) -> np.ndarray:
        """Exact nats [N] of configurations."""
        return self.log_z() - self.coupling * self.pairs(spins)

    def mean_pairs(self) -> float:
        """The mean of `pairs`: the derivative of log Z by the coupling."""
        h = 1e-4
        return (self._replace(coupling=self.coupling + h).log_z() - self._replace(coupling=self.coupling - h).log_z()) / (2 * h)

    def entropy(self) -> float:
        """Nats of a configuration on average."""
        return self.log_z() - self.coupling * self.mean_pairs()

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """Independent configurations: uint8 [N, height, width] of 0 and 1."""
        rng, rows, messages = np.random.default_rng(seed), self.rows(), self.messages()
        between, state, drawn = self.coupling * rows @ rows.T, None, []
        for message in messages:
            weights = np.broadcast_to(message, (count, len(message))) if state is None else between[state] + message
            state = (weights + rng.gumbel(size=weights.shape)).argmax(1)
            drawn.append(rows[state])
        return (np.stack(drawn, 1) > 0).astype(np.uint8)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    np.save(folder / "colours.npy", colours(6000))
    np.save(folder / "volumes.npy", volumes(6000))
    np.save(folder / "ising.npy", Ising().sample(20_000))
