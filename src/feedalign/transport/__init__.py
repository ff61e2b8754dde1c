"""Layers whose gradient passes back by another matrix than their weight: the hooks of the layer-wise rules.

A layer that is one product (linear, convolution) runs on its input cut off, and its output is spliced to the uncut
input: ``splice(layer(x.detach()), [x], pull)``. So autograd forms the gradient of the weight as always, skips the
product with the weight, and ``pull`` makes the one with the rule's matrix in its place.

Attention and recurrent layers form products inside, out of reach of a splice. There the tensor that autograd saves
for the way back is exchanged: where it kept the weight, it finds the rule's matrix.
"""

from feedalign.transport.carrier import Carrier
from feedalign.transport.layers import Form, layers

__all__ = ["Carrier", "Form", "layers"]
