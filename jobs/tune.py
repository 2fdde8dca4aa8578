"""`python jobs/tune.py`, as `ray job submit` starts it: harvester/cli/tune.py holds the command."""

from harvester.cli.tune import main

if __name__ == "__main__":
    raise SystemExit(main())
