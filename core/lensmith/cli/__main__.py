"""`python -m lensmith.cli`, which the launcher starts on every rank."""

from lensmith.cli import main

main()
