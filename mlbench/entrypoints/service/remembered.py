"""Which stores have schedules: a list that outlives the service and the machine's restart."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

from mlbench.backends.blobs import is_url

__all__ = ["note", "stores"]

logger = logging.getLogger(__name__)


def _file() -> Path:
    """Return the list's place: beside a runtime folder that was named, else in the user's state folder."""
    if named := os.environ.get("MLBENCH_RUNTIME"):
        return Path(named) / "stores.json"
    import platformdirs

    return Path(platformdirs.user_state_dir("mlbench")) / "stores.json"


def stores() -> list[str]:
    """Return the stores that have schedules and are still there."""
    try:
        found = json.loads(_file().read_text("utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logger.warning("The list of stores with schedules cannot be read: %s", error)
        return []
    listed = found.get("stores") if isinstance(found, dict) else None
    return [path for path in listed or [] if isinstance(path, str) and (is_url(path) or Path(path, "format").is_file())]


def note(store: str, *, scheduled: bool) -> None:
    """Remember that a store has schedules, or that it has none any more."""
    known = stores()
    if (store in known) == scheduled:
        return
    listed = [*known, store] if scheduled else [one for one in known if one != store]
    file = _file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, written = tempfile.mkstemp(dir=file.parent, prefix="stores-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump({"stores": listed}, out)
        out.flush()
        os.fsync(out.fileno())
    Path(written).replace(file)
