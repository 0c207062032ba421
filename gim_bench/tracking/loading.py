"""MLflow is imported late, because the import takes seconds, and with limits of its own."""

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def import_mlflow() -> None:
    """Import MLflow with limits that make a server which is away cost seconds, not minutes."""
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with a password in the address
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # would wait for a network
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")
    importlib.import_module("mlflow")


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Silence warnings about MLflow's own code that its users can do nothing about."""
    with warnings.catch_warnings():
        # MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        # MLflow 3.17 chooses the columns of a table in a way that pandas 3 deprecates.
        warnings.filterwarnings("ignore", message="For backward compatibility, 'str' dtypes")
        yield
