"""`python -m dermanet` is the command line."""

from dermanet.cli import main

main()
