"""Writes TFRecord files of `tf.train.Example` without TensorFlow, so that Spark's workers need not load it. The bytes are the same."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from elcrec_tf.files import atomic_path

_COMPRESSION = 6


class RecordWriter:
    """Writes records in TensorFlow's framing: length, masked CRC-32C of it, data, masked CRC-32C of that.

    Attributes:
        size: bytes of the finished file.
        sha256: its checksum.
    """

    size = 0
    sha256 = ""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, record: bytes) -> None:
        length = struct.pack("<Q", len(record))
        self._file.write(length + _masked_crc(length) + record + _masked_crc(record))


@contextmanager
def record_file(path: Path) -> Iterator[RecordWriter]:
    """A gzip-compressed TFRecord file that appears under its name when it is whole. Equal records give equal bytes: no time, no name."""
    with atomic_path(path) as temporary:
        with temporary.open("wb") as raw, gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=0) as file:
            writer = RecordWriter(file)
            yield writer
        writer.size, writer.sha256 = temporary.stat().st_size, file_sha256(temporary)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_example(user: str, items: list[int], positions: list[int] | None) -> bytes:
    """A `tf.train.Example` with the features `user` (bytes), `items` and, if given, `positions` (int64)."""
    example = _EXAMPLE()
    features = example.features.feature
    # Features stand in order of their names: protobuf's own order of a map is not fixed.
    features.add(key="items").value.int64_list.value.extend(items)
    if positions is not None:
        features.add(key="positions").value.int64_list.value.extend(positions)
    features.add(key="user").value.bytes_list.value.append(user.encode())
    return example.SerializeToString()


def _masked_crc(data: bytes) -> bytes:
    import google_crc32c  # of the extra `scale`: only who writes needs it

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _example_class() -> Any:
    """The message class of `tf.train.Example`, in a pool of its own beside TensorFlow's. A map field is a list of (key, value) messages."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="elcrec_tf.data", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, str | None, bool]) -> None:
        made = file.message_type.add(name=name)
        for title, number, kind, of, repeated in fields:
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            made.field.add(name=title, number=number, type=kind, label=label, type_name=of and f".elcrec_tf.data.{of}")

    message("BytesList", ("value", 1, field.TYPE_BYTES, None, True))
    message("Int64List", ("value", 1, field.TYPE_INT64, None, True))
    lists = (("bytes_list", 1, field.TYPE_MESSAGE, "BytesList", False), ("int64_list", 3, field.TYPE_MESSAGE, "Int64List", False))
    message("Feature", *lists)
    message("Entry", ("key", 1, field.TYPE_STRING, None, False), ("value", 2, field.TYPE_MESSAGE, "Feature", False))
    message("Features", ("feature", 1, field.TYPE_MESSAGE, "Entry", True))
    message("Example", ("features", 1, field.TYPE_MESSAGE, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("elcrec_tf.data.Example"))


_EXAMPLE = _example_class()
