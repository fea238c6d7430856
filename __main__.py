"""``fedkit`` as a process: signals have an answer before anything that takes long is imported."""

from __future__ import annotations

from fedrsic_data import interrupts


def main() -> None:
    """Runs the command line; see ``cli.main``."""
    interrupts.install()
    from fedrsic import cli

    cli.main()


if __name__ == "__main__":
    main()
