"""`python jobs/evaluate.py`, as `ray job submit` starts it: harvester/cli/evaluate.py holds the command."""

from harvester.cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
