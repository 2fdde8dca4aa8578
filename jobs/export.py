"""`python jobs/export.py`, as `ray job submit` starts it: harvester/cli/export.py holds the command."""

from harvester.cli.export import main

if __name__ == "__main__":
    raise SystemExit(main())
