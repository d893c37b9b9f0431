"""What other trainers call a setting, and where it stands here: LLaVA, transformers, peft, LLaMA-Factory, ms-swift.

Their names of parts (`mlp2x_gelu`, `qwen2_5_vl`) are with the parts themselves (`Component.known_as`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

_LLAVA, _HF, _PEFT, _FACTORY, _SWIFT = "LLaVA", "transformers", "peft", "LLaMA-Factory", "ms-swift"
_TRAINERS = (_HF, _LLAVA, _FACTORY, _SWIFT)


@dataclass(frozen=True)
class Elsewhere:
    """One setting of other tools.

    Args:
        where: the field here, with NAME for a stage's name; empty where there is none.
        note: what differs, or why there is none.
        tools: who calls it so.
    """

    where: str
    note: str
    tools: tuple[str, ...]

    def told(self, name: str, stage: str = "NAME") -> str:
        """One sentence about it.

        Args:
            name: as the other tools call it.
            stage: whose field is meant.
        """
        who = f"{name!r} ({', '.join(self.tools)})"
        where = self.where.replace("NAME", stage)
        if not where:
            return f"{who} has no field here: {self.note}."
        return f"{who} is {where} here{f' ({self.note})' if self.note else ''}."


# fmt: off
_TABLE: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    # names, the field here, note, tools
    ("learning_rate", "stages.NAME.lr", "", _TRAINERS),
    ("base_lr peak_lr", "stages.NAME.lr", "", ("others",)),
    ("num_train_epochs num_epochs max_epochs", "stages.NAME.epochs", "", _TRAINERS),
    ("total_steps num_steps max_train_steps num_training_steps train_steps", "stages.NAME.max_steps", "", ("others",)),
    (
        "per_device_train_batch_size per_gpu_train_batch_size micro_batch_size mini_batch_size"
        " train_micro_batch_size_per_gpu",
        "stages.NAME.batch.micro",
        "stages.NAME.batch.size is the rows of a step over all GPUs and accumulation",
        (*_TRAINERS, "DeepSpeed"),
    ),
    (
        "gradient_accumulation_steps gradient_accumulation grad_accum accumulation accumulate_grad_batches",
        "stages.NAME.batch",
        "accumulation follows: size = GPUs x micro x accumulation",
        _TRAINERS,
    ),
    ("train_batch_size global_batch_size total_batch_size batch_size", "stages.NAME.batch.size", "", ("DeepSpeed", "others")),
    ("warmup warmup_fraction", "stages.NAME.schedule.warmup_ratio", "", ("others",)),
    ("num_warmup_steps", "stages.NAME.schedule.warmup_steps", "", (_HF,)),
    ("lr_scheduler_type lr_scheduler scheduler scheduler_type lr_schedule", "stages.NAME.schedule.decay", "cosine, linear or constant", _TRAINERS),
    ("min_lr_ratio min_lr lr_end", "stages.NAME.schedule.minimum_ratio", "a share of the peak rate", (_HF,)),
    ("optim optimizer_type", "stages.NAME.optimizer.name", "adamw, adamw_8bit, paged_adamw, paged_adamw_8bit, sgd, adafactor", _TRAINERS),
    ("adam_beta1 adam_beta2 beta1 beta2", "stages.NAME.optimizer.betas", "both: [0.9, 0.999]", _TRAINERS),
    ("adam_epsilon epsilon", "stages.NAME.optimizer.eps", "", _TRAINERS),
    ("wd adam_weight_decay", "stages.NAME.optimizer.weight_decay", "", ("others",)),
    ("max_grad_norm clip_grad grad_clip gradient_clip_val clip_grad_norm max_norm", "stages.NAME.gradient_clipping", "0 is off", (*_TRAINERS, "others")),
    ("gradient_checkpointing use_gradient_checkpointing gradient_checkpoint vit_gradient_checkpointing recompute", "stages.NAME.activation_checkpointing", "", (*_TRAINERS, _PEFT)),
    ("bf16 fp16 half_precision mixed_precision torch_dtype dtype pure_bf16 use_bf16", "stages.NAME.precision", "bf16, fp16, fp32 or auto", _TRAINERS),
    ("use_tf32 allow_tf32", "stages.NAME.tf32", "", (_HF,)),
    ("torch_compile use_compile", "stages.NAME.compile", "", (_HF,)),
    ("model_max_length max_seq_length max_seq_len cutoff_len sequence_len seq_len block_size seq_length max_len", "stages.NAME.data.max_length", "pictures included; model.language_model.context_length bounds it", (_LLAVA, _HF, _FACTORY, _SWIFT)),
    ("truncation truncation_strategy", "stages.NAME.data.long_rows", "truncate, skip or error", (_SWIFT,)),
    ("packing neat_packing sample_packing group_tokens", "stages.NAME.batch.packing", "", (_FACTORY, _SWIFT, _HF)),
    ("group_by_modality_length group_by_length length_grouping", "stages.NAME.data.order", "llava_grouped; llava is the original's order without grouping", (_LLAVA, _HF)),
    ("dataloader_num_workers num_workers preprocessing_num_workers dataset_num_proc num_proc", "stages.NAME.data.workers", "", (_LLAVA, _HF, _FACTORY, _SWIFT)),
    ("data_path dataset train_file train_data dataset_name dataset_path train_dataset data_file json_path", "stages.NAME.data.sources.0.path", "", (_LLAVA, _FACTORY, _SWIFT, _HF)),
    ("image_folder dataset_dir media_dir image_dir images_dir image_root img_dir", "stages.NAME.data.sources.0.images", "", (_LLAVA, _FACTORY)),
    ("interleave_probs sampling_ratio dataset_weights", "stages.NAME.data.sources.0.weight", "", (_FACTORY,)),
    ("max_samples num_samples max_train_samples train_dataset_sample", "stages.NAME.data.sources.0.fraction", "a share of the rows", (_FACTORY, _HF, _SWIFT)),
    ("data_seed random_seed", "stages.NAME.seed", "", (_HF,)),
    ("save_steps save_interval checkpoint_every save_every", "stages.NAME.checkpoints.every", "", _TRAINERS),
    ("save_total_limit keep_checkpoints max_checkpoints", "stages.NAME.checkpoints.keep", "", _TRAINERS),
    ("save_strategy", "stages.NAME.checkpoints.every", "steps between two; the end of a stage is always saved", _TRAINERS),
    ("zero_stage stage zero_optimization", "stages.NAME.deepspeed.zero", "0, 1, 2 or 3", ("DeepSpeed", _SWIFT)),
    ("deepspeed_config ds_config", "stages.NAME.deepspeed.config", "a DeepSpeed JSON", ("DeepSpeed", _HF)),
    ("offload_param cpu_offload offload zero_offload", "stages.NAME.deepspeed.offload_parameters", "and offload_optimizer", ("DeepSpeed",)),
    ("report_to log_with loggers", "logging.loggers", "tensorboard, wandb", _TRAINERS),
    ("wandb_project project_name tracker_project_name", "logging.project", "", ("wandb",)),
    ("output_dir out_dir save_dir", "output", "or --output on the command line", _TRAINERS),
    ("pretrain_mm_mlp_adapter", "model.connector.checkpoint", "or a first stage that trains it", (_LLAVA,)),
    ("resume_from_checkpoint overwrite_output_dir", "", "it is --resume on the command line", _TRAINERS),
    ("mm_projector_lr aligner_lr projector_lr", "stages.NAME.tuner.connector_lr", "", (_LLAVA, _SWIFT)),
    ("mm_vision_tower_lr vit_lr vision_tower_lr vision_lr", "stages.NAME.tuner.vision_encoder_lr", "of tuners that train the encoder", (_SWIFT, "LLaVA-NeXT")),
    ("lora_r lora_rank lora_dim r", "stages.NAME.tuner.rank", "of a tuner with adapters", (_LLAVA, _PEFT, _FACTORY, _SWIFT)),
    ("lora_alpha", "stages.NAME.tuner.alpha", "of a tuner with adapters", (_LLAVA, _PEFT, _FACTORY, _SWIFT)),
    ("lora_dropout", "stages.NAME.tuner.dropout", "of a tuner with adapters", (_LLAVA, _PEFT, _FACTORY, _SWIFT)),
    ("lora_target lora_target_modules target_modules", "stages.NAME.tuner.targets", "of a tuner with adapters", (_PEFT, _FACTORY, _SWIFT)),
    ("use_rslora", "stages.NAME.tuner.rslora", "of a tuner with adapters", (_PEFT, _FACTORY)),
    ("use_dora", "stages.NAME.tuner.dora", "of a tuner with adapters", (_PEFT, _FACTORY)),
    ("init_lora_weights", "stages.NAME.tuner.init", "of a tuner with adapters", (_PEFT, _SWIFT)),
    ("finetuning_type tuner_type train_type peft_type sft_type lora_enable use_lora use_peft peft_method", "stages.NAME.tuner", "by its name", (_FACTORY, _SWIFT, _LLAVA)),
    ("quantization_bit quant_bits bits load_in_4bit load_in_8bit quant_type double_quant quantization_method bnb_4bit_quant_type", "stages.NAME.tuner", "a tuner that holds weights in 4 bits, see `lensmith list --kind tuner`", (_LLAVA, _FACTORY, _SWIFT, _HF)),
    ("tune_mm_mlp_adapter freeze_backbone freeze_llm freeze_language_model freeze_aligner freeze_multi_modal_projector freeze_mm_mlp_adapter unfreeze_mm_vision_tower mm_tunable_parts freeze_vision_tower freeze_vit trainable_parameters", "stages.NAME.tuner", "a tuner says which parts train, see `lensmith list --kind tuner`", (_LLAVA, _FACTORY, _SWIFT)),
    ("model_name_or_path model_name base_model model_path model_id model_type pretrained_model_name_or_path llm language_model_path", "model.language_model.checkpoint", "", (_LLAVA, _HF, _FACTORY, _SWIFT)),
    ("vision_tower mm_vision_tower vision_model image_encoder visual_encoder vision_tower_path vit", "model.vision_encoder.checkpoint", "with model.vision_encoder.name", (_LLAVA, "others")),
    ("mm_vision_select_layer vision_feature_layer select_layer", "model.vision_encoder.select_layer", "", (_LLAVA, _HF)),
    ("mm_vision_select_feature vision_feature_select_strategy select_feature", "model.vision_encoder", "its own fields say which tokens go on, see `lensmith show vision_encoder NAME`", (_LLAVA, _HF)),
    ("mm_projector_type projector_type projector mm_projector multi_modal_projector aligner adapter connector_type", "model.connector", "by its name, e.g. model.connector=mlp", (_LLAVA, _HF, _SWIFT)),
    ("projector_hidden_act", "model.connector.activation", "", (_HF,)),
    ("image_aspect_ratio image_grid_pinpoints mm_patch_merge_type image_splitting", "model.image_splitter", "by its name and fields", (_LLAVA, _HF)),
    ("image_resolution image_max_pixels max_pixels video_max_pixels", "model.image_splitter", "and model.vision_encoder say which size pictures have", (_FACTORY, _SWIFT)),
    ("tokenizer_name tokenizer_name_or_path tokenizer_path", "model.language_model.tokenizer", "", (_HF,)),
    ("attn_implementation attn_impl flash_attn use_flash_attn use_flash_attention_2", "model.language_model.attention", "sdpa, eager, flash_attention_2", (_HF, _FACTORY, _SWIFT)),
    ("template chat_template conv_mode conv_version version prompt_template conv_template", "model.conversation", "or stages.NAME.conversation for one stage", (_LLAVA, _FACTORY, _SWIFT)),
    ("system system_prompt default_system", "model.conversation.system", "", (_SWIFT, _FACTORY)),
    ("new_special_tokens additional_special_tokens special_tokens", "model.language_model.add_tokens", "", (_HF, _SWIFT, _FACTORY)),
    ("mm_use_im_start_end mm_use_im_patch_token", "model.language_model.add_tokens", "with a conversation that writes them", (_LLAVA,)),
    ("adapter_name_or_path adapters resume_from lora_path", "start_from", "an artifact; `lensmith import` makes one of a checkpoint", (_FACTORY, _SWIFT)),
    ("logging_steps logging_first_step logging_strategy log_interval", "", "every step is logged", _TRAINERS),
    ("evaluation_strategy eval_strategy eval_steps per_device_eval_batch_size do_eval val_size val_dataset", "", "`lensmith eval` asks benchmarks after training", _TRAINERS),
    ("do_train stage_type", "", "`lensmith train` trains every stage of the spec", (_FACTORY, _HF)),
    ("lazy_preprocess lazy_tokenize streaming remove_unused_columns is_multimodal overwrite_cache ddp_timeout ddp_find_unused_parameters trust_remote_code", "", "it is not needed", _TRAINERS),
    ("local_rank nproc_per_node num_gpus world_size nnodes", "", "it is --nproc or --hostfile of `lensmith train`", _TRAINERS),
    ("use_liger_kernel enable_liger_kernel", "", "it is used where it is installed", (_HF, _FACTORY, _SWIFT)),
    ("neftune_noise_alpha dpo_beta pref_beta rlhf_type", "", "it is not there yet", (_FACTORY, _SWIFT)),
    ("cache_dir", "", "HF_HOME says where downloads are kept; stages.NAME.cache keeps features", (_HF, _LLAVA)),
    ("run_name", "", "the run is called as its folder, see output", (_HF, _LLAVA)),
)
# fmt: on


@cache
def table() -> dict[str, Elsewhere]:
    """All settings by the name that others give them."""
    found: dict[str, Elsewhere] = {}
    for names, where, note, tools in _TABLE:
        found |= dict.fromkeys(names.split(), Elsewhere(where, note, tools))
    return found


def known(name: str) -> Elsewhere | None:
    """What a name of another tool is here, however it is spelt (`--learning-rate`, `learningRate`)."""
    names = table()
    for spelt in _spellings(name):
        if spelt in names:
            return names[spelt]
    return None


def _spellings(name: str) -> Iterator[str]:
    plain = name.strip().lstrip("-").replace("-", "_")
    yield plain
    yield plain.lower()
    snake = "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(plain))
    yield snake
