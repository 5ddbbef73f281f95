"""Per-sample gradients of one parameter, in the form that makes each question cheap.

Whatever its form, a factor of ``n`` samples and a parameter of ``p`` numbers answers: ``squared_norms()``, shape (n,);
``weighted_sums(c)`` for coefficients (n, k), or None for ones, shape (k, p); ``squares_and_sum()``, the norms and the
plain sum, shape (p,), at the price of one; ``projections(v)`` for directions (k, p), shape (n, k); ``inner(other)``,
shape (n, m); ``dense()``, shape (n, p); ``numel()``, the numbers it holds. Norms, projections and inner products are
float64; sums have the dtype of the pass.
"""

from collections.abc import Iterator
from functools import cached_property

import torch

MOVED = 24  # products in whose time a number of a sample's gradient is written and read again
PIECE = 2**12  # numbers whose squares are added up in float32
BLOCK_NUMBERS = 2**18  # in gradients of single samples made at once on a CPU: they stay in a core's own cache


class Explicit:
    """The gradients themselves: right for small parameters, such as biases and scales.

    Parameters
    ----------
    rows : tensor, shape (n, p)
    """

    def __init__(self, rows: torch.Tensor):
        self.rows = rows

    def numel(self) -> int:
        return self.rows.numel()

    def dense(self) -> torch.Tensor:
        return self.rows

    def squared_norms(self) -> torch.Tensor:
        return row_squares(self.rows)

    def squares_and_sum(self) -> tuple[torch.Tensor, torch.Tensor]:
        return row_squares(self.rows), self.rows.sum(dim=0)

    def weighted_sums(self, coefficients: torch.Tensor | None) -> torch.Tensor:
        return _combined(self.rows, coefficients)

    def projections(self, directions: torch.Tensor) -> torch.Tensor:
        return double(self.rows @ directions.T)

    def inner(self, other) -> torch.Tensor:
        return double(self.rows) @ double(other.dense()).T


class Outer:
    """Sums over positions of outer products, group by group: the weights of linear and convolutional layers.

    One position for a plain linear layer, one for each token or patch otherwise; layers used several times in a pass
    have the positions of all uses. With T positions, I inputs and O outputs a sample's gradient costs ``T I O``
    products. What it saves depends on the question. The sum over samples needs ``T I O`` products a sample either way,
    so its norm is free then, but for moving I O numbers about; without the gradient the norm takes ``T^2 (I + O)``
    more, which is less where positions are few. A projection on each of k directions takes ``k I O`` with the gradient
    and ``k T I O`` without. Gradients are made of a few samples at a time, so that they stay in the processor's cache;
    they are kept only where they hold less than what they are made of.

    Parameters
    ----------
    inputs : tensor, shape (n, groups, T, I)
    deltas : tensor, shape (n, groups, T, O)
    """

    def __init__(self, inputs: torch.Tensor, deltas: torch.Tensor):
        self.inputs, self.deltas = inputs, deltas
        n, groups, positions, n_inputs = inputs.shape
        self._measure(n, groups, positions, n_inputs, deltas.shape[-1], inputs.numel() + deltas.numel())

    def _measure(self, n: int, groups: int, positions: int, n_inputs: int, n_outputs: int, held: int) -> None:
        """Sizes, and what follows from them; ``held``: numbers that the gradients are made of."""
        self.n, self.groups, self.positions, self.n_inputs, self.n_outputs = n, groups, positions, n_inputs, n_outputs
        self.held, self.size = held, n_inputs * n_outputs
        in_products = positions**2 * (n_inputs + n_outputs)
        self.explicit = positions > 1 and in_products > MOVED * self.size
        self.keeps_rows = self.explicit and n * groups * self.size <= held

    def joined(self, other: "Outer") -> "Outer":
        """Both uses of the same parameter in one."""
        return Outer(torch.cat([self.inputs, other.inputs], 2), torch.cat([self.deltas, other.deltas], 2))

    def _some_rows(self, part: slice) -> torch.Tensor:
        """Gradients of some samples."""
        return torch.matmul(self.deltas[part].transpose(-1, -2), self.inputs[part]).flatten(1)

    def _block_size(self) -> int:
        """Samples whose gradients are made at once."""
        return BLOCK_NUMBERS // (self.groups * self.size)

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Gradients, some samples at a time."""
        if self.keeps_rows or "_rows" in self.__dict__:
            yield slice(0, self.n), self._rows
            return
        at_once = max(1, self._block_size()) if self.deltas.device.type == "cpu" else self.n
        for start in range(0, self.n, at_once):
            part = slice(start, start + at_once)
            yield part, self._some_rows(part)

    @cached_property
    def _rows(self) -> torch.Tensor:
        return self._some_rows(slice(0, self.n))

    def _by_rows(self, k: int) -> bool:
        """Whether k projections or weighted sums cost less with the gradients of single samples."""
        if self.keeps_rows or "_rows" in self.__dict__:
            return True
        moved = MOVED if self.groups * self.size <= BLOCK_NUMBERS else 4 * MOVED  # to where no cache is so near
        return k * self.positions > self.positions + k + moved

    def numel(self) -> int:
        return self.held + (self.n * self.groups * self.size if self.keeps_rows else 0)

    def dense(self) -> torch.Tensor:
        return self._rows

    def squared_norms(self) -> torch.Tensor:
        if self.positions == 1:
            return (row_squares(self.inputs) * row_squares(self.deltas)).sum(dim=(1, 2))
        if self.explicit:
            return torch.cat([row_squares(rows) for _, rows in self._blocks()])
        return _squares_of_products(self.inputs, self.deltas)

    def squares_and_sum(self) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.explicit:
            inputs, deltas = self.inputs, self.deltas  # once: a convolution lays them out
            whole = Outer(inputs, deltas)
            return whole.squared_norms(), whole.weighted_sums(None)[0]
        norms, total = [], self.deltas.new_zeros(self.groups * self.size)
        for _, rows in self._blocks():
            norms.append(_norms_of_pieces(rows))
            total += rows.sum(dim=0)
        squares = double(torch.cat(norms)).square_().sum(dim=-1)
        return (squares if bool(torch.isfinite(squares).all()) else self.squared_norms()), total

    def weighted_sums(self, coefficients: torch.Tensor | None) -> torch.Tensor:
        k = 1 if coefficients is None else coefficients.shape[1]
        if self._by_rows(k):
            parts = [
                _combined(rows, None if coefficients is None else coefficients[part]) for part, rows in self._blocks()
            ]
            return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
        inputs, deltas = _by_group(self.inputs), _by_group(self.deltas)
        if coefficients is None:
            return (deltas.mT @ inputs).reshape(1, -1)
        columns = coefficients.to(deltas.dtype).repeat_interleave(self.positions, dim=0)  # (n T, k)
        weighted = (columns[:, :, None] * deltas.unsqueeze(-2)).flatten(-2)  # ([groups,] n T, k O)
        sums = (weighted.mT @ inputs).view(self.groups, k, -1)  # one wide matrix product for all columns
        return sums.transpose(0, 1).flatten(1)

    def projections(self, directions: torch.Tensor) -> torch.Tensor:
        k, groups = len(directions), self.groups
        if self._by_rows(k):
            return double(torch.cat([rows @ directions.T for _, rows in self._blocks()]))
        matrices = directions.view(k, groups, self.n_outputs, self.n_inputs)
        stacked = matrices.transpose(0, 1).reshape(groups, k * self.n_outputs, self.n_inputs)
        stacked = stacked[0] if groups == 1 else stacked
        pushed = (_by_group(self.inputs) @ stacked.mT).unflatten(-1, (k, self.n_outputs))  # ([groups,] n T, k, O)
        along = double(torch.linalg.vecdot(pushed, _by_group(self.deltas).unsqueeze(-2)))
        return along.view(groups, self.n, self.positions, k).sum(dim=(0, 2))

    def inner(self, other) -> torch.Tensor:
        if not isinstance(other, Outer):
            return double(self.dense()) @ double(other.dense()).T
        own = self.positions * other.positions * (self.n_inputs + self.n_outputs)
        if self.positions * other.positions > 1 and own > self.size:
            return double(self._rows) @ double(other._rows).T
        total = torch.zeros(self.n, other.n, dtype=accumulator(self.deltas.device), device=self.deltas.device)
        inputs, deltas, others, ahead = self.inputs, self.deltas, other.inputs, other.deltas
        for group in range(self.groups):
            a, b = double(inputs[:, group].flatten(0, 1)), double(others[:, group].flatten(0, 1))
            d, e = double(deltas[:, group].flatten(0, 1)), double(ahead[:, group].flatten(0, 1))
            products = (a @ b.T) * (d @ e.T)
            total += products.view(self.n, self.positions, other.n, other.positions).sum(dim=(1, 3))
        return total


class Rows:
    """Gradients that fill few rows of a tall table: embeddings.

    Parameters
    ----------
    index : tensor of int64, shape (n, T)
        Row used at each position.
    deltas : tensor, shape (n, T, width)
    height : int
        Rows of the table.
    """

    def __init__(self, index: torch.Tensor, deltas: torch.Tensor, height: int):
        self.index, self.deltas, self.height = index, deltas, height

    def joined(self, other: "Rows") -> "Rows":
        """Both uses of the same table in one."""
        return Rows(torch.cat([self.index, other.index], 1), torch.cat([self.deltas, other.deltas], 1), self.height)

    def numel(self) -> int:
        return self.deltas.numel()

    def dense(self) -> torch.Tensor:
        n, _, width = self.deltas.shape
        rows = self.deltas.new_zeros(n, self.height, width)
        return rows.scatter_add_(1, self.index[..., None].expand_as(self.deltas), self.deltas).flatten(1)

    def squared_norms(self) -> torch.Tensor:
        same = self.index[:, :, None] == self.index[:, None, :]
        products = (self.deltas @ self.deltas.transpose(1, 2)) * same
        return double(products.flatten(1).sum(dim=1)).clamp_min_(0)

    def squares_and_sum(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.squared_norms(), self.weighted_sums(None)[0]

    def weighted_sums(self, coefficients: torch.Tensor | None) -> torch.Tensor:
        width, sums = self.deltas.shape[-1], []
        for weighted in _weighted(self.deltas, coefficients):
            table = self.deltas.new_zeros(self.height, width)
            sums.append(table.index_add_(0, self.index.flatten(), weighted.flatten(0, 1)))
        return torch.stack(sums).flatten(1)

    def projections(self, directions: torch.Tensor) -> torch.Tensor:
        tables = directions.view(len(directions), self.height, -1)
        columns = [(table[self.index] * self.deltas).sum(dim=(1, 2)) for table in tables]
        return double(torch.stack(columns, dim=1))

    def inner(self, other) -> torch.Tensor:
        return double(self.dense()) @ double(other.dense()).T


def joined(one, other):
    """The factor of a parameter used twice."""
    alike = any(isinstance(one, kind) and isinstance(other, kind) for kind in (Outer, Rows))
    if alike and _same_form(one, other):
        return one.joined(other)
    return Explicit(one.dense() + other.dense())


def _by_group(values: torch.Tensor) -> torch.Tensor:
    """(n, groups, T, width) with samples and positions in one: (n T, width), or (groups, n T, width) for several."""
    if values.shape[1] == 1:
        return values.flatten(0, 2)
    return values.transpose(0, 1).flatten(1, 2)


def _squares_of_products(inputs: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """Squared norms of sums of outer products, from the inner products of their factors at every two positions."""
    products = (inputs @ inputs.transpose(-1, -2)) * (deltas @ deltas.transpose(-1, -2))
    return double(products.flatten(1).sum(dim=1)).clamp_min_(0)


def _combined(rows: torch.Tensor, coefficients: torch.Tensor | None) -> torch.Tensor:
    if coefficients is None:
        return rows.sum(dim=0, keepdim=True)
    return coefficients.to(rows.dtype).T @ rows


def _weighted(deltas: torch.Tensor, coefficients: torch.Tensor | None) -> list[torch.Tensor]:
    """Deltas of shape (n, ...), each sample's scaled by its coefficient, for every column of coefficients."""
    if coefficients is None:
        return [deltas]
    shape = (-1, *[1] * (deltas.ndim - 1))
    return [deltas * column.view(shape) for column in coefficients.to(deltas.dtype).T]


def _same_form(one, other) -> bool:
    if isinstance(one, Rows):
        return True
    return (one.groups, one.n_inputs, one.n_outputs) == (other.groups, other.n_inputs, other.n_outputs)


def accumulator(device: torch.device) -> torch.dtype:
    """float64, but float32 on devices that have no other (Apple's)."""
    return torch.float32 if device.type == "mps" else torch.float64


def double(values: torch.Tensor) -> torch.Tensor:
    """In the dtype in which sums over samples and layers are kept."""
    return values.to(accumulator(values.device))


def row_squares(values: torch.Tensor) -> torch.Tensor:
    """Squared norms of the last axis; float32 within `PIECE` numbers (relative error some 1e-7), float64 from there on.

    Over millions of numbers PyTorch's own norm in float32 is wrong by 1e-4.
    """
    squares = double(_norms_of_pieces(values)).square_().sum(dim=-1)
    if not bool(torch.isfinite(squares).all()):  # float32 may overflow where float64 does not; true infinities stay
        squares = double(torch.linalg.vector_norm(values, dim=-1, dtype=accumulator(values.device))).square_()
    return squares


def _norms_of_pieces(values: torch.Tensor) -> torch.Tensor:
    """Norms of the last axis in pieces, shape (..., pieces)."""
    size = values.shape[-1]
    whole = size // PIECE * PIECE if size > 2 * PIECE else 0
    rest = torch.linalg.vector_norm(values[..., whole:], dim=-1, keepdim=True)
    if not whole:
        return rest
    return torch.cat([torch.linalg.vector_norm(values[..., :whole].unflatten(-1, (-1, PIECE)), dim=-1), rest], dim=-1)
