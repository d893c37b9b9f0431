"""`python -m lensmith`: the command, where its script is not on the path."""

from lensmith.cli import main

if __name__ == "__main__":
    main()
