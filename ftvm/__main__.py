"""`python -m ftvm` is the `ftvm` command."""

from ftvm.cli.main import main

if __name__ == "__main__":
    main()
