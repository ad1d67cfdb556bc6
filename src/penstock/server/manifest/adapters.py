"""Fields of /v1/load_lora_adapter and /v1/unload_lora_adapter."""

from __future__ import annotations

from penstock.server.manifest.field import Field, Manifest, no_effect, supported

LOAD_ADAPTER: Manifest = {
    **supported(
        lora_name="what requests will call it",
        lora_path="its directory, below the server's `--lora-dir`",
        base_model_name="the served model it is for; the first if absent",
    ),
    "load_inplace": Field("refused", "unload it first", (False,)),
    "is_3d_lora_weight": Field("refused", "an adapter's matrices are of two dimensions", (False,)),
}

UNLOAD_ADAPTER: Manifest = {
    **supported(lora_name="what requests called it"),
    **no_effect(lora_int_id="the name says it"),
}
