"""`python jobs/status.py`, as `ray job submit` starts it: harvester/cli/status.py holds the command."""

from harvester.cli.status import main

if __name__ == "__main__":
    raise SystemExit(main())
