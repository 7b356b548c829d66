"""Runs commands of `medclip-jax` one after another in one process, which compiles once.

python command_list.py FILE.json, a list of lists of arguments; ends at the first that fails.
"""

import json
import sys
from pathlib import Path

from medclip_jax import cli

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        cli.main(arguments)
