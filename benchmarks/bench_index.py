"""Searching an index of embeddings: our exact search, our graph, and the libraries that could have carried it.

Vectors of width 256 lie around 500 centres (noise of 0.7 of the centre's length), queries near such vectors; each
contestant answers the same queries, one at a time, for their 10 nearest. The rows say milliseconds a query (median and
95th percentile), processor milliseconds a query (the mean, of all threads, which a busy machine distorts less), the
share of the exact answers found, the time to build, and bytes on disk. Graphs are built alike: 16 neighbours, 128
candidates when building and when searching.

``ours`` is ``VectorIndex.search`` from a Python call to sorted hits; ``ours, graph`` the same with a graph of usearch
that names 40 candidates. The others are called bare: faiss and hnswlib where they are installed (they are no
dependencies of ours). The last row writes and opens our index. One JSON line a row.

    python benchmarks/bench_index.py [--counts 1000,10000,100000] [--queries 200] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

WIDTH, K = 256, 10
CONNECTIVITY, EXPANSION = 16, 128


def main() -> None:
    arguments = parse()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before numpy reads them
        os.environ[name] = str(arguments.threads)
    import numpy as np
    from machine import commit, facts

    print(json.dumps({"name": "machine", **facts(commit()), "threads": arguments.threads}), flush=True)
    for count in map(int, arguments.counts.split(",")):
        rng = np.random.default_rng(count)
        centres = unit(rng.normal(size=(500, WIDTH)))
        stored = unit(centres[rng.integers(0, 500, count)] + 0.7 * unit(rng.normal(size=(count, WIDTH))))
        near = stored[rng.integers(0, count, arguments.queries)]
        queries = unit(near + 0.5 * unit(rng.normal(size=near.shape)))
        right = [set(np.argsort(-(stored @ query), kind="stable")[:K].tolist()) for query in queries]
        for name, contestant in CONTESTANTS.items():
            row = measure(contestant, stored, queries, right, arguments.threads)
            print(json.dumps({"name": name, "items": count, **row}), flush=True)
        print(json.dumps({"name": "ours on disk", "items": count, **on_disk(stored)}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def unit(rows):
    import numpy as np

    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def measure(contestant, stored, queries, right, threads: int) -> dict:
    import numpy as np

    started = time.perf_counter()
    try:
        search, size_bytes, package = contestant(stored, threads)
    except ImportError as error:
        return {"skipped": f"not installed: {error.name}"}
    build_s = time.perf_counter() - started
    for query in queries[:20]:
        search(query)
    times_ms, found, cpu_s = [], 0, 0.0
    for query, expected in zip(queries, right, strict=True):
        began, busy = time.perf_counter(), time.process_time()
        answer = search(query)
        cpu_s += time.process_time() - busy
        times_ms.append(1e3 * (time.perf_counter() - began))
        found += len(expected & set(map(int, answer)))
    return {
        "median_ms": round(float(np.median(times_ms)), 3),
        "p95_ms": round(float(np.quantile(times_ms, 0.95)), 3),
        "processor_ms": round(1e3 * cpu_s / len(queries), 3),
        "recall": round(found / (K * len(queries)), 4),
        "build_s": round(build_s, 2),
        "size_bytes": size_bytes,
        "version": version(package) if package else None,
    }


Prepared = tuple[Callable, int, str]


def our_index(stored):
    from mmcl_edge.runtime.index import VectorIndex
    from mmcl_edge.runtime.index_items import Entry, Origin

    index = VectorIndex(Origin("a" * 64, 1, "b" * 64))
    index.put([Entry(str(number), "image") for number in range(len(stored))], stored)
    return index


def ours(stored, threads: int) -> Prepared:
    index = our_index(stored)
    return lambda query: [hit.source for hit in index.search(query, K, modality="image")], stored.nbytes, "mmcl-edge"


def ours_with_graph(stored, threads: int) -> Prepared:
    import usearch  # noqa: F401

    index = our_index(stored)
    index.build_graphs(from_count=1)
    size_bytes = stored.nbytes + len(index.graphs["image"].save())
    return lambda query: [hit.source for hit in index.search(query, K, modality="image")], size_bytes, "usearch"


def bare_numpy(stored, threads: int) -> Prepared:
    import numpy as np

    def search(query):
        scores = stored @ query
        best = np.argpartition(-scores, K)[:K]
        return best[np.argsort(-scores[best])]

    return search, stored.nbytes, "numpy"


def bare_usearch(stored, threads: int) -> Prepared:
    import numpy as np
    from usearch.index import Index

    index = Index(
        ndim=WIDTH, metric="ip", connectivity=CONNECTIVITY, expansion_add=EXPANSION, expansion_search=EXPANSION
    )
    index.add(np.arange(len(stored)), stored, threads=threads)
    return lambda query: index.search(query, K).keys, index.serialized_length, "usearch"


def faiss_flat(stored, threads: int) -> Prepared:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(stored)
    return lambda query: index.search(query[None], K)[1][0], faiss.serialize_index(index).nbytes, "faiss-cpu"


def faiss_hnsw(stored, threads: int) -> Prepared:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(WIDTH, CONNECTIVITY, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = index.hnsw.efSearch = EXPANSION
    index.add(stored)
    return lambda query: index.search(query[None], K)[1][0], faiss.serialize_index(index).nbytes, "faiss-cpu"


def hnswlib_graph(stored, threads: int) -> Prepared:
    import hnswlib

    index = hnswlib.Index("ip", WIDTH)
    index.init_index(len(stored), M=CONNECTIVITY, ef_construction=EXPANSION)
    index.add_items(stored, num_threads=threads)
    index.set_ef(EXPANSION)
    return lambda query: index.knn_query(query, K)[0][0], index.index_file_size(), "hnswlib"


CONTESTANTS = {
    "ours, exact": ours,
    "ours, graph": ours_with_graph,
    "numpy": bare_numpy,
    "usearch": bare_usearch,
    "faiss flat": faiss_flat,
    "faiss hnsw": faiss_hnsw,
    "hnswlib": hnswlib_graph,
}


def on_disk(stored) -> dict:
    from mmcl_edge.runtime.index_files import read_index, write_index

    index = our_index(stored)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_index(index, Path(folder), Path(folder))
        written = time.perf_counter()
        read_index(Path(folder), index.origin)
        return {
            "write_s": round(written - began, 3),
            "open_s": round(time.perf_counter() - written, 3),
            "size_bytes": sum(path.stat().st_size for path in Path(folder).iterdir()),
        }


if __name__ == "__main__":
    main()
