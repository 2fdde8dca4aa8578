"""`python jobs/study.py`, as `ray job submit` starts it: harvester/cli/study.py holds the command."""

from harvester.cli.study import main

if __name__ == "__main__":
    raise SystemExit(main())
