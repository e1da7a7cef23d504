"""Files of which some bytes are others, as a bad disk or somebody else writes them."""

import io
import zipfile

from hypothesis import strategies as st

__all__ = ["broken"]


def broken(content: bytes) -> st.SearchStrategy[bytes]:
    """What ``torch.save`` wrote with a few other bytes, half of them where it says what there is; or its beginning alone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    start = content.index(pickled)
    somewhere, said = st.integers(0, len(content) - 1), st.integers(start, start + len(pickled) - 1)
    changes = st.lists(st.tuples(somewhere | said, st.integers(0, 255)), min_size=1, max_size=3)

    def changed(places: list[tuple[int, int]]) -> bytes:
        other = bytearray(content)
        for place, byte in places:
            other[place] = byte
        return bytes(other)

    return changes.map(changed) | somewhere.map(lambda length: content[:length])
