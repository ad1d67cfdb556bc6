"""JSON Schema's regular expressions, in which `pattern` is ECMA-262's, as the regular expressions of Rust.

Most of both is the same. What is written alike and means another thing is rewritten so that whatever matches here also
matches there: white space, what a dot leaves out, and characters that are operators only in Rust's brackets. No
brackets match the character zero, which is never written: llguidance takes what matches all control characters to
match all escapes, a quotation mark's too.
"""

from __future__ import annotations

_AROUND = ("(?=", "(?!", "(?<=", "(?<!")
_SPACE = r" \t\n\r\f\x0B"  # white space to every engine
_SPACES = r"\s\x1C-\x1F\x{FEFF}"  # to any engine
_LINE_ENDS = r"\n\r\x{2028}\x{2029}"

_ONLY_RUST = frozenset({r"\A", r"\z", r"\U"})
_ZERO = r"[\x00]"

# What formats are checked as. A subset of what their specifications allow, where these leave a validator's regular
# expression behind: lengths of labels (RFC 1035), quoted local parts (RFC 5321), leap seconds (RFC 3339).
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_DATE = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "email": rf"^{_ATOM}(\.{_ATOM}){{0,2}}@{_LABEL}(\.{_LABEL}){{1,3}}$",
    "hostname": rf"^{_LABEL}(\.{_LABEL}){{0,6}}$",
}
# Those that llguidance has exactly.
EXACT_FORMATS = frozenset({"duration", "ipv4", "ipv6", "uri", "uuid"})


def rewrite(pattern: str) -> str:
    """`pattern` so that Rust's engine matches nothing that ECMA-262 wouldn't.

    Raises ValueError for what is an operator in Rust and can't be told from what was meant, and for what looks around
    or back, which no automaton can.
    """
    out: list[str] = []
    in_class = negated = False
    at = 0
    while at < len(pattern):
        character = pattern[at]
        pair = pattern[at : at + 2]
        if character == "\\" and len(pair) == 2:
            _check_escape(pattern, at, in_class=in_class)
            if pair == r"\P" and not in_class:  # brackets in all but its look
                end = pattern.find("}", at) + 1 or len(pattern)
                out.append(f"[{pattern[at:end]}--{_ZERO}]")
                at = end
                continue
            out.append(_escape(pair, in_class=in_class, negated=negated))
            at += 2
            continue
        if not in_class:
            if pattern.startswith(_AROUND, at):
                raise ValueError("a look around ('(?=', '(?!', '(?<=' or '(?<!'), which can't be enforced")
            if character == "[":
                in_class, negated = True, pair == "[^"
                at += negated
                if pattern[at + 1 : at + 2] == "]":
                    raise ValueError("empty brackets")
                out.append("[[^" if negated else "[[")
            else:
                out.append(f"[^{_LINE_ENDS}]" if character == "." else character)
        elif character == "]":
            in_class = False
            out.append(rf"]--{_ZERO}]")
        elif pair == "--":
            raise ValueError("'--' in brackets; write one '-' as '\\-'")
        else:
            out.append(f"\\{character}" if character in "[&~" else character)
        at += 1
    return "".join(out)


def _check_escape(pattern: str, at: int, *, in_class: bool) -> None:
    """Raises ValueError if the escape at `at` has another meaning in Rust, or none that an automaton can have."""
    pair = pattern[at : at + 2]
    if not in_class and (pair[1] in "123456789" or pattern.startswith("\\k<", at)):
        raise ValueError(f"a reference back ('{pair}'), which can't be enforced")
    if pair in _ONLY_RUST or (pair == r"\x" and pattern.startswith("{", at + 2)):
        raise ValueError(f"{pair!r}, which has another meaning elsewhere")
    if pair in (r"\p", r"\P") and not pattern.startswith("{", at + 2):
        raise ValueError(f"{pair!r} without a name in braces")


def _escape(pair: str, *, in_class: bool, negated: bool) -> str:
    if pair == "\\s":
        inside = _SPACES if negated else _SPACE
        return inside if in_class else f"[{inside}]"
    if pair == "\\S":
        # Inside brackets that say "none of these", none may be left out that any engine takes for one.
        return f"[^{_SPACE if negated else _SPACES}]"
    return pair
