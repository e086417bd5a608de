"""`python -m encoder`."""

import sys

from encoder.cli.main import main

sys.exit(main())
