"""MLflow stores whose tables are made once: SQLite files that tests copy."""

import tempfile
import warnings
from functools import cache
from pathlib import Path


@cache
def empty_store() -> bytes:
    """The bytes of a SQLite store without runs, whose tables MLflow takes seconds to make."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Any test may be the first. An error here would be kept by SQLAlchemy for all that follow.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy")
        path = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
        return path.read_bytes()
