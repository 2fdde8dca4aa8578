"""`python jobs/harvest.py`, as `ray job submit` starts it: harvester/cli/harvest.py holds the command."""

from harvester.cli.harvest import main

if __name__ == "__main__":
    raise SystemExit(main())
