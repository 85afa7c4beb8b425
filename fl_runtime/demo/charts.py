"""The pictures of the report, as SVG that takes its colours from the page: light or dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot

from fl_runtime.demo.markup import Markup, element, join

WIDTH, HEIGHT = 720.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 30.0, 14.0, 34.0  # of a chart's frame


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    values: Sequence[float | None]  # from 0 to 1, one for each step; None where there is none
    style: str  # class of its colour


def line_chart(series: Sequence[Series], *, label: str, step: str) -> Markup:
    """Draw values from 0 to 1 over steps that are counted from 1."""
    steps = max(len(each.values) for each in series)

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (index / (steps - 1) if steps > 1 else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value)

    grid = [
        join(
            (
                element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick / 4), y2=y(tick / 4), class_="grid"),
                element("text", f"{tick / 4:.2f}", x=LEFT - 8, y=y(tick / 4) + 4, text_anchor="end", class_="tick"),
            )
        )
        for tick in range(5)
    ]
    every = max(1, steps // 12)
    ticks = [
        element("text", f"{step} {index + 1}", x=x(index), y=HEIGHT - 10, text_anchor="middle", class_="tick")
        for index in range(0, steps, every)
    ]
    return element(
        "svg",
        element("title", label),
        *grid,
        *ticks,
        *(_line(each, [(x(index), value) for index, value in enumerate(each.values)], y, step) for each in series),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
    )


def legend(series: Sequence[Series]) -> Markup:
    """Say which colour is whose."""
    keys = [element("span", element("i", class_=f"key {each.style}"), each.name) for each in series]
    return element("p", *keys, class_="legend")


def bars(values: Mapping[str, float], *, unit: str, styles: Mapping[str, str]) -> Markup:
    """Draw one horizontal bar for each name, with its number beside it."""
    most = max(values.values(), default=0.0) or 1.0
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            element(
                "td",
                element("div", class_=f"bar {styles.get(name, 's0')}", style=f"width:{100 * value / most:.1f}%"),
                class_="track",
            ),
            element("td", f"{value:,.4g} {unit}".rstrip(), class_="number"),
        )
        for name, value in values.items()
    ]
    return element("table", *rows, class_="bars")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened."""

    lane: str
    seconds: float  # since the first
    told: str
    refused: bool


def timeline(marks: Sequence[Mark], *, lanes: Sequence[str]) -> Markup:
    """Draw what happened, each on its lane, from left to right; refusals stand out."""
    last = max((mark.seconds for mark in marks), default=0.0) or 1.0
    left, row = 92.0, 30.0
    bottom = row * len(lanes) + 8

    def x(seconds: float) -> float:
        return left + 10 + (WIDTH - left - 30) * seconds / last

    every = max(1, round(last / 8))
    ticks = [
        element("text", f"{second} s", x=x(second), y=bottom + 14, text_anchor="middle", class_="tick")
        for second in range(0, int(last) + 1, every)
    ]
    rows = [
        join(
            (
                element("text", lane, x=left - 10, y=row * index + 24, text_anchor="end", class_="tick"),
                element("line", x1=left, x2=WIDTH, y1=row * index + 20, y2=row * index + 20, class_="grid"),
            )
        )
        for index, lane in enumerate(lanes)
    ]
    dots = [
        element(
            "circle",
            element("title", mark.told),
            cx=x(mark.seconds),
            cy=row * lanes.index(mark.lane) + 20,
            r=5 if mark.refused else 3.5,
            class_=f"mark {'refused' if mark.refused else 'happened'}",
        )
        for mark in sorted(marks, key=lambda mark: mark.refused)  # refusals on top
    ]
    return element(
        "svg",
        element("title", "what was recorded, when, in which log"),
        *rows,
        *ticks,
        *dots,
        viewBox=f"0 0 {WIDTH:g} {bottom + 24:g}",
        role="img",
    )


# --- who believes whom -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Edge:
    """Somebody appraised somebody else's evidence."""

    appraiser: str
    appraised: str
    times: int
    refused: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node of the map stands."""

    x: float
    y: float
    caption: str
    style: str


def trust_map(places: Mapping[str, Place], edges: Sequence[Edge]) -> Markup:
    """Draw who appraised whom: an arrow from the appraiser to the appraised, and how often."""
    known = [edge for edge in edges if {edge.appraiser, edge.appraised} <= places.keys()]
    arrows = [
        element(
            "marker",
            element("path", d="M0,0 L8,4 L0,8 z", class_=f"head {style}"),
            id=f"arrow-{style}",
            viewBox="0 0 8 8",
            refX=7,
            refY=4,
            markerWidth=7,
            markerHeight=7,
            orient="auto-start-reverse",
        )
        for style in ("trusts", "refuses")
    ]
    return element(
        "svg",
        element("title", "who appraised whose evidence"),
        element("defs", *arrows),
        *(_edge(edge, places[edge.appraiser], places[edge.appraised]) for edge in known),
        *(_node(name, place) for name, place in places.items()),
        viewBox="0 0 720 380",
        role="img",
        class_="map",
    )


def _edge(edge: Edge, a: Place, b: Place) -> Markup:
    """An arc that bends to one side, so that there and back do not lie on each other; refusals bend further."""
    style = "refuses" if edge.refused else "trusts"
    dx, dy = b.x - a.x, b.y - a.y
    length = hypot(dx, dy) or 1.0
    level = a.y == b.y  # neighbours in a row: an arc below it, one above for the way back
    bend = (0.24 * length + 24 if level else 14.0) + (26.0 if edge.refused else 0.0)
    side = 1.0 if not level or dx < 0 else -1.0
    cx = (a.x + b.x) / 2 - dy / length * bend * side
    cy = (a.y + b.y) / 2 + (abs(bend) if level else dx / length * bend * side)
    start, end = _rim(a, cx, cy), _rim(b, cx, cy)
    verb = "refused" if edge.refused else "appraised and trusts"
    path = f"M{start[0]:.1f},{start[1]:.1f} Q{cx:.1f},{cy:.1f} {end[0]:.1f},{end[1]:.1f}"
    return element(
        "path",
        element("title", f"{edge.appraiser} {verb} {edge.appraised}, {edge.times} times"),
        d=path,
        class_=f"edge {style}{' peer' if level else ''}",
        marker_end=f"url(#arrow-{style})",
    )


def _node(name: str, place: Place) -> Markup:
    return element(
        "g",
        element("rect", x=place.x - 66, y=place.y - 24, width=132, height=48, rx=10, class_=f"node {place.style}"),
        element("text", name, x=place.x, y=place.y - 2, text_anchor="middle", class_="name"),
        element("text", place.caption, x=place.x, y=place.y + 14, text_anchor="middle", class_="tick"),
    )


def _rim(place: Place, towards_x: float, towards_y: float) -> tuple[float, float]:
    """Where a line from the middle of a node leaves its box of 136 by 52."""
    dx, dy = towards_x - place.x, towards_y - place.y
    scale = min(68 / abs(dx) if dx else 1e9, 26 / abs(dy) if dy else 1e9)
    return place.x + dx * scale, place.y + dy * scale


def _line(
    series: Series, points: Sequence[tuple[float, float | None]], y: Callable[[float], float], step: str
) -> Markup:
    drawn = [(x, y(value), value) for x, value in points if value is not None]
    path = " ".join(f"{'M' if index == 0 else 'L'}{px:.1f},{py:.1f}" for index, (px, py, _) in enumerate(drawn))
    dots = [
        element(
            "circle",
            element("title", f"{series.name}, {step} {number + 1}: {value:.3f}"),
            cx=px,
            cy=py,
            r=4,
            class_=f"dot {series.style}",
        )
        for number, (px, py, value) in enumerate(drawn)
    ]
    return element("g", element("path", d=path, class_=f"line {series.style}"), *dots)
