"""Pickles of arrays. A pickle can run code when it is opened: this reader calls nothing but what is admitted.

Check a file by its hash before it comes here; this is the second lock, not the first.
"""

import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

Admitted = Mapping[tuple[str, str], Any]

ARRAYS: Admitted = {
    # The path under which NumPy 1 pickled it; NumPy 2 moved the module and warns about the old one.
    ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.empty(0))[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that can make NumPy arrays, and call nothing else.

    Args:
        file: Open for reading bytes.
        encoding: Of the strings of Python 2.
        admitted: What a pickle may name, as ``(module, name)``, and what it gets.
        contents: The same in words, for the message.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        encoding: str = "ASCII",
        admitted: Admitted = ARRAYS,
        contents: str = "NumPy arrays",
    ) -> None:
        super().__init__(file, encoding=encoding)
        self._admitted, self._contents = admitted, contents

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the things that are admitted.

        Raises:
            pickle.UnpicklingError: The pickle asks for anything else.
        """
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(
                f"Expected a pickle of {self._contents} only, found {module}.{name}. Do not open it."
            )
        return self._admitted[module, name]
