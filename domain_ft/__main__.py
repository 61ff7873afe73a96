"""`python -m domain_ft` runs `domain-ft`."""

import sys

from domain_ft.cli import main

sys.exit(main())
