"""nbval over the committed notebooks: a run folder of its own, no progress bars, and the CPU, where the stored outputs come from."""

import os
import tempfile

_runs = tempfile.TemporaryDirectory()
os.environ["CBIR_RUNS"] = _runs.name
os.environ["TQDM_DISABLE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.pop("JPY_SESSION_NAME", None)  # in a terminal of JupyterLab, too, notebook 09 draws figures
