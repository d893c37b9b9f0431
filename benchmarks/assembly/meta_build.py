"""Build a spec's model on torch's meta device; prints seconds of imports, seconds of building, and its parameters."""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    start = time.perf_counter()
    import torch

    from lensmith.interfaces.loading import Loading
    from lensmith.parts import implementation
    from lensmith.spec import load_spec
    from lensmith_plugins.language_models.hf_loading import load_network
    from lensmith_registry import Kind

    model = load_spec(sys.argv[1]).model
    classes = {kind: implementation(kind, getattr(model, kind.value)) for kind in list(Kind)[:4]}
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401 - transformers imports late

    imported = time.perf_counter()
    plain = Loading(torch.bfloat16, weights=False)
    with torch.device("meta"):
        language_model = load_network(model.language_model, plain)
        width = language_model.get_input_embeddings().weight.shape[1]
        encoder = classes[Kind.VISION_ENCODER].build(model.vision_encoder, plain)
        connector = classes[Kind.CONNECTOR].build(model.connector, encoder.shape, width)
        splitter = classes[Kind.IMAGE_SPLITTER].build(model.image_splitter, width)
    built = time.perf_counter()
    parts = {
        "vision_encoder": encoder,
        "image_splitter": splitter,
        "connector": connector,
        "language_model": language_model,
    }
    parameters = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    parameters["total"] = sum(parameters.values())
    print(json.dumps({"imports": imported - start, "build": built - imported, "parameters": parameters}))


if __name__ == "__main__":
    main()
