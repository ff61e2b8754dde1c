"""``python -m feedalign`` is the command ``feedalign``."""

import sys

from feedalign.cli import main

sys.exit(main())
