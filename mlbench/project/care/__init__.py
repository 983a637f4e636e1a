"""What keeps a store whole and small: check and repair it, free what nobody needs, say what uses how much.

All is decided from the records (`mlbench.runs.reachable`, `mlbench.runs.retention`); here they are read (`reading`),
and done is what was decided. Nothing here loads a value.
"""

from mlbench.project.care.freeing import Plan, free, keep, plan
from mlbench.project.care.measuring import use
from mlbench.project.care.verification import Damage, Verified, verify

__all__ = ["Damage", "Plan", "Verified", "free", "keep", "plan", "use", "verify"]
