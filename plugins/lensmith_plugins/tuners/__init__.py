"""Tuners: what of a model trains. This module is light; implementations are imported when they are used."""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Component, Kind, hookimpl

api_version = 1


@hookimpl
def lensmith_components() -> Iterable[Component]:
    """The tuners of this package."""
    return [
        Component(
            kind=Kind.TUNER,
            name="frozen",
            known_as=dict.fromkeys(
                (
                    "tune_mm_mlp_adapter",
                    "freeze*",
                    "projector*",
                    "connector*",
                    "pretrain",
                    "linear_probe",
                ),
                "frozen",
            ),
            spec="lensmith_plugins.tuners.specs:FrozenSpec",
            implementation="lensmith_plugins.tuners.frozen:FrozenTuner",
            summary="Train the connector alone (LLaVA's stage 1)",
            paper="LLaVA (Liu et al. 2023, arXiv 2304.08485), section 4.2, stage 1",
            example="name: frozen\nconnector_lr: 1e-3\n",
        ),
        Component(
            kind=Kind.TUNER,
            name="full",
            known_as=dict.fromkeys(
                (
                    "*full*",
                    "sft",
                    "all",
                    "none",
                ),
                "full",
            ),
            spec="lensmith_plugins.tuners.specs:FullSpec",
            implementation="lensmith_plugins.tuners.full:FullTuner",
            summary="Train whole parts or ranges of layers, each with its own learning rate (LLaVA's stage 2)",
            paper="LLaVA (Liu et al. 2023, arXiv 2304.08485), section 4.2, stage 2",
            example=(
                "name: full\nconnector_lr: 2e-5\nlanguage_model:\n"
                "  - {layers: 16-31, lr: 1e-5, weight_decay: 0.0}\n  - {layers: head, lr: 2e-6}\n"
                "vision_encoder: {lr: 2e-6, layer_decay: 0.9}\n"
            ),
        ),
        Component(
            kind=Kind.TUNER,
            name="lora",
            known_as={
                "lora_enable": "lora",
                "dora": "{name: lora, dora: true}",
                "rslora": "{name: lora, rslora: true}",
                "peft_lora": "lora",
            },
            spec="lensmith_plugins.tuners.lora_spec:LoraSpec",
            implementation="lensmith_plugins.tuners.lora:LoraTuner",
            summary="Train low-rank adapters on named linear layers, and the connector in full",
            paper="LoRA (Hu et al. 2021, arXiv 2106.09685); rsLoRA (arXiv 2312.03732); DoRA (arXiv 2402.09353)",
            example="name: lora\nrank: 64\ntargets: {language_model: [q_proj, v_proj]}\nconnector_lr: 2e-5\n",
        ),
        Component(
            kind=Kind.TUNER,
            name="qlora",
            known_as=dict.fromkeys(
                (
                    "*4bit",
                    "nf4",
                    "bnb*",
                ),
                "qlora",
            ),
            spec="lensmith_plugins.tuners.lora_spec:QLoraSpec",
            implementation="lensmith_plugins.tuners.qlora:QLoraTuner",
            summary="Train low-rank adapters over a language model in 4 bits, and the connector in full",
            paper="QLoRA (Dettmers et al. 2023, arXiv 2305.14314)",
            example="name: qlora\nrank: 64\ndouble_quantization: true\ncompute: bf16\n",
        ),
        Component(
            kind=Kind.TUNER,
            name="peft",
            known_as={
                "ia3": "{name: peft, method: ia3}",
                "prefix_tuning": "{name: peft, method: prefix_tuning}",
                "oft": "{name: peft, method: oft}",
                "boft": "{name: peft, method: boft}",
                "vera": "{name: peft, method: vera}",
                "loha": "{name: peft, method: loha}",
                "lokr": "{name: peft, method: lokr}",
                "hra": "{name: peft, method: hra}",
                "adalora": "{name: peft, method: adalora}",
                "p_tuning": "{name: peft, method: p_tuning}",
                "adaption_prompt": "{name: peft, method: adaption_prompt}",
            },
            spec="lensmith_plugins.tuners.peft_spec:PeftSpec",
            implementation="lensmith_plugins.tuners.peft_method:PeftTuner",
            summary="Train with any method of the peft library that works through input embeddings",
            paper="IA3 (arXiv 2205.05638), prefix tuning (2101.00190), LLaMA-Adapter (2303.16199), OFT (2306.07280), …",
            example="name: peft\nmethod: prefix_tuning\nconfig: {num_virtual_tokens: 16}\n",
        ),
    ]
