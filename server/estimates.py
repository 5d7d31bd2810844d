"""Estimates of the time that sparse blocks saved, from measured costs: one table a shape of block, shared by models."""

import logging
import threading
from collections.abc import Sequence
from functools import cache

from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.cost import CostModel
from lazyneuron.engine.cost_files import load_costs
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.estimates import BlockEstimate, BlockShape, estimate_block

__all__ = ["Estimates", "shared_estimates"]

_log = logging.getLogger(__name__)


class Estimates:
    """The tables of the blocks that were asked for. Safe to call from several threads.

    Parameters
    ----------
    costs
        What a block's work costs; None: what was measured here, or what comes with lazyneuron.
    """

    def __init__(self, costs: CostModel | None = None) -> None:
        self._costs = costs
        self._broken = False
        self._tables: dict[BlockShape, BlockEstimate | None] = {}
        self._lock = threading.Lock()

    def of(self, manifest: Manifest) -> Sequence[BlockEstimate | None]:
        """Return one estimate for each of a model's blocks, None where the costs do not tell.

        The first time for a shape of block it takes up to some tenths of a second.
        """
        shapes = [BlockShape.of(block, int8=manifest.quantize == "int8") for block in manifest.blocks]
        with self._lock:
            for shape in shapes:
                if shape not in self._tables:
                    self._tables[shape] = self._made(shape)
            return [self._tables[shape] for shape in shapes]

    def _made(self, shape: BlockShape) -> BlockEstimate | None:
        if self._broken:
            return None
        try:
            if self._costs is None:
                found = load_costs()
                _log.debug("%s", found.origin)
                self._costs = found.model
        except ConfigurationError as error:
            self._broken = True
            _log.warning("the time saved is not estimated: %s", error)
            return None
        try:
            return estimate_block(self._costs, shape)
        except ConfigurationError as error:
            _log.warning("the time saved by blocks of mode %s is not estimated: %s", shape.mode, error)
            return None


@cache
def shared_estimates() -> Estimates:
    """Return the process's own, by the costs of this machine."""
    return Estimates()
