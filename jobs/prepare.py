"""`python jobs/prepare.py`, as `ray job submit` starts it: harvester/cli/prepare.py holds the command."""

from harvester.cli.prepare import main

if __name__ == "__main__":
    raise SystemExit(main())
