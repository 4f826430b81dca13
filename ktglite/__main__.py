"""`python -m ktglite`: the command line."""

from ktglite.cli import main

main()
