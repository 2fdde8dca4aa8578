"""`python -m harvester` is `harvester`."""

import sys

from harvester.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
