"""Sparse matrices are data: they come back as they were, with one digest however they were made."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse")

from mlbench.backends.memory import MemoryBlobs  # noqa: E402
from mlbench.core.errors import ArtifactCorrupt  # noqa: E402
from mlbench.runs import pickles  # noqa: E402
from mlbench.runs.artifacts import Loader, save_names  # noqa: E402
from mlbench.runs.values import Encoded, pack, seal, split, unpack  # noqa: E402
from mlbench.runs.values import join as joined  # noqa: E402

KINDS = ("csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "csc_array", "coo_array")


def matrix(kind: str, dtype: str = "f8") -> Any:
    found = sparse.random(50, 60, 0.1, format="csr", random_state=0)
    found.data[:] = np.arange(found.nnz) % 7
    return getattr(sparse, kind)(found.astype(dtype))


def again(value: Any) -> Any:
    packed = pack(value)
    assert packed.codec == "sparse"
    return unpack(packed.codec, split(bytearray(joined(packed.parts))))


@pytest.mark.parametrize("dtype", ["f8", "f4", "?", "i8", "u2", "c16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sparse_matrix_comes_back_as_it_was_and_can_be_computed_with(kind: str, dtype: str) -> None:
    value = matrix(kind, dtype)
    found = again(value)
    assert (type(found), found.shape, found.dtype, found.nnz) == (type(value), value.shape, value.dtype, value.nnz)
    assert (found.toarray() == value.toarray()).all()
    assert found.has_canonical_format == value.has_canonical_format
    assert vars(found).keys() <= vars(value).keys()
    assert pack(found).digest == pack(value).digest
    assert (found @ found.T).nnz == (value @ value.T).nnz
    found.data[0] = 1  # in place


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 4)])
def test_an_empty_one_is_one(kind: str, shape: tuple[int, int]) -> None:
    found = again(getattr(sparse, kind)(shape, dtype="i1"))
    assert (found.shape, found.dtype, found.nnz) == (shape, "i1", 0)


def test_arrays_of_one_and_of_three_dimensions_are_kept_too() -> None:
    try:
        values = [
            sparse.csr_array(np.array([1.0, 0, 2])),
            sparse.coo_array(np.array([1.0, 0, 2])),
            sparse.coo_array((np.ones(2), (np.array([0, 1]),) * 3), shape=(2, 2, 2)),
        ]
    except (ValueError, TypeError):
        pytest.skip("this SciPy knows two dimensions only")
    for value in values:
        found = again(value)
        assert (type(found), found.shape) == (type(value), value.shape)
        np.testing.assert_array_equal(found.toarray(), value.toarray())


def test_indexes_keep_their_size_and_their_order() -> None:
    value = matrix("csr_matrix")
    value.indices, value.indptr = value.indices.astype("i8"), value.indptr.astype("i8")
    assert again(value).indices.dtype == "i8"
    unsorted = sparse.csr_matrix((np.array([1.0, 2, 3]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    found = again(unsorted)
    assert not found.has_sorted_indices
    assert not found.has_canonical_format
    assert found.data.tolist() == [1, 2, 3]
    twice = sparse.coo_matrix((np.ones(2), (np.array([0, 0]), np.array([1, 1]))), shape=(2, 2))
    assert again(twice).nnz == 2
    assert not again(twice).has_canonical_format
    twice.sum_duplicates()
    assert again(twice).has_canonical_format


def test_what_lies_behind_the_last_number_changes_no_digest() -> None:
    value = matrix("csr_array")
    longer = value.copy()
    longer.data = np.append(longer.data, 9.0)
    longer.indices = np.append(longer.indices, np.int32(77))
    assert pack(longer).digest == pack(value).digest
    value.has_canonical_format  # noqa: B018  what it has found out is no part of it
    assert pack(longer).digest == pack(value).digest


def test_the_digest_is_the_same_in_another_process_and_nothing_imports_scipy_there() -> None:
    script = (
        "import sys\n"
        "from mlbench.runs.values import pack\n"
        "pack([1, 'a']), pack(2.5)\n"
        "assert 'scipy' not in sys.modules\n"
        "import numpy as np, scipy.sparse as sp\n"
        "print(pack(sp.csr_array(np.eye(3))).digest)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == pack(sparse.csr_array(np.eye(3))).digest


def test_a_sparse_matrix_is_loaded_whoever_has_stored_it() -> None:
    blobs = MemoryBlobs()
    (binding,) = save_names({"words": matrix("csr_matrix")}, ["words"], blobs)
    assert binding.artifact is not None
    assert (binding.artifact.codec, binding.artifact.signature) == ("sparse", None)
    assert Loader(blobs, accepts=lambda _: False).load(binding).nnz == matrix("csr_matrix").nnz


def test_two_that_share_their_numbers_still_do_when_they_are_loaded() -> None:
    words = matrix("csr_matrix")
    numbers, blobs = words.data, MemoryBlobs()
    binds = save_names({"words": words, "numbers": numbers}, ["words", "numbers"], blobs)
    loader = Loader(blobs)
    found = [loader.load(one) for one in binds]
    found[1][0] = 99
    assert found[0].data[0] == 99


def test_one_that_was_pickled_before_is_loaded_as_it_was() -> None:
    value = matrix("csc_array")
    old = seal(Encoded("pickle", "scipy.sparse._csc.csc_array", tuple(pickles.dump(value))))
    assert (unpack(old.codec, old.parts) != value).nnz == 0


def test_what_a_matrix_is_not_made_of_is_pickled() -> None:
    class Mine(sparse.csr_array):  # type: ignore[misc]
        """Not SciPy's own."""

    named = matrix("csr_matrix")
    named.unit = "words"
    broken = matrix("csr_matrix")
    broken.indices[0] = 1000
    for value in (Mine(np.eye(2)), named, broken, sparse.lil_matrix((2, 2)), sparse.dok_array((2, 2))):
        assert pack(value).codec == "pickle"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("part", "at", "to"), [(1, 0, 60), (1, 0, -1), (2, 1, 10**6), (2, 1, -5)])
def test_one_whose_indexes_lead_out_of_it_is_refused(kind: str, part: int, at: int, to: int) -> None:
    packed = pack(matrix(kind))
    header = json.loads(bytes(packed.parts[1]))
    buffers = [bytearray(one) for one in packed.parts[2:]]
    np.frombuffer(buffers[part], header["dtypes"][part])[at] = to
    lying = seal(Encoded("sparse", packed.type, (packed.parts[1], *map(bytes, buffers))))
    with pytest.raises(ArtifactCorrupt, match="lead out"):
        unpack(lying.codec, lying.parts)


@pytest.mark.parametrize(
    "lie", [{"kind": "spmatrix"}, {"shape": [9, 60]}, {"shape": [50, 9]}, {"shape": [50]}, {"shape": [50, -1]}]
)
def test_one_whose_header_lies_is_refused(lie: dict[str, Any]) -> None:
    packed = pack(matrix("csr_array"))
    header = json.dumps({**json.loads(bytes(packed.parts[1])), **lie}).encode()
    lying = seal(Encoded("sparse", packed.type, (header, *packed.parts[2:])))
    with pytest.raises(ArtifactCorrupt):
        unpack(lying.codec, lying.parts)
