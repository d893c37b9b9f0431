"""A BERT tokenizer of a few words. For `tiny()` of the Q-Former's spec alone."""

from __future__ import annotations

from pathlib import Path

_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "colour", "is", "it", "?", "which", "shape", "how", "many")


def write_bert_tokenizer(folder: Path) -> Path:
    """Write it as `save_pretrained` does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece({word: number for number, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **specials).save_pretrained(folder)
    return folder
