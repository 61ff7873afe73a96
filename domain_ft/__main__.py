"""`python -m domain_ft` is `domain-ft`."""

import sys

from domain_ft.cli import main

sys.exit(main())
