"""`python -m hetero_devices`: the same as the command `hetero-device`."""

import sys

from hetero_devices.runner import main

if __name__ == "__main__":
    sys.exit(main())
