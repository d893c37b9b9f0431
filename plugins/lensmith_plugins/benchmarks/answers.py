"""Answers before they are compared: the normaliser of VQA and its relative of EvalAI, M4C and LLaVA."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_MARKS = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32
"""The original passes a flag of this value where the number of replacements stands."""
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = {"a", "an", "the"}
_TABLE = """
'ow'sat='ow's'at 'ows'at='ow's'at aint=ain't arent=aren't cant=can't couldn'tve=couldn't've couldnt=couldn't
couldnt've=couldn't've couldve=could've didnt=didn't doesnt=doesn't dont=don't hadn'tve=hadn't've hadnt=hadn't
hadnt've=hadn't've hasnt=hasn't havent=haven't he'dve=he'd've hed=he'd hed've=he'd've hes=he's howd=how'd
howll=how'll hows=how's isnt=isn't it'dve=it'd've itd=it'd itd've=it'd've itll=it'll maam=ma'am
mightn'tve=mightn't've mightnt=mightn't mightnt've=mightn't've mightve=might've mustnt=mustn't mustve=must've
neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at shant=shan't she'dve=she'd've
shed've=she'd've shouldn'tve=shouldn't've shouldnt=shouldn't shouldnt've=shouldn't've shouldve=should've
somebody'd=somebodyd somebody'dve=somebody'd've somebodyd've=somebody'd've somebodyll=somebody'll
somebodys=somebody's someone'dve=someone'd've someoned=someone'd someoned've=someone'd've someonell=someone'll
someones=someone's something'dve=something'd've somethingd=something'd somethingd've=something'd've
somethingll=something'll thats=that's there'dve=there'd've thered=there'd thered've=there'd've therere=there're
theres=there's they'dve=they'd've theyd=they'd theyd've=they'd've theyll=they'll theyre=they're theyve=they've
twas='twas wasnt=wasn't we'dve=we'd've wed've=we'd've werent=weren't weve=we've whatll=what'll whatre=what're
whats=what's whatve=what've whens=when's whered=where'd wheres=where's whereve=where've who'dve=who'd've
whod=who'd whod've=who'd've wholl=who'll whos=who's whove=who've whyll=why'll whyre=why're whys=why's wont=won't
wouldn'tve=wouldn't've wouldnt=wouldn't wouldnt've=wouldn't've wouldve=would've y'all'dve=y'all'd've
y'alld've=y'all'd've y'allll=y'all'll yall=y'all yall'd've=y'all'd've yall'll=y'all'll you'dve=you'd've
youd=you'd youd've=you'd've youll=you'll youre=you're youve=you've
"""
_CONTRACTIONS = dict(entry.split("=") for entry in _TABLE.split())
_STRAIGHT = {"aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"}
_CURLY = {
    word: meant if word in _STRAIGHT else meant.replace("'", "\u2019")
    for word, meant in _CONTRACTIONS.items()
    if "'" not in word or word in ("couldn'tve", "hadn'tve")
}
"""VizWiz's copy writes most apostrophes curly, in what it looks for as in what it puts there."""


@lru_cache(maxsize=1 << 16)  # people give the same answers again and again
def vqa(text: str, *, curly: bool = False) -> str:
    """The official form of VQA (its evaluation code, `processPunctuation` and `processDigitArticle`).

    Args:
        text: an answer.
        curly: expand contractions as VizWiz's copy does.
    """
    return words(punctuation(flat(text)), curly=curly)


@lru_cache(maxsize=1 << 16)
def evalai(text: str) -> str:
    """The form of EvalAI and M4C, with which LLaVA writes its uploads and scores TextVQA."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return words(punctuation(flat(text)))


def flat(text: str) -> str:
    """Line ends and tabs as spaces, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def punctuation(text: str) -> str:
    """Marks deleted or replaced by spaces, which of the two being decided by the whole text as it came."""
    thousands = _DIGIT_COMMA.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or thousands else " ")
    return _PERIOD.sub("", cleaned, count=_PERIODS)


def words(text: str, *, curly: bool = False) -> str:
    """Lower case, number words as digits, no articles, contractions with their apostrophes."""
    table = _CURLY if curly else _CONTRACTIONS
    kept = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(table.get(word, word) for word in kept if word not in _ARTICLES)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy (Antol et al. 2015): the mean over annotators left out of min(equal answers / 3, 1)."""
    equal = [answer == prediction for answer in answers]
    total = sum(equal)
    return sum(min(1.0, (total - own) / 3) for own in equal) / len(equal) if equal else 0.0
