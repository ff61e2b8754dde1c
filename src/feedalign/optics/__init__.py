"""Light and analogue arrays as pure functions: from a signed error to what a camera or a converter reads.

A modulator shows an error as frames of zeros and ones (:mod:`encoding`), a scattering medium mixes them by a random
complex matrix (:mod:`medium`), a camera counts photoelectrons (:mod:`camera`), and the linear projection is recovered
from intensities (:mod:`recovery`). :mod:`arrays` holds the same for microring weight banks and memristor crossbars,
:mod:`noise` the random numbers, which follow from the error itself. Nothing here keeps a
state but :class:`Bench`, a simulated device with a clock.
"""

from feedalign.optics.camera import Camera
from feedalign.optics.encoding import Encoded, encode
from feedalign.optics.medium import drift, shown, speckles, transmission
from feedalign.optics.noise import Noise, row_keys
from feedalign.optics.recovery import anchor, intensity_difference, off_axis, phase_shift, snr

from feedalign.optics.bench import Bench  # isort: skip - it needs the others

__all__ = [
    "Bench",
    "Camera",
    "Encoded",
    "Noise",
    "anchor",
    "drift",
    "encode",
    "intensity_difference",
    "off_axis",
    "phase_shift",
    "row_keys",
    "shown",
    "snr",
    "speckles",
    "transmission",
]
