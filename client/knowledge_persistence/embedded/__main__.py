"""The detached supervisor, as a program of its own."""

import sys

from .supervisor import main

sys.exit(main())
