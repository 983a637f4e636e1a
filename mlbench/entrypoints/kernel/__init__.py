"""The kernel's door: `%load_ext mlbench`, steps, and the names that they bind.

Loading it starts nothing and imports nothing heavy; the service is found, or started, at the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlbench.entrypoints.kernel.session import Session

__all__ = ["barrier", "load", "session_of", "unload"]

_ATTRIBUTE = "mlbench_session"


def load(shell: Any) -> Session:
    """Make steps known to a shell; a second time it changes nothing."""
    from mlbench.entrypoints.kernel.clusters import ClusterMagics
    from mlbench.entrypoints.kernel.magics import StepMagics
    from mlbench.entrypoints.kernel.session import Session
    from mlbench.runs import context

    known = session_of(shell)
    if known is not None:
        return known
    session = Session(shell)
    shell.__dict__[_ATTRIBUTE] = session
    session.load()
    shell.register_magics(StepMagics(shell, session))
    shell.register_magics(ClusterMagics(shell, session.clusters))
    session.before_context = context.enter(
        context.Context(emit=session.emit, keep=session.storage.keep_logged, reach=session.clusters.reach)
    )
    return session


def session_of(shell: Any) -> Session | None:
    """Return the session of a shell in which mlbench is loaded."""
    found: Session | None = shell.__dict__.get(_ATTRIBUTE)
    return found


def barrier() -> bool:
    """Return True when no step of this kernel is under way; mlbench's engine calls it when all cells have started."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    session = session_of(shell) if shell is not None else None
    if session is not None:
        session.barrier()
    return True


def unload(shell: Any) -> None:
    """Take back what `load` did. Steps under way go on."""
    from mlbench.entrypoints.kernel.clusters import ClusterMagics
    from mlbench.entrypoints.kernel.magics import StepMagics
    from mlbench.runs import context

    session = session_of(shell)
    if session is None:
        return
    del shell.__dict__[_ATTRIBUTE]
    magics = shell.magics_manager.magics
    for kind in ("cell", "line"):
        for name in (*StepMagics.magics[kind], *ClusterMagics.magics[kind]):
            magics[kind].pop(name, None)
    context.enter(session.before_context)
    session.unload()
