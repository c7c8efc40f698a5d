"""Trains the pocket models' subword vocabulary: ``python scripts/pocket/build_tokenizer.py --out build/tokenizer``.

Unigram (Kudo, 2018) on lower-cased WordNet text that is in no dev or test split; ids as in T5: 0 pad, 1 end of
text, 2 unknown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import wordnet
from build_tasks import OUT
from pretext import SENTINELS, corpus
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 8192
SPECIALS = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"] + [f"<extra_id_{i}>" for i in range(SENTINELS)]
LONGEST = 512


def train(texts: list[str]) -> Tokenizer:
    """Train a lower-casing Unigram tokenizer of 8,192 pieces, special tokens first."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("_", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Digits(True)])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def wrap(tokenizer: Tokenizer, form: str) -> PreTrainedTokenizerFast:
    """Wrap the tokenizer for transformers; ``form`` is the template of special tokens.

    ``ends``: text </s> (encoder-decoder) · ``bare``: text (decoder) · ``pair``: <s> a </s> b </s> (encoder).
    """
    end, start = ("</s>", SPECIALS.index("</s>")), ("<s>", SPECIALS.index("<s>"))
    templates = {
        "ends": ("$A </s>", "$A </s> $B </s>", [end]),
        "pair": ("<s> $A </s>", "<s> $A </s> $B </s>", [start, end]),
    }
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    if form in templates:
        single, pair, specials = templates[form]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        mask_token="<mask>",
        cls_token="<s>",
        sep_token="</s>",
        additional_special_tokens=[t for t in SPECIALS if t.startswith("<extra")],
        model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Write a tokenizer folder for each template below ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, default=wordnet.DEFAULT_FOLDER)
    parser.add_argument("--tasks", type=Path, default=OUT)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    synsets = corpus(options.wordnet, options.tasks)
    tokenizer = train([" ".join((*s.lemmas, s.definition, *s.examples)) for s in synsets])
    for form in ("ends", "bare", "pair"):
        wrap(tokenizer, form).save_pretrained(options.out / form)
    print(f"{len(synsets)} synsets, {tokenizer.get_vocab_size()} pieces")


if __name__ == "__main__":
    main()
