"""Who has looked at a store: every run that proved something on its V_M, every list of which people audited a part.

store/looks/<hash>.json    one look at V_M: its patients, and when it was first taken
store/audits/<hash>.json   a list that was drawn to be audited: the run whose finds they are, and when

A promise at 95 % is for one look. Whoever harvests the same archive with ten settings, and keeps what looks best, has
looked ten times. A look is named by the hash of what was looked at, so that a run that goes on is not another one, and
two that write at the same time write two objects. Audits of one archive share the level out in the same way; a list is
drawn once, so that nobody begins anew with a luckier order.
"""

import json
import logging
import time
from numbers import Real
from typing import Any, Final

from harvester.config.fingerprint import settings_hash
from harvester.errors import HarvesterError, StoreError
from harvester.records import Split, rows_where, values
from harvester.storage.location import Location
from harvester.store.store import Store

logger = logging.getLogger(__name__)

FOLDER: Final = "looks"
AUDITS: Final = "audits"


def look(store: Store, *what: Any) -> int | None:
    """Note that `what` looks at V_M; how many others did before, at any patient of it that is there now.

    None where the store cannot be written or read: that stops nobody.
    """
    patients = sorted(set(values(rows_where(store.manifest, "split", Split.VM)["patient_id"])))
    folder = store.path / FOLDER
    mine = f"{settings_hash(*what)}.json"
    try:
        if mine not in folder.files():
            (folder / mine).write_text(json.dumps({"patients": patients, "at": time.time()}))
        looks = {name: _read(folder / name) for name in folder.files()}
    except (OSError, HarvesterError) as error:
        logger.info("%s: earlier looks at V_M could not be counted: %s", store.path, error)
        return None
    others = [seen for name, seen in looks.items() if name != mine and set(patients).intersection(seen["patients"])]
    return len([seen for seen in others if seen["at"] < looks[mine]["at"]])


def audit(store: Store, content: str, run_id: str) -> int | None:
    """Note that a list (named by its content) is drawn to be audited; how many others of this store were before.

    None where the store cannot be written or read. Raises StoreError for a list that was drawn before.
    """
    folder, mine = store.path / AUDITS, f"{content}.json"
    try:
        before = folder.files()
        if mine not in before:
            (folder / mine).write_text(json.dumps({"run": run_id, "at": time.time()}))
            return len(before)
        run = (folder / mine).read_json(run=str) or {"run": "an unknown run"}
    except (OSError, HarvesterError) as error:
        logger.warning("%s: audits of other runs of this archive could not be counted: %s", store.path, error)
        return None
    raise StoreError(f"this very list was drawn already, of {run['run']}; a list has one audit, go on with that one")


def said(earlier: int | None) -> str:
    """The count in one sentence."""
    if earlier is None:
        return "How often V_M was looked at before could not be counted: the store cannot be written"
    if not earlier:
        return "No run has looked at this V_M before"
    by = "1 earlier run" if earlier == 1 else f"{earlier:,} earlier runs"
    return (
        f"V_M has been looked at by {by} with other settings; the promise is for one: of several, one may be certified "
        "by chance. Take the first, or prove this one by looking (harvester audit)"
    )


def _read(file: Location) -> dict[str, Any]:
    """A look; one of nobody where the file is none."""
    tree = file.read_json(patients=list, at=Real) or {"patients": [], "at": 0.0}
    return tree | {"patients": [str(each) for each in tree["patients"]]}
