"""`python jobs/retrain.py`, as `ray job submit` starts it: harvester/cli/retrain.py holds the command."""

from harvester.cli.retrain import main

if __name__ == "__main__":
    raise SystemExit(main())
