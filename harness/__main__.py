# SPDX-License-Identifier: Apache-2.0
"""`python -m harness`: the same tasks as the console script."""

from harness.cli import main

if __name__ == "__main__":
    main()
