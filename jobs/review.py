"""`python jobs/review.py`, as `ray job submit` starts it: harvester/cli/review.py holds the command."""

from harvester.cli.review import main

if __name__ == "__main__":
    raise SystemExit(main())
