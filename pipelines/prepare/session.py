"""The Spark session of a preparation."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from elcrec_tf.errors import UserError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ROOT = Path(__file__).parents[2]
_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.sql.session.timeZone": "UTC",
    # Batches of this size keep Python's part of a task small.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # else they cannot be read; see `events`
    "spark.sql.csv.parser.columnPruning.enabled": "false",  # else a row of too few or too many values passes unseen
    # A task may lose its executor more than once.
    "spark.task.maxFailures": "8",
}


@contextmanager
def spark_session(master: str, memory: str, scratch: str | None = None, partitions: int = 200) -> Iterator[SparkSession]:
    """A session that stops at the end.

    Args:
        master: Spark's master URL.
        memory: heap of the driver and of each executor, such as `1g`.
        scratch: folder for what Spark spills and shuffles; the system's own if None.
        partitions: parts that a shuffle makes. It changes no byte of the result.

    Raises:
        UserError: when PySpark or Java is missing, or the session cannot be made.
    """
    check_spark()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.appName("elcrec_tf prepare").master(master)
    for name, value in _SETTINGS.items():
        builder = builder.config(name, value)
    builder = builder.config("spark.driver.memory", memory).config("spark.executor.memory", memory)
    builder = builder.config("spark.sql.shuffle.partitions", partitions)
    # Workers of a local cluster are new processes that have to find this package; those of a real one have it installed.
    builder = builder.config("spark.executorEnv.PYTHONPATH", os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    if scratch is not None:
        os.environ["SPARK_LOCAL_DIRS"] = str(Path(scratch).resolve())
        os.environ["SPARK_WORKER_DIR"] = str(Path(scratch).resolve() / "work")
    try:
        session = builder.getOrCreate()
    except Exception as error:  # py4j's own kinds, by what failed
        raise UserError(f"Spark cannot start with --master {master}: {reason(error)}") from None
    try:
        yield session
    except (PySparkException, Py4JError) as error:
        raise UserError(f"Spark failed: {reason(error)}") from None
    finally:
        session.stop()


def check_spark() -> None:
    """Raise `UserError` without PySpark or Java."""
    if find_spec("pyspark") is None:
        raise UserError("preparing needs PySpark: pip install '.[scale]', or pip install pyspark google-crc32c 'pandas<3'")
    java_home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (java_home and (Path(java_home) / "bin" / "java").is_file()):
        raise UserError("preparing needs Java 17 or newer: install it, or set JAVA_HOME")


def reason(error: Exception) -> str:
    """The line of an error of Spark's that tells what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = (re.match(r"(?:Caused by: |: )?(?:[\w$]+\.)*\w*(?:Error|Exception): (.+)", line) for line in lines)
    causes = [match[1] for match in found if match]
    return (causes or lines or [type(error).__name__])[-1 if causes else 0][:300]
