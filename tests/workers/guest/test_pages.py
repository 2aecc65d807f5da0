"""Memory as pages."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from panels_worker.guest.pages import PAGE_BYTES, Baseline, difference, exclusive_or

PAGES = 40
memories = st.dictionaries(
    st.integers(0, PAGES - 1), st.tuples(st.integers(0, PAGE_BYTES - 1), st.integers(1, 255)), max_size=12
)


def laid_out(marks: dict[int, tuple[int, int]], pages: int = PAGES) -> bytearray:
    memory = bytearray(pages * PAGE_BYTES)
    for page, (at, byte) in marks.items():
        memory[page * PAGE_BYTES + at] = byte
    return memory


@given(memories, memories, memories, st.integers(1, PAGES))
def test_difference_is_what_makes_one_memory_of_another(
    shared: dict[int, tuple[int, int]],
    own: dict[int, tuple[int, int]],
    now: dict[int, tuple[int, int]],
    shared_pages: int,
) -> None:
    own_runs = [(page * PAGE_BYTES, bytes(laid_out(own)[page * PAGE_BYTES :][:PAGE_BYTES])) for page in own]
    baseline = Baseline(PAGES * PAGE_BYTES, bytes(laid_out(shared)[: shared_pages * PAGE_BYTES]), own_runs)
    memory = laid_out(now)
    again = bytearray(baseline.read(0, len(memory)))

    def read(at: int, length: int) -> bytes:
        return bytes(memory[at : at + length])

    runs = difference(read, ((0, len(memory)),), baseline)
    for at, data in runs:
        assert exclusive_or(exclusive_or(data, at, baseline), at, baseline) == data
        for offset in range(0, len(data), PAGE_BYTES):
            assert again[at + offset : at + offset + PAGE_BYTES] != data[offset : offset + PAGE_BYTES]
        again[at : at + len(data)] = data
    assert again == memory
    ends = [(at, at + len(data)) for at, data in runs]
    assert all(end < start for (_, end), (start, _) in pairwise(ends))


@given(memories, memories, st.integers(0, PAGES - 3), st.integers(1, 3))
def test_exclusive_or_is_that_of_each_byte(
    ours: dict[int, tuple[int, int]], theirs: dict[int, tuple[int, int]], first: int, count: int
) -> None:
    memory, other = laid_out(ours), laid_out(theirs)
    at, end = first * PAGE_BYTES, (first + count) * PAGE_BYTES
    mixed = exclusive_or(bytes(memory[at:end]), at, Baseline(len(other), bytes(other), ()))
    assert mixed == bytes(a ^ b for a, b in zip(memory[at:end], other[at:end], strict=True))


@given(memories, st.integers(0, PAGES * PAGE_BYTES), st.integers(0, 3 * PAGE_BYTES))
def test_baseline_reads_any_range(marks: dict[int, tuple[int, int]], at: int, length: int) -> None:
    memory = laid_out(marks, PAGES + 4)
    assert Baseline(len(memory), bytes(memory), ()).read(at, length) == memory[at : at + length]


def test_difference_looks_at_its_spans_only() -> None:
    memory = laid_out({0: (1, 1), 2: (1, 1), 5: (1, 1)})
    baseline = Baseline(len(memory), b"", ())
    spans = (0, PAGE_BYTES), (3 * PAGE_BYTES, len(memory))
    runs = difference(lambda at, length: bytes(memory[at : at + length]), spans, baseline)
    assert [at // PAGE_BYTES for at, _ in runs] == [0, 5]


def test_baselines_that_differ_have_other_digests() -> None:
    page = bytes(PAGE_BYTES - 1) + b"x"
    digests = {
        Baseline(size, b"", runs).digest()
        for size, runs in ((8, ()), (9, ()), (8, [(0, page)]), (8, [(PAGE_BYTES, page)]))
    }
    assert len(digests) == 4
