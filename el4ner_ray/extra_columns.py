"""The input's other columns: what they are called in the output, and one Arrow type for each over all files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from el4ner_ray.errors import UsageError
from el4ner_ray.schema import RESERVED_COLUMNS


def output_names(names: Sequence[str]) -> dict[str, str]:
    """What the input's other columns are called in the output: their own names, or `input_NAME` where it has these."""
    chosen: dict[str, str] = {}
    for name in names:
        new = name
        while new in RESERVED_COLUMNS or new.startswith("el4ner.") or (new != name and new in names):
            new = f"input_{new}"
        chosen[name] = new
    return chosen


class ExtraColumns:
    """Finds one Arrow type for each extra column over all files."""

    def __init__(self) -> None:
        """No column yet."""
        self._kinds: dict[str, set[str]] = {}
        self._schemas: list[tuple[str, pa.Schema]] = []

    def add_values(self, values: Mapping[str, Any]) -> None:
        """The columns of a row of JSON lines or CSV."""
        for name, value in values.items():
            kinds = self._kinds.setdefault(name, set())
            if value is not None:
                kinds.add(_kind(value))

    def add_schema(self, uri: str, schema: pa.Schema, consumed: set[str | None]) -> None:
        """The columns of a Parquet file, but for the `consumed` ones. `settle` names the `uri` if they do not fit."""
        fields = [pa.field(field.name, flat(field.type)) for field in schema if field.name not in consumed]
        self._schemas.append((uri, pa.schema(fields)))

    def settle(self) -> tuple[pa.Schema, dict[str, str], frozenset[str]]:
        """The schema under output names, the new names by old ones, and the columns of JSON text by old names.

        Raises UsageError, naming the file, where a column's types do not unite.
        """
        types = {name: _type(kinds) for name, kinds in self._kinds.items()}
        schema = pa.schema([(name, pa.string() if type_ is None else type_) for name, type_ in types.items()])
        for uri, other in self._schemas:
            try:
                schema = _united(schema, other)
                for field in other:
                    pa.array([], field.type).cast(schema.field(field.name).type)
                    if types.get(field.name, field.type) is None and not (
                        is_text(field.type) or pa.types.is_null(field.type)
                    ):
                        raise pa.ArrowTypeError(f"Field {field.name}: JSON text does not hold {field.type}")
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                reason = repr(str(error).splitlines()[0])[1:-1]  # a column's name must not steer the terminal
                raise UsageError(
                    f"{uri}: a column has another type than in other files ({reason}); convert it"
                ) from None
        renamed = {name: new for name, new in output_names(schema.names).items() if new != name}
        fields = [
            pa.field(renamed.get(field.name, field.name), pa.string() if pa.types.is_null(field.type) else field.type)
            for field in schema
        ]
        return pa.schema(fields), renamed, frozenset(name for name, type_ in types.items() if type_ is None)


def _united(schema: pa.Schema, other: pa.Schema) -> pa.Schema:
    """One schema for both. Raises ArrowInvalid or ArrowTypeError where the types of a column do not unite."""
    united = pa.unify_schemas([schema, other], promote_options="permissive")
    for i, field in enumerate(united):
        types = [each.field(field.name).type for each in (schema, other) if field.name in each.names]
        types = [type_ for type_ in types if not pa.types.is_null(type_)]
        if any(pa.types.is_uint64(type_) for type_ in types) and pa.types.is_int64(field.type):
            raise pa.ArrowTypeError(f"Field {field.name}: int64 does not hold every uint64")
        if pa.types.is_floating(field.type) and not all(map(pa.types.is_floating, types)):
            # Arrow chooses float32 for int64 and float32, which rounds integers beyond 2**24.
            united = united.set(i, field.with_type(pa.float64()))
        if _in_ns(field.type) and not all(map(_in_ns, types)):
            # Arrow chooses the finest unit, in which the year 9999 is not: ns end in 2262.
            us = pa.duration("us") if pa.types.is_duration(field.type) else pa.timestamp("us", field.type.tz)
            united = united.set(i, field.with_type(us))
    return united


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of this type holds strings that all of Arrow's functions take; `flat` makes such of views."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _in_ns(type_: pa.DataType) -> bool:
    return bool((pa.types.is_timestamp(type_) or pa.types.is_duration(type_)) and type_.unit == "ns")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        # Beyond 2**53 a float would round it, beyond 64 bits no Arrow integer holds it.
        return "int" if abs(value) <= 2**53 else "long" if -(2**63) <= value < 2**63 else "json"
    return "float" if isinstance(value, float) else "string" if isinstance(value, str) else "json"


def _type(kinds: set[str]) -> Any:
    """The Arrow type that holds the kinds exactly, None if only JSON text does."""
    if not kinds:
        return pa.null()
    if kinds <= {"int", "long"}:
        return pa.int64()
    if kinds <= {"int", "float"}:
        return pa.float64()
    return {"bool": pa.bool_(), "string": pa.string()}.get(next(iter(kinds))) if len(kinds) == 1 else None


def flat(type_: pa.DataType) -> pa.DataType:
    """Plain strings for string views and dictionaries: they unite with the strings of other files."""
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    return pa.string() if pa.types.is_string_view(type_) else type_


def cell(value: Any, as_json: bool, type_: pa.DataType) -> pa.Array:
    """A value of a row, plain or an array of length 1, as an array of length 1 of the column's type."""
    if as_json and isinstance(value, pa.Array):
        buffer = value.cast(type_)[0].as_buffer()
        value = None if buffer is None else buffer.to_pybytes().decode(errors="replace")  # Arrow's need not be UTF-8
    if value is None:
        return pa.nulls(1, type_)  # Arrow casts no null to some types, such as list views
    if not isinstance(value, pa.Array):
        value = pa.array([_json_text(value) if as_json else value])
    # Unsafe where numbers may round, integers that other files give as floats and nanoseconds that they give as
    # microseconds; nothing may wrap.
    return value.cast(type_, safe=not (pa.types.is_floating(type_) or (_in_ns(value.type) and not _in_ns(type_))))


def _json_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which Python reads and writes, but which JSON has no words for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
