"""Metric math on one point in time: arithmetic, comparisons, IF, FILL, MAX, MIN and SUM.

Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

Value = float | None  # None: no data point
_OPERATORS: Mapping[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_OF_SERIES: Mapping[str, Callable[[list[float]], float]] = {"MAX": max, "MIN": min, "SUM": sum}


class NotSupported(Exception):
    """The local stack does not evaluate this."""


def value_at(expression: str, values: Mapping[str, Value]) -> Value:
    """Returns the value of a formula, from those of the IDs in it; NotSupported for other functions."""
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, values)
    except SyntaxError as error:
        raise NotSupported(expression) from error


def _value(node: ast.AST, values: Mapping[str, Value]) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.BinOp(left=left, op=act, right=right) | ast.Compare(left=left, ops=[act], comparators=[right]):
            return _combine(act, _value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id="FILL"), args=[series, filler]):
            found = _value(series, values)
            return _value(filler, values) if found is None else found
        case ast.Call(func=ast.Name(id="IF"), args=[condition, yes, no]):
            decides = _value(condition, values)
            return None if decides is None else _value(yes if decides else no, values)
        case ast.Call(func=ast.Name(id=name), args=[ast.List(elts=items)]) if name in _OF_SERIES:
            known = [value for item in items if (value := _value(item, values)) is not None]
            return _OF_SERIES[name](known) if known else None
    raise NotSupported(ast.unparse(node))


def _combine(act: ast.AST, left: Value, right: Value) -> Value:
    if type(act) not in _OPERATORS:
        raise NotSupported(type(act).__name__)
    if left is None or right is None or (isinstance(act, ast.Div) and right == 0):
        return None
    return float(_OPERATORS[type(act)](left, right))
