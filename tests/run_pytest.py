"""Runs pytest, from a folder of its own where the interpreter has none.

Started as a script, so that sys.path begins with tests/ and not with the pack's folder. The folder named in
ASTRAEA_PYTEST_HOME comes last: every package of the interpreter itself wins over it, and nothing is installed into it.
"""

from __future__ import annotations

import os
import sys

if home := os.environ.get("ASTRAEA_PYTEST_HOME"):
    sys.path.append(home)

import pytest

sys.exit(pytest.main(sys.argv[1:]))
