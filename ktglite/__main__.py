"""`ktglite` and `python -m ktglite`: the commands, where Ctrl-C ends in a line from the start."""

import sys


def run() -> None:
    """Entry point; see `ktglite.cli`, whose imports take a moment."""
    try:
        from ktglite.cli import main
    except KeyboardInterrupt:
        print("\nktglite: stopped; the same command resumes", file=sys.stderr)
        sys.exit(130)
    main()


if __name__ == "__main__":
    run()
