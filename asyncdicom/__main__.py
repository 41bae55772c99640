"""``python -m asyncdicom``: the command-line tools."""

from .cli import run

if __name__ == "__main__":
    run()
