"""`python -m rcmgr` is the command `rcmgr`."""

from rcmgr.cli import main

if __name__ == "__main__":
    main(prog_name="python -m rcmgr")
