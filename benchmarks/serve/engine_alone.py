"""The work of a server without the server: a model called in a loop, in batches as the planner's limits form them.

python engine_alone.py MODEL CONCURRENCY SECONDS REQUESTS.npz   prints {"rate": requests a second, "p50": seconds}
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from lazyneuron.engine.batching import Limits
from lazyneuron.engine.model import Model


def main(path: Path, concurrency: int, seconds: float, requests: Path) -> None:
    model = Model.load(path)
    with np.load(requests) as file:
        names = sorted({name.split("/", 1)[1] for name in file.files})
        count = len({name.split("/", 1)[0] for name in file.files})
        inputs = [{name: file[f"{index}/{name}"] for name in names} for index in range(count)]
    made = [model.request(one) for one in inputs]
    limits = Limits()
    # All of one size: as many of them as both limits let into a batch.
    together = max(1, min(concurrency, limits.max_requests, limits.max_tokens // made[0].tokens))
    times, done, first = [], 0, 0
    for _ in range(5):
        model.run(made[:1] * together)
    ends = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < ends:
        batch = [made[(first + index) % count] for index in range(together)]
        model.run(batch)
        times.append(time.perf_counter() - begun)
        first, done = first + together, done + together
    sys.stdout.write(json.dumps({"rate": done / sum(times), "p50": float(np.median(times)), "batch": together}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
