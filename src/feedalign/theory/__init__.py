"""The mathematics of *Align, then memorise*: two-layer and deep linear networks, conditioning, convolutions.

One concept a module, on numpy, scipy and torch. What is measured with it stands in ``feedalign.experiments.theory``.

References:
    Refinetti, d'Ascoli, Ohana and Goldt, *Align, then memorise: the dynamics of learning with feedback alignment*,
    ICML 2021, arXiv 2011.12428.
"""

from importlib.util import find_spec

if missing := [name for name in ("numpy", "scipy") if find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"feedalign.theory needs {' and '.join(missing)}, which is not installed: pip install 'feedalign[theory]'",
        name=missing[0],
    )
