"""Stub"""


class Bound: ...
