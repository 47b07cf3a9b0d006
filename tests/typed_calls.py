"""What editors and type checkers see of the package, from outside: mypy reads this, nobody runs it.

An ignored error that is no error any more is one itself (`warn_unused_ignores`).
"""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import cbir

store = cbir.open_store("store")
network = cbir.load_network()

assert_type(cbir.search(store, "a.jpg"), cbir.Hits)
assert_type(cbir.search("store", np.zeros((9, 9, 3), np.uint8)).files, list[list[str]])
assert_type(cbir.search(store, "a.jpg", ["h", "eta"]), dict[str, cbir.Hits])
assert_type(cbir.search(store.eta[:], store.eta[0]), cbir.Hits)
assert_type(store.eta[:], NDArray[np.float32])

cbir.search(store, "a.jpg", metric="l3")  # type: ignore[call-overload]
cbir.extract("images", network, "store", threshold="relativ")  # type: ignore[arg-type]
cbir.extract("images", network, "store", q=1, threshold="relative")
