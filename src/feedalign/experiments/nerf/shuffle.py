"""The order in which the rays of all training views are seen."""

import torch
from torch import Tensor


class Shuffled:
    """Numbers in random order, all of them once and then again in another order: a batch an iteration.

    An iteration's batch follows from its number and the seed alone, so that a run can go on anywhere. What is left of
    an order, too few for a batch, is not used.

    Args:
        count: How many numbers there are.
        batch: How many a batch has; all, if there are fewer.
        seed: Of the orders.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch, self.seed = count, min(batch, count), seed
        self.turn, self.order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, iteration: int) -> Tensor:
        """Return the numbers of an iteration, counted from 0: ``[batch]``, int64, on the CPU."""
        turn, place = divmod(iteration, self.count // self.batch)
        if turn != self.turn:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * turn)
            self.turn, self.order = turn, torch.randperm(self.count, generator=generator)
        return self.order[place * self.batch : (place + 1) * self.batch]
