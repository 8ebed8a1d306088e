"""``python -m moofusion``: the command line."""

from moofusion.cli import main

if __name__ == "__main__":
    main()
