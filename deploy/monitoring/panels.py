"""What the dashboards share: their variables and links, and a panel of each kind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models import prometheus as queries
from grafana_foundation_sdk.models import table as table_models

from deploy.monitoring.queries import Scope

__all__ = [
    "ALL",
    "FIVE_MINUTES",
    "INSTANCES",
    "RECORDED",
    "SELECTED",
    "VERSIONS",
    "Band",
    "Query",
    "bars",
    "board",
    "cells",
    "figure",
    "lines",
    "states",
    "table",
]

Panel: TypeAlias = models.Panel

_SOURCE = shapes.DataSourceRef(type_val="prometheus", uid="${datasource}")
RECORDED = 'model=~"$model", version=~"$version"'
"""What recorded series have to match; all instances are one in them."""
SELECTED = f'{RECORDED}, instance=~"$instance"'
"""What all other series have to match."""

VERSIONS = Scope("$__rate_interval", ("model", "version"), SELECTED)
"""What is chosen above the panels, each version apart."""
INSTANCES = Scope("$__rate_interval", ("instance",), SELECTED)
"""The same, each server apart."""
ALL = Scope("$__rate_interval", (), SELECTED)
"""The same, all together."""
FIVE_MINUTES = Scope("5m", (), SELECTED)
"""All of it together, over the last five minutes."""

_VARIABLES = {
    "model": "label_values(lazyneuron_model_info, model)",
    "version": 'label_values(lazyneuron_model_info{model=~"$model"}, version)',
    "instance": 'label_values(lazyneuron_model_info{model=~"$model", version=~"$version"}, instance)',
}
_DASHBOARDS = {"lazyneuron-overview": "Overview", "lazyneuron-sparsity": "Sparsity", "lazyneuron-capacity": "Capacity"}


@dataclass(frozen=True)
class Query:
    """An expression and what its series are called; `{{label}}` is replaced.

    Attributes
    ----------
    dashed
        What is compared with, drawn as a dashed line.
    exemplars
        Whether traces are shown beside it.
    """

    expression: str
    legend: str
    dashed: bool = False
    exemplars: bool = False


@dataclass(frozen=True)
class Band:
    """From which values on something is amiss.

    Attributes
    ----------
    above, below
        Bounds that are drawn; None: there is none.
    """

    above: float | None = None
    below: float | None = None


def board(uid: str, title: str, description: str, *variables: Builder[models.VariableModel]) -> "Board":
    """Begin a dashboard: with the variables that all of them have, and links to the others."""
    made = (
        dashboard.Dashboard(f"lazyneuron / {title}")
        .uid(uid)
        .description(description)
        .tags(["lazyneuron"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("data source").type("prometheus"))
    )
    for name, query in _VARIABLES.items():
        made.with_variable(
            dashboard.QueryVariable(name)
            .label(name)
            .datasource(_SOURCE)
            .query({"qryType": 1, "query": query, "refId": f"variable-{name}"})
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.NATURAL_ASC)
            .multi(True)
            .include_all(True)
            # Also what has no such label, such as requests for models that are not there.
            .all_value(".*")
            .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
    for variable in variables:
        made.with_variable(variable)
    for other, name in _DASHBOARDS.items():
        if other != uid:
            made.link(
                dashboard.DashboardLink(name)
                .type(models.DashboardLinkType.LINK)
                .url(f"/d/{other}")
                .include_vars(True)
                .keep_time(True)
            )
    return Board(made)


class Board:
    """A dashboard in the making; its panels get numbers in the order in which they come."""

    def __init__(self, made: dashboard.Dashboard) -> None:
        self._made = made
        self._panels = 0

    def row(self, title: str, *panels: Panel) -> Self:
        """Add panels under a heading."""
        self._made.with_row(dashboard.Row(title).id(self._number()))
        for panel in panels:
            panel.id_val = self._number()
            self._made.with_panel(_Built(panel))
        return self

    def build(self) -> models.Dashboard:
        """Return the dashboard."""
        made = self._made.build()
        for variable in made.templating.list_val or []:
            # Settings of interval variables, which the SDK gives to all.
            variable.auto = variable.auto_min = variable.auto_count = None
        return made

    def _number(self) -> int:
        self._panels += 1
        return self._panels


class _Built(Builder[models.Panel]):
    """A panel that was built already."""

    def __init__(self, panel: models.Panel) -> None:
        self._panel = panel

    def build(self) -> models.Panel:
        """Return it."""
        return self._panel


def figure(
    title: str, description: str, query: Query, unit: str, band: Band | None = None, width: int = 3, decimals: int = 1
) -> Panel:
    """Return one number, as it is now, with its recent course behind it."""
    panel = stat.Panel().graph_mode(shapes.BigValueGraphMode.AREA).decimals(decimals)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.text_mode(shapes.BigValueTextMode.VALUE)
    return _panel(panel, title, description, [query], unit, _bounds(band, "green"), width, height=4)


def lines(
    title: str,
    description: str,
    *wanted: Query,
    unit: str,
    band: Band | None = None,
    width: int = 12,
    least: float | None = 0,
    most: float | None = None,
    stacked: bool = False,
) -> Panel:
    """Return lines over time, with the values in a table below."""
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.TABLE).show_legend(True)
    legend.placement(shapes.LegendPlacement.BOTTOM).calcs(["lastNotNull", "mean", "max"])
    tooltip = common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
    panel = timeseries.Panel().legend(legend).tooltip(tooltip).line_width(2 if len(wanted) == 1 else 1)
    panel.fill_opacity(20 if stacked else 5).show_points(shapes.VisibilityMode.AUTO)
    if stacked:
        panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    # Not `min`: what goes beyond it has to be seen.
    if least is not None:
        panel.axis_soft_min(least)
    if most is not None:
        panel.axis_soft_max(most)
    if band is not None:
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED_AND_AREA)
        )
    for index, query in enumerate(wanted):
        if query.dashed:
            dash = models.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 6]})
            panel.override_by_query(_reference(index), [dash, models.DynamicConfigValue("custom.fillOpacity", 0)])
    return _panel(panel, title, description, wanted, unit, _bounds(band, "transparent"), width, height=9)


def bars(title: str, description: str, *wanted: Query, unit: str, most: float | None = None, width: int = 12) -> Panel:
    """Return present values side by side."""
    panel = bargauge.Panel().orientation(shapes.VizOrientation.HORIZONTAL).min(0)
    panel.display_mode(shapes.BarGaugeDisplayMode.BASIC).value_mode(shapes.BarGaugeValueMode.TEXT)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    if most is not None:
        panel.max(most)
    return _panel(panel, title, description, wanted, unit, _bounds(None, "green"), width, height=9, instant=True)


def cells(title: str, description: str, query: Query, unit: str, width: int = 12) -> Panel:
    """Return a histogram over time; the query's series are its buckets."""
    color = heatmaps.HeatmapColorOptions(
        mode=heatmaps.HeatmapColorMode.SCHEME,
        scale=heatmaps.HeatmapColorScale.EXPONENTIAL,
        scheme="Oranges",
        exponent=0.5,
        steps=64,
    )
    panel = heatmap.Panel()
    built = panel.build()
    assert isinstance(built.options, heatmaps.Options)
    built.options.color = color
    built.options.y_axis.unit = unit
    return _panel(
        panel,
        title,
        description,
        [query],
        "short",
        _bounds(None, "green"),
        width,
        9,
        format_=queries.PromQueryFormat.HEATMAP,
    )


def states(title: str, description: str, query: Query, colours: Mapping[float, str], width: int = 12) -> Panel:
    """Return a bar for each series, in the colour of its value; `colours` ascend."""
    panel = statetimeline.Panel().show_value(shapes.VisibilityMode.NEVER)
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    steps = [(None, "transparent"), *colours.items()]
    return _panel(panel, title, description, [query], "short", _steps(steps), width, height=9)


def table(title: str, description: str, query: Query, width: int = 12) -> Panel:
    """Return the labels of what there is now."""
    form = queries.PromQueryFormat.TABLE
    panel = tables.Panel().cell_options(shapes.TableAutoCellOptions())
    options = panel.build().options
    assert isinstance(options, table_models.Options)
    options.footer = None  # of Grafana before 12
    return _panel(
        panel, title, description, [query], "short", _bounds(None, "green"), width, 9, instant=True, format_=form
    )


class _Shared(Protocol):
    """What every kind of panel has."""

    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: shapes.DataSourceRef) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def span(self, w: int) -> Self: ...
    def height(self, h: int) -> Self: ...
    def thresholds(self, thresholds: Builder[models.ThresholdsConfig]) -> Self: ...
    def with_target(self, target: Builder[queries.Dataquery]) -> Self: ...
    def build(self) -> models.Panel: ...


def _panel(
    panel: _Shared,
    title: str,
    description: str,
    wanted: Sequence[Query],
    unit: str,
    thresholds: dashboard.ThresholdsConfig,
    width: int,
    height: int,
    *,
    instant: bool = False,
    format_: queries.PromQueryFormat = queries.PromQueryFormat.TIME_SERIES,
) -> Panel:
    panel.title(title).description(description).datasource(_SOURCE).unit(unit).span(width).height(height)
    panel.thresholds(thresholds)
    for index, query in enumerate(wanted):
        target = prometheus.Dataquery().ref_id(_reference(index)).expr(query.expression).legend_format(query.legend)
        target.datasource(_SOURCE).format(format_).editor_mode(queries.QueryEditorMode.CODE).exemplar(query.exemplars)
        panel.with_target(target.instant() if instant else target.range())
    return panel.build()


def _reference(index: int) -> str:
    return "ABCDEFGH"[index]


def _bounds(band: Band | None, good: str) -> dashboard.ThresholdsConfig:
    steps: list[tuple[float | None, str]] = [(None, good)]
    if band is not None and band.below is not None:
        steps = [(None, "red"), (band.below, good)]
    if band is not None and band.above is not None:
        steps.append((band.above, "red"))
    return _steps(steps)


def _steps(steps: Iterable[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    made = [models.Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(made)
