r"""What DFA conserves while it learns: the last hidden layer and the readout move in step.

In a net without biases whose last hidden layer is ReLU or linear, under gradient flow of any loss, every unit ``k`` of
that layer keeps

.. math:: \tfrac12 |w_k|^2 - \langle W_L[:, k],\, F[k, :] \rangle

What it takes in grows only as the readout turns towards its feedback: from small weights the readout must align.

References:
    Robertson and Koyejo 2023 (for feedback alignment); derived here for DFA, where it holds for this layer alone.
"""

from torch import Tensor


def balance(hidden: Tensor, readout: Tensor, feedback: Tensor) -> Tensor:
    """Return the conserved number of every unit, ``[n]``.

    Args:
        hidden: Weights into the last hidden layer, ``[n, m]``.
        readout: Weights out of it, ``[C, n]``.
        feedback: The feedback matrix ``B [C, n]`` of the last point.
    """
    return hidden.square().sum(1) / 2 - (readout * feedback).sum(0)
