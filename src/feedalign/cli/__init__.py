"""The command line: ``feedalign demo | train | tune | report | bench | theory | inspect | data | table``.

Exit codes: 0 done, 1 a run that failed (or nobody reads on), 2 something the user can mend, 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence

from feedalign.cli.failures import code, message, wants_traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: Words of the command line after ``feedalign``; by default those of this process.
    """
    try:
        from feedalign.cli.app import parse

        parse(sys.argv[1:] if arguments is None else arguments).run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if wants_traceback():
            raise
        sys.stderr.write(f"{message(error)}\n")
        return code(error)
    return 0
