r"""Factorisation machine.

Letters as in :mod:`feedalign.experiments.models.click_layers`; :math:`v_f` is the vector of field ``f``'s category.

References:
    Rendle, *Factorization Machines*, ICDM 2010.
"""

from collections.abc import Sequence

from torch import Tensor

from feedalign.experiments.models.click_layers import ClickNetwork, FirstOrder, Table


def interactions(vectors: Tensor) -> Tensor:
    r"""Return the sum of the products of all pairs of fields, ``[N, F, D]`` to ``[N, 1]``.

    .. math:: \sum_{f<g} v_f \cdot v_g = \tfrac12 \sum_d \big[(\sum_f v_{fd})^2 - \sum_f v_{fd}^2\big]
    """
    return 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True)


class FM(ClickNetwork):
    """A weight for every category, and the product of the vectors of every pair of fields. Nothing is hidden.

    Args:
        sizes: Categories of each field.
        width: Of an embedding.
        sparse: Whether tables have sparse gradients.
    """

    def __init__(self, sizes: Sequence[int], width: int, sparse: bool = False) -> None:
        super().__init__()
        self.first_order = FirstOrder(sizes, sparse)
        self.table = Table(sizes, width, sparse)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits."""
        return self.first_order(indices) + interactions(self.table(indices))  # type: ignore[no-any-return]
