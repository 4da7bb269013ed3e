"""python -m equipot.models.training CONFIG.yaml [FOLDER]: train a potential, or go on with its training."""

import sys
from pathlib import Path

from equipot.models.training.api import train

if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None, resume=True)
