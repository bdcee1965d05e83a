"""`python -m dfpc_plugin`, the same as `dfpc`."""

import sys

from dfpc_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
