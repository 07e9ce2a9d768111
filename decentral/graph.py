"""Graphs as arrays of arcs, mixing matrices on them, and the spectral facts of both.

Legend
    N agents, E edges, M = 2 E arcs. An arc a = i→j is one direction of an edge; arcs are sorted by
    (tail, head). Lap = D − A is the graph Laplacian; l_l and l_u are its extreme eigenvalues on vectors of
    zero mean (l_l, the second smallest of all, is the algebraic connectivity).
    W is a mixing matrix: symmetric, rows summing to one, w_ij nonzero only on edges and on the diagonal.
    I − W is the Laplacian with the edge weights w_ij, so that one eigensolver serves both.

Only NumPy is imported here: a rank that receives its arcs from another starts without networkx and SciPy.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from decentral.errors import GraphError, nearest, unknown

if TYPE_CHECKING:
    import networkx as nx
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse.linalg import SuperLU

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

DENSE = 500
"""Up to so many agents eigenvalues come from the dense matrix."""
EXACT_DIAMETER = 2000
"""Up to so many agents the diameter is exact, and ``run.json`` lists the edges."""
FASTEST = 100
"""The largest graph whose fastest weights are computed: two minutes; at 50 agents seconds."""
LOOP = "leave it out: every agent hears itself anyway"
MIXINGS = ("metropolis", "max-degree", "lazy", "best-constant")
"""The mixing matrices that the card shows: those that need nothing but the graph."""


class Graph:
    """A connected, undirected, simple graph of agents 0 … N−1.

    Parameters
        n_agents : N ≥ 1
        tail, head : (M,) both arcs of every edge, in any order
        name : what is printed, e.g. "ring:16"
        positions : (N, 2) coordinates in the plane for drawings, or None

    Attributes
        n_agents, n_arcs : int
        tail, head : (M,) int64, sorted by (tail, head)
        reverse : (M,) int64, index of the opposite arc
        ptr : (N+1,) int64, the arcs that leave agent i are ptr[i]:ptr[i+1]
        degree : (N,) int64

    Raises
        GraphError : an arc that leads nowhere, twice the same arc, an arc without its opposite, a self loop,
            or an agent that cannot be reached
    """

    def __init__(
        self,
        n_agents: int,
        tail: ArrayLike,
        head: ArrayLike,
        name: str = "graph",
        positions: ArrayLike | None = None,
    ) -> None:
        if n_agents < 1:
            raise GraphError(f'graph "{name}" has {n_agents} agents; it needs at least 1')
        n = int(n_agents)
        tails, heads = np.asarray(tail, np.int64).ravel(), np.asarray(head, np.int64).ravel()
        if tails.size != heads.size:
            raise GraphError(
                f'graph "{name}" has {tails.size} tails and {heads.size} heads; give one of each an arc'
            )
        outside = (tails < 0) | (tails >= n) | (heads < 0) | (heads >= n)
        if outside.any():
            i, j = _first(tails, heads, outside)
            raise GraphError(f'graph "{name}" has an arc {i}→{j}; its agents are 0 to {n - 1}')
        if (tails == heads).any():
            i, _ = _first(tails, heads, tails == heads)
            raise GraphError(f'graph "{name}" has a self loop at agent {i}; {LOOP}')
        code = np.sort(tails * n + heads)
        tails, heads = np.divmod(code, n) if code.size else (tails, heads)
        twice = np.concatenate([np.zeros(min(1, code.size), bool), code[1:] == code[:-1]])
        if twice.any():
            i, j = _first(tails, heads, twice)
            raise GraphError(f'graph "{name}" has the arc {i}→{j} twice; edges must be simple')
        opposite = heads * n + tails
        reverse = np.searchsorted(code, opposite)
        alone = code[np.minimum(reverse, code.size - 1)] != opposite if code.size else np.zeros(0, bool)
        if alone.any():
            i, j = _first(tails, heads, alone)
            raise GraphError(f'graph "{name}" has the arc {i}→{j} but not {j}→{i}; give both')

        self.n_agents, self.n_arcs, self.name = n, int(code.size), name
        self.tail, self.head, self.reverse = tails, heads, reverse.astype(np.int64)
        self.degree = np.bincount(tails, minlength=n).astype(np.int64)
        self.ptr = np.concatenate([[0], np.cumsum(self.degree)]).astype(np.int64)
        self.positions = None if positions is None else np.asarray(positions, np.float64)
        if self.positions is not None and self.positions.shape != (n, 2):
            raise GraphError(f'graph "{name}" has positions of shape {self.positions.shape}; give ({n}, 2)')
        missing = np.flatnonzero(self.distances(0) < 0)
        if missing.size:
            raise GraphError(
                f'graph "{name}" is not connected: {n - missing.size} of {n} agents can be reached from '
                f"agent 0, agent {missing[0]} cannot; add edges, or take another seed or a larger degree"
            )

    @classmethod
    def from_networkx(cls, graph: nx.Graph, name: str | None = None) -> Graph:
        """The graph with agents 0 … N−1 in the sorted order of the nodes (their own if they do not sort).

        The node attribute ``pos``, where every node has it, becomes `positions`; `name` is the graph's own if
        none is given.

        Raises
            GraphError : no networkx graph, directed, a multigraph, empty, a self loop, or not connected
        """
        import networkx as nx

        if not isinstance(graph, nx.Graph):
            raise GraphError(f"a topology must be a networkx.Graph; this is a {type(graph).__name__}")
        name = name or graph.name or "graph"
        if graph.is_directed():
            raise GraphError(f'graph "{name}" is directed; edges must go both ways: use its to_undirected()')
        if graph.is_multigraph():
            raise GraphError(
                f'graph "{name}" is a multigraph; edges must be simple: networkx.Graph(g) merges them'
            )
        try:
            nodes = sorted(graph)
        except TypeError:
            nodes = list(graph)
        index = {node: i for i, node in enumerate(nodes)}
        loop = next(nx.nodes_with_selfloops(graph), None)
        if loop is not None:  # said here with the user's own label
            raise GraphError(f'graph "{name}" has a self loop at {loop!r}; {LOOP}')
        edges = np.array([(index[i], index[j]) for i, j in graph.edges()], np.int64).reshape(-1, 2)
        place = [graph.nodes[node].get("pos", ()) for node in nodes]
        return cls(
            len(nodes),
            np.concatenate([edges[:, 0], edges[:, 1]]),
            np.concatenate([edges[:, 1], edges[:, 0]]),
            name,
            place if all(len(point) == 2 for point in place) else None,
        )

    def to_networkx(self) -> nx.Graph:
        """The same graph for networkx: nodes 0 … N−1, with ``pos`` where positions are known."""
        import networkx as nx

        graph = nx.Graph(name=self.name)
        graph.add_nodes_from(range(self.n_agents))
        graph.add_edges_from(self.edges.tolist())
        if self.positions is not None:
            nx.set_node_attributes(graph, dict(enumerate(map(tuple, self.positions.tolist()))), "pos")
        return graph

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {self.n_agents} agents, {self.n_arcs // 2} edges)"

    @cached_property
    def edges(self) -> Ints:
        """(E, 2) pairs i < j, sorted."""
        ahead = self.tail < self.head
        return np.stack([self.tail[ahead], self.head[ahead]], axis=1)

    def neighbors(self, agent: int) -> Ints:
        """The agents next to one, sorted."""
        return self.head[self.ptr[agent] : self.ptr[agent + 1]]

    def distances(self, source: int) -> Ints:
        """(N,) number of edges from one agent to every other; −1 where there is no way."""
        distance = np.full(self.n_agents, -1, np.int64)
        distance[source] = 0
        front = np.array([source])
        while front.size:
            count = self.degree[front]
            # all arcs that leave the front: ptr[i] … ptr[i+1]−1 for each of its agents i
            arcs = np.repeat(self.ptr[front] - (np.cumsum(count) - count), count) + np.arange(count.sum())
            reached = self.head[arcs]
            level = distance[front[0]] + 1
            reached = reached[distance[reached] < 0]
            distance[reached] = level
            front = reached if reached.size < 2 else _distinct(reached)
        return distance

    @cached_property
    def diameter_bounds(self) -> tuple[int, int]:
        """Lower and upper bound of the diameter; equal up to `EXACT_DIAMETER` agents unless dense and long.

        Every search from an agent v bounds the eccentricities of all agents w: if e = ecc(v), δ = dist(v, w),
        max(δ, e − δ) ≤ ecc(w) ≤ e + δ (Takes, Kosters 2011). On symmetric graphs these bounds meet late.
        """
        if self.n_arcs == self.n_agents * (self.n_agents - 1):
            return (int(self.n_agents > 1),) * 2
        least, most = np.zeros(self.n_agents, np.int64), np.full(self.n_agents, self.n_agents - 1)
        source = 0
        for sweep in range(16):
            distance = self.distances(source)
            far = int(distance.max())
            least = np.maximum(least, np.maximum(distance, far - distance))
            most = np.minimum(most, far + distance)
            lower, upper = int(least.max()), int(most.max())
            if lower == upper:
                return lower, upper
            # in turn the agent that may be the farthest out, and the innermost of those that still matter
            inner = np.where(most > lower, least, self.n_agents)
            source = int(most.argmax() if sweep % 2 == 0 else inner.argmin())
        words = self.n_arcs * (self.n_agents // 64 + 1) * lower
        if self.n_agents <= EXACT_DIAMETER and words < 1e9:  # seconds
            lower = upper = self._levels()
        return lower, upper

    def _levels(self) -> int:
        """The diameter by a search from all agents at once: row i has a bit for each agent that reaches i."""
        n = self.n_agents
        known = np.zeros((n, -(-n // 64) * 8), np.uint8)
        known[:, : -(-n // 8)] = np.packbits(np.eye(n, dtype=bool), axis=1)
        bits = known.view(np.uint64)
        chunk = max(1, n * 50_000 // self.n_arcs)  # bounds the copy bits[head] to about 50 000 rows
        for level in range(n):
            grown = bits.copy()
            for low in range(0, n, chunk):
                ptr = self.ptr[low : low + chunk + 1]
                heard = bits[self.head[ptr[0] : ptr[-1]]]
                grown[low : low + chunk] |= np.bitwise_or.reduceat(heard, ptr[:-1] - ptr[0], axis=0)
            if np.array_equal(grown, bits):
                return level
            bits = grown
        return n - 1

    @property
    def diameter(self) -> int:
        """The longest shortest path, in edges; a lower bound where `diameter_bounds` do not meet."""
        return self.diameter_bounds[0]

    @cached_property
    def laplacian_extremes(self) -> tuple[float, float]:
        """(l_l, l_u) of Lap, to about 12 digits; (0, 0) for a single agent."""
        return _extremes(self, np.ones(self.n_arcs))

    def facts(self, mixing: MixingMatrix | None = None) -> dict[str, Any]:
        """What ``run.json`` says of the graph; the gap is that of `mixing` (Metropolis if none is given)."""
        mixing = mixing or metropolis(self)
        low, high = self.diameter_bounds
        l_l, l_u = self.laplacian_extremes
        return {
            "name": self.name,
            "agents": self.n_agents,
            "edges": self.n_arcs // 2,
            **({"arcs": self.edges.tolist()} if self.n_agents <= EXACT_DIAMETER else {}),
            "degree_min": int(self.degree.min()),
            "degree_max": int(self.degree.max()),
            "diameter": low,
            **({"diameter_bounds": [low, high]} if low < high else {}),
            "l_l": l_l,
            "l_u": l_u,
            "weights": mixing.name,
            "gap": mixing.spectral_gap,
        }

    def card(self, mixings: Iterable[str | MixingMatrix] = MIXINGS) -> str:
        """Several lines that tell a reader what this graph means for the methods."""
        low, high = self.diameter_bounds
        l_l, l_u = self.laplacian_extremes
        least, most, mean = self.degree.min(), self.degree.max(), self.degree.mean()
        rows = {
            "agents": self.n_agents,
            "edges": self.n_arcs // 2,
            "degree": f"{most} everywhere" if least == most else f"{least} to {most}, mean {mean:.4g}",
            "diameter": low if low == high else f"{low} to {high}",
            "Laplacian": f"l_l = {l_l:.6g}, l_u = {l_u:.6g}"
            + (f", l_u / l_l = {l_u / l_l:.6g}" if l_l else ""),
        }
        lines = [self.name, *(f"  {key:<11}{value}" for key, value in rows.items())]
        columns = "  {:<16}{:>12}{:>12}{:>12}   {}"
        lines += [
            "",
            columns.format("mixing matrix", "lambda_2", "lambda_min", "gap", "consensus error of x ← W x"),
        ]
        for item in mixings:
            w = mixing(self, item) if isinstance(item, str) else item
            numbers = (f"{value:.6g}" for value in (w.lambda_2, w.lambda_min, w.spectral_gap))
            lines.append(columns.format(w.name, *numbers, w.in_words()))
        return "\n".join(lines)


class MixingMatrix:
    """Weights w_ij on the arcs of a graph, symmetric and with rows that sum to one.

    Parameters
        graph : the graph on whose arcs the weights lie
        weights : (M,) w_ij of arc i→j, in the order of the graph's arcs
        name : which rule made them

    Attributes
        graph, name
        weights : (M,) float64, bitwise equal on both arcs of an edge
        self_weights : (N,) float64, w_ii

    Raises
        GraphError : another number of weights than arcs, a weight that is not finite, or w_ij ≠ w_ji
    """

    def __init__(self, graph: Graph, weights: ArrayLike, name: str = "given") -> None:
        w = np.array(weights, np.float64)
        if w.shape != (graph.n_arcs,):
            raise GraphError(
                f'mixing matrix "{name}" has {w.shape} weights; {graph.name} has {graph.n_arcs} arcs'
            )
        wrong = ~(np.abs(w - w[graph.reverse]) <= 1e-9)  # true for NaN too
        if wrong.any():
            arc = int(np.flatnonzero(wrong)[0])
            i, j = graph.tail[arc], graph.head[arc]
            raise GraphError(
                f'mixing matrix "{name}" must be finite and symmetric; w[{i}, {j}] = {w[arc]:.9g}, '
                f"w[{j}, {i}] = {w[graph.reverse[arc]]:.9g}"
            )
        # Exactly equal on both arcs, so that what an edge adds at one end it takes away at the other.
        self.weights: Floats = 0.5 * (w + w[graph.reverse])
        self.self_weights: Floats = 1.0 - _sums(graph, self.weights)
        self.graph, self.name = graph, name

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """W x for agent rows x (N, d), in difference form x_i + Σ_j w_ij (x_j − x_i), summed in arc order.

        Allocates (M, d); methods use the neighborhood instead.
        """
        x = np.asarray(x)
        if not self.graph.n_arcs:
            return x.copy()
        w = self.weights.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        return x + np.add.reduceat(w * (x[self.graph.head] - x[self.graph.tail]), self.graph.ptr[:-1], axis=0)

    def dense(self) -> Floats:
        """(N, N) the matrix itself, for small graphs."""
        matrix = np.diag(self.self_weights)
        matrix[self.graph.tail, self.graph.head] = self.weights
        return matrix

    @cached_property
    def _disagreement(self) -> tuple[float, float]:
        """(1 − λ₂, 1 − λ_min): the extreme eigenvalues of I − W on vectors of zero mean."""
        if not self.graph.n_arcs:
            return 1.0, 1.0
        if (self.weights == self.weights[0]).all():
            l_l, l_u = self.graph.laplacian_extremes
            return _round(self.weights[0] * l_l), _round(self.weights[0] * l_u)
        return _extremes(self.graph, self.weights)

    @property
    def lambda_2(self) -> float:
        """The largest eigenvalue beside the 1 of consensus; 0 for a single agent."""
        return 1.0 - self._disagreement[0]

    @property
    def lambda_min(self) -> float:
        """The smallest eigenvalue λ_N beside the 1 of consensus; 0 for a single agent."""
        return 1.0 - self._disagreement[1]

    @property
    def spectral_gap(self) -> float:
        """1 − max(|λ₂|, |λ_min|), accurate also when tiny; not positive where W does not average."""
        low, high = self._disagreement
        return min(low, 2.0 - high)

    @property
    def slowest(self) -> str:
        """Which eigenvalue sets the gap: "lambda_2", or "lambda_min" (then the lazy matrix mixes faster)."""
        low, high = self._disagreement
        return "lambda_2" if low <= 2.0 - high + 1e-11 else "lambda_min"

    def in_words(self) -> str:
        """What the gap means: the rounds of x ← W x that halve the consensus error at worst."""
        gap = self.spectral_gap
        if gap <= 1e-12:
            return "never vanishes"
        if gap >= 1 - 1e-12:
            return "vanishes in one round"
        rounds = math.log(2) / (-2 * math.log1p(-gap))  # the consensus error is squared: (1 − gap)² a round
        return f"halves in {rounds:.3g} rounds ({self.slowest})" if rounds > 1 else "halves within a round"


def mixing(graph: Graph, name: str = "metropolis", **params: Any) -> MixingMatrix:
    """The mixing matrix of a rule: one of `RULES`, with the parameters of its function.

    Raises
        GraphError : an unknown rule or parameter, or a matrix that is none (see the rules)
    """
    rule = RULES.get(name)
    if rule is None:
        raise GraphError(unknown("mixing matrix", name, RULES, "decentral list weights"))
    known = list(inspect.signature(rule).parameters)[1:]
    for key in params:
        if key not in known:
            takes = f"it takes {', '.join(known) or 'none'}{nearest(key, known)}"
            raise GraphError(f'unknown parameter "{key}" of mixing matrix "{name}"; {takes}')
    if name == "given" and "matrix" not in params:
        raise GraphError(
            'mixing matrix "given" needs its "matrix": an array (N, N) or the path of an .npy file'
        )
    return rule(graph, **params)


def metropolis(graph: Graph) -> MixingMatrix:
    """w_ij = 1 / (1 + max(d_i, d_j)), the default: takes only the degrees of both (Xiao, Boyd, Kim 2007)."""
    d = graph.degree
    return MixingMatrix(graph, 1.0 / (1.0 + np.maximum(d[graph.tail], d[graph.head])), "metropolis")


def max_degree(graph: Graph) -> MixingMatrix:
    """w_ij = 1 / (1 + max_k d_k): W = I − Lap / (1 + d_max)."""
    return MixingMatrix(graph, np.full(graph.n_arcs, 1.0 / (1.0 + graph.degree.max())), "max-degree")


def lazy(graph: Graph, base: str = "metropolis") -> MixingMatrix:
    """(I + W) / 2 for another rule W: positive semidefinite, as several methods demand."""
    name = "lazy" if base == "metropolis" else f"lazy {base}"
    return MixingMatrix(graph, mixing(graph, base).weights / 2, name)


def best_constant(graph: Graph) -> MixingMatrix:
    """W = I − α Lap with the best constant α = 2 / (l_l + l_u) (Xiao, Boyd 2004, section 4.1).

    Entries of the diagonal may be negative."""
    alpha = 2.0 / sum(graph.laplacian_extremes) if graph.n_arcs else 0.0
    return MixingMatrix(graph, np.full(graph.n_arcs, alpha), "best-constant")


def fastest(graph: Graph, nonnegative: bool = True) -> MixingMatrix:
    """The symmetric weights of largest spectral gap, by semidefinite programming (cvxpy).

    minimise s  subject to  (1 − s) I ≤ Σ_e w_e a_e a_eᵀ + 11ᵀ/N,  Σ_e w_e a_e a_eᵀ ≤ (1 + s) I,
    where a_e = e_i − e_j for edge e = {i, j} (Xiao, Boyd 2004); with `nonnegative` also W ≥ 0 (fastest mixing
    Markov chain: Boyd, Diaconis, Xiao 2004).

    Raises
        GraphError : more than `FASTEST` agents, cvxpy is missing, or its solver failed
    """
    n, edges, instead = graph.n_agents, graph.edges, 'take "best-constant"'
    if n > FASTEST:
        raise GraphError(f'mixing matrix "fastest" is computed up to {FASTEST} agents, not {n}; {instead}')
    if n == 1:
        return MixingMatrix(graph, [], "fastest")
    try:
        import cvxpy as cp
    except ImportError:
        raise GraphError(
            f'mixing matrix "fastest" needs cvxpy: pip install decentral[fastest]; or {instead}'
        ) from None
    incidence = np.zeros((n, len(edges)))
    incidence[edges[:, 0], np.arange(len(edges))] = 1.0
    incidence[edges[:, 1], np.arange(len(edges))] = -1.0
    w, s = cp.Variable(len(edges)), cp.Variable()
    laplacian = incidence @ cp.diag(w) @ incidence.T
    limits = [laplacian + np.full((n, n), 1 / n) >> (1 - s) * np.eye(n), laplacian << (1 + s) * np.eye(n)]
    if nonnegative:
        limits += [w >= 0, np.abs(incidence) @ w <= 1]
    problem = cp.Problem(cp.Minimize(s), limits)
    try:
        problem.solve(solver=cp.CLARABEL)
    except cp.SolverError as failure:
        raise GraphError(f'mixing matrix "fastest" of {graph.name}: {failure}; {instead}') from None
    if w.value is None:
        raise GraphError(f'mixing matrix "fastest" of {graph.name}: {problem.status}; {instead}')
    # Cut where the solver's noise begins, which would be another on each machine.
    solution = np.round(w.value, 8)
    if nonnegative:  # to the last bit
        solution = np.maximum(solution, 0.0) / max(1.0, (np.abs(incidence) @ solution).max())
    weights = np.zeros(graph.n_arcs)
    weights[graph.tail < graph.head] = solution
    return MixingMatrix(graph, weights + weights[graph.reverse], "fastest")


def given(graph: Graph, matrix: Any) -> MixingMatrix:
    """The weights of a matrix (N, N), of an array or of the path of an .npy file.

    Raises
        GraphError : no such file, another shape, not symmetric, rows that do not sum to one, a weight where
            the graph has no edge, or a matrix that does not average: beside the 1 of consensus, an eigenvalue
            outside (−1, 1)
    """
    if isinstance(matrix, str):
        try:
            matrix = np.load(matrix, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise GraphError(
                f'mixing matrix "given": cannot read "{matrix}" as .npy file ({error})'
            ) from None
    dense, n = np.asarray(matrix, np.float64), graph.n_agents
    if dense.shape != (n, n):
        raise GraphError(f'mixing matrix "given" has shape {dense.shape}; {graph.name} needs ({n}, {n})')
    off = dense - np.diag(np.diag(dense))
    off[graph.tail, graph.head] = 0.0
    if np.any(off):
        i, j = np.argwhere(off)[0]
        raise GraphError(
            f'mixing matrix "given" has w[{i}, {j}] = {dense[i, j]:.9g}, but {graph.name} has no such edge'
        )
    w = MixingMatrix(graph, dense[graph.tail, graph.head], "given")
    wrong = ~(np.abs(np.diag(dense) - w.self_weights) <= 1e-9)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise GraphError(f'mixing matrix "given": row {i} sums to {dense[i].sum():.9g}; it must sum to 1')
    if w.spectral_gap <= 1e-12:
        raise GraphError(
            f'mixing matrix "given" does not average: lambda_2 = {w.lambda_2:.9g}, lambda_min = '
            f"{w.lambda_min:.9g}; both must lie strictly between -1 and 1"
        )
    return w


RULES: dict[str, Callable[..., MixingMatrix]] = {
    "metropolis": metropolis,
    "max-degree": max_degree,
    "lazy": lazy,
    "best-constant": best_constant,
    "fastest": fastest,
    "given": given,
}


def _distinct(values: Ints) -> Ints:
    """The values sorted, each once; np.unique would import numpy.ma, a tenth of what NumPy takes to start."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])]


def _first(tail: Ints, head: Ints, where: NDArray[np.bool_]) -> tuple[int, int]:
    arc = int(np.flatnonzero(where)[0])
    return int(tail[arc]), int(head[arc])


def _sums(graph: Graph, arcs: Floats) -> Floats:
    """(N,) the sum of a number per arc over the arcs that leave each agent, in arc order."""
    return np.bincount(graph.tail, arcs, minlength=graph.n_agents).astype(np.float64)


def _extremes(graph: Graph, weights: Floats) -> tuple[float, float]:
    """Extreme eigenvalues, on vectors of zero mean, of the Laplacian with arc weights (M,)."""
    if graph.n_agents == 1:
        return 0.0, 0.0
    low, high = (_dense if graph.n_agents <= DENSE else _sparse)(graph, weights)
    return _round(low), _round(high)


def _round(value: float) -> float:
    """To 12 digits: the last ones depend on the linear algebra library and its threads, and would make step
    sizes that are computed from them differ from machine to machine."""
    return float(f"{value:.12g}")


def _dense(graph: Graph, weights: Floats) -> tuple[float, float]:
    n = graph.n_agents
    diagonal = _sums(graph, weights)
    # Moves the eigenvalue 0 of the constant vector to the mean of the others, between their extremes.
    matrix = np.full((n, n), diagonal.sum() / (n - 1) / n)
    matrix[graph.tail, graph.head] -= weights
    matrix[np.diag_indices(n)] += diagonal
    values = np.linalg.eigvalsh(matrix)
    return float(values[0]), float(values[-1])


def _sparse(graph: Graph, weights: Floats) -> tuple[float, float]:
    """By Lanczos, quick on graphs that mix well; where it is not (rings, paths: few edges join the halves, so
    that sparse factors are small) by Lanczos on the inverse."""
    from scipy.sparse import csr_array, diags_array, eye_array
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh, splu

    n = graph.n_agents
    diagonal = _sums(graph, weights)
    middle = diagonal.sum() / (n - 1)  # of the eigenvalues on vectors of zero mean, see _dense
    laplacian = diags_array(diagonal) - csr_array((weights, graph.head, graph.ptr), shape=(n, n))
    start = np.random.RandomState(0).uniform(-1, 1, n)  # a stream that NumPy has frozen

    def extreme(
        function: Callable[[Floats], Floats], tol: float = 1e-10, **options: Any
    ) -> tuple[float, Floats]:
        operator = LinearOperator((n, n), matvec=function, dtype=np.float64)
        values, vectors = eigsh(operator, k=1, v0=start, tol=tol, **options)
        return float(values[0]), vectors[:, 0]

    def shifted(x: Floats) -> Floats:
        return laplacian @ x + middle * x.mean()

    def factor(matrix: Any) -> SuperLU:
        return splu(matrix.tocsc(), "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})

    try:
        high, _ = extreme(shifted, which="LA", ncv=40, maxiter=40)
    except ArpackNoConvergence:
        rough, _ = extreme(shifted, tol=1e-3, which="LA", ncv=40)
        for step in 10.0 ** np.arange(-6, 2):  # to the first shift above all eigenvalues
            above = rough * (1 + step)
            factors = factor(above * eye_array(n) - laplacian)
            if factors.U.diagonal().min() > 0:  # then the matrix is positive definite
                break
        inverse, _ = extreme(factors.solve, which="LA")
        high = above - 1 / inverse
    try:
        low, _ = extreme(shifted, which="SA", ncv=40, maxiter=40)
    except ArpackNoConvergence:
        if weights.min() <= 0:
            raise GraphError(f"the spectrum of weights <= 0 on {graph.name} did not converge") from None
        ground = int(diagonal.argmax())
        rest = np.delete(np.arange(n), ground)
        factors = factor(laplacian.tocsr()[rest][:, rest])

        def pseudoinverse(x: Floats) -> Floats:
            y = np.zeros(n)
            y[rest] = factors.solve((x - x.mean())[rest])
            return y - y.mean()

        _, x = extreme(pseudoinverse, which="LA")
        # The Rayleigh quotient as a sum of squares has full relative accuracy, however small it is.
        low = float(weights @ (x[graph.tail] - x[graph.head]) ** 2 / 2 / (x @ x))
    return low, high
