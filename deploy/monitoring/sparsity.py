"""The dashboard of sparsity: today's traffic against the calibration data, block by block, and what is saved."""

from grafana_foundation_sdk.models import dashboard as models

from deploy.monitoring import records
from deploy.monitoring.panels import (
    ALL,
    RECORDED,
    SELECTED,
    VERSIONS,
    Band,
    Query,
    bars,
    board,
    cells,
    lines,
)
from deploy.monitoring.queries import Scope
from deploy.monitoring.records import Objectives

__all__ = ["sparsity"]

_NAME = "{{model}} {{version}}"
_BLOCK = f"{_NAME} {{{{block}}}}"

_TWO_SCRAPES = Scope("$__rate_interval", ("model", "version"), SELECTED, function="irate")
_NOW = Scope("5m", ("model", "version"), SELECTED)


def sparsity(objectives: Objectives) -> models.Dashboard:
    """Return it."""
    made = board(
        "lazyneuron-sparsity",
        "Sparsity",
        "Density by block against what was exported, candidates against active neurons, drift, and what is saved.",
    )
    made.row("As sparse as at export?", *_density(objectives))
    made.row("Rows", *_rows())
    made.row("Candidates", *_candidates())
    made.row("Saved", *_saved())
    made.row("Budgets", *_budgets())
    return made.build()


def _density(objectives: Objectives) -> list[models.Panel]:
    band = Band(above=objectives.drift, below=round(1 / objectives.drift, 4))
    drift = "Density over that of the calibration data: 1 is traffic like it."
    return [
        lines(
            "Density by block",
            "The share of each block's neurons that were active; dashed: on the calibration data.",
            Query(VERSIONS.density(), _BLOCK),
            Query(VERSIONS.exported_density(), f"{_BLOCK}, exported", dashed=True),
            unit="percentunit",
        ),
        bars(
            "Density by block, now and exported",
            "The last five minutes against the calibration data.",
            Query(_NOW.density(), f"{_BLOCK}, now"),
            Query(_NOW.exported_density(), f"{_BLOCK}, exported"),
            unit="percentunit",
        ),
        lines(
            "Drift, last two scrapes",
            f"{drift} What came between the last two scrapes alone, so that a change is seen at once.",
            Query(_TWO_SCRAPES.drift(), _BLOCK),
            unit="none",
            band=band,
        ),
        lines(
            "Drift, five minutes",
            f"{drift} Over five minutes and all instances: what the alert watches.",
            Query(f"{records.DRIFT}{{{RECORDED}}}", _BLOCK),
            unit="none",
            band=band,
        ),
    ]


def _rows() -> list[models.Panel]:
    return [
        cells(
            "Density of single rows",
            "How many rows (tokens) used which share of a block's neurons; all chosen blocks together.",
            Query(ALL.increase("mlp_row_density_ratio_bucket", by=("le",)), "{{le}}"),
            unit="percentunit",
        ),
        lines(
            "Density of the densest rows",
            "99 % of a block's rows used no more; interpolated within the histogram's buckets.",
            Query(VERSIONS.row_density(0.99), _BLOCK),
            unit="percentunit",
        ),
    ]


def _candidates() -> list[models.Panel]:
    return [
        lines(
            "Candidates and active neurons",
            "The share of each block's neurons whose input was computed, and (dashed) of those that were active.",
            Query(VERSIONS.candidates(), f"{_BLOCK}, candidates"),
            Query(VERSIONS.density(), f"{_BLOCK}, active", dashed=True),
            unit="percentunit",
        ),
        lines(
            "Candidates for each active neuron",
            "1 is a perfect screen or predictor. Blocks of mode exact compute every neuron's input: 1 / density.",
            Query(VERSIONS.candidates_for_each_active(), _BLOCK),
            unit="none",
            least=1,
        ),
    ]


def _saved() -> list[models.Panel]:
    dense, executed = (VERSIONS.rate(f"mlp_flops_{what}_total") for what in ("dense", "executed"))
    return [
        lines(
            "MLP FLOPs saved",
            "The share of the dense blocks' FLOPs that was not executed: 1 − executed / dense, of real tokens alone.",
            Query(VERSIONS.flops_saved(), _NAME),
            unit="percentunit",
            most=1,
        ),
        lines(
            "MLP FLOPs",
            "Executed a second; dashed: what dense blocks would have taken.",
            Query(executed, f"{_NAME}, executed"),
            Query(dense, f"{_NAME}, dense", dashed=True),
            unit="flops",
        ),
        lines(
            "Time saved by block (estimate)",
            "Engine seconds saved in each second, by the costs measured for this kind of machine: an estimate.",
            Query(VERSIONS.seconds_saved(by=("block",)), _BLOCK),
            unit="s",
            stacked=True,
        ),
        lines(
            "Share of the time saved by block (estimate)",
            "Of what the dense block would take. Below 0 the block would be faster dense.",
            Query(VERSIONS.time_saved(by=("block",)), _BLOCK),
            unit="percentunit",
        ),
    ]


def _budgets() -> list[models.Panel]:
    return [
        lines(
            "Budget that load leaves",
            "The greatest share of the exported k that a request gets now; below 1, densities fall for that reason.",
            Query(VERSIONS.now("budget", aggregate="min"), _NAME),
            unit="percentunit",
            most=1,
        ),
        lines(
            "Requests given less than they asked for",
            "A second.",
            Query(VERSIONS.rate("budget_lowered_requests_total"), _NAME),
            unit="reqps",
        ),
    ]
