"""``python -m sruplift``."""

from sruplift.cli.main import run

if __name__ == "__main__":
    run()
