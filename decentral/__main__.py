"""`python -m decentral`: the command line."""

import sys

from decentral.cli import main

sys.exit(main())
