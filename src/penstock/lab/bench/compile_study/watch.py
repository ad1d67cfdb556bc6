"""What the compiler did in this process, from its own books."""

from __future__ import annotations

from typing import Any

import torch._dynamo.output_graph
import torch._dynamo.utils

from penstock.lab.bench.compile_study.trial import Break, Compilation

_KEPT = 4096  # compilations; torch's own limit is lower than a model that is cut at every operation needs


class Watch:
    """Counts compilations from now on, each under the point that was named last."""

    def __init__(self) -> None:
        torch._dynamo.utils.set_compilation_metrics_limit(_KEPT)
        torch._dynamo.utils.clear_compilation_metrics()
        torch._dynamo.output_graph.graph_break_reasons.clear()
        self._points: list[str] = []  # of each compilation

    def take(self, point: str) -> int:
        """Put down what was compiled since the last call to this point; how many pieces that was."""
        seen = len(torch._dynamo.utils.get_compilation_metrics())
        new = seen - len(self._points)
        self._points += [point] * new
        return new

    @property
    def compilations(self) -> list[Compilation]:
        metrics = torch._dynamo.utils.get_compilation_metrics()
        return [_compilation(each, point) for each, point in zip(metrics, self._points, strict=False)]

    @property
    def breaks(self) -> list[Break]:
        """Each place once; the functions that were left alone among them."""
        found = [
            _break(each.user_stack[-1], each.reason)
            for each in torch._dynamo.output_graph.graph_break_reasons
            if each.user_stack
        ]
        for each in torch._dynamo.utils.get_compilation_metrics():
            if each.fail_reason and each.fail_user_frame_filename:
                file, line = each.fail_user_frame_filename, each.fail_user_frame_lineno or 0
                found.append(
                    Break(
                        file,
                        line,
                        each.co_name or "",
                        _line_of(file, line),
                        _first_line(each.fail_reason),
                        skipped=True,
                    )
                )
        return list({(each.file, each.line, each.reason): each for each in found}.values())


def _compilation(metrics: Any, point: str) -> Compilation:
    return Compilation(
        function=metrics.co_name or "",
        file=metrics.co_filename or "",
        line=metrics.co_firstlineno or 0,
        seconds=float(metrics.entire_frame_compile_time_s or 0.0),
        operations=metrics.graph_op_count or 0,
        reason=_guard(metrics.recompile_reason or ""),
        failure=_first_line(metrics.fail_reason or ""),
        point=point,
    )


def _break(frame: Any, reason: str) -> Break:
    return Break(frame.filename, frame.lineno or 0, frame.name, frame.line or "", _first_line(reason), skipped=False)


def _line_of(file: str, line: int) -> str:
    import linecache

    return linecache.getline(file, line).strip()


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _guard(reason: str) -> str:
    """Of "0/1: tensor 'x' size mismatch ...  # the code that asked" what comes after the number, in single spaces."""
    _, _, guard = _first_line(reason).partition(": ")
    return " ".join((guard or reason).split())
