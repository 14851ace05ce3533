"""`python -m omni`: the command line, for launchers that start modules."""

import sys

from omni.cli import main

sys.exit(main())
