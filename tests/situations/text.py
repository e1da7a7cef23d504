"""Text: transformers of Hugging Face of random weights, their batches and their losses; embeddings and masks by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.situations.batches import Stepped, of_rows
from tests.situations.losses import Net
from tests.situations.situation import (
    Answer,
    Case,
    Situations,
    classified,
    entropies,
    integers,
    mean_over_tokens,
    several_labels,
    tokens,
)

SITUATIONS = situation = Situations()

VOCABULARY = 30
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 24,
}


def sentences(padding: int, label: Callable[[list[int], int], Any], one_length: bool = False) -> dict[str, Any]:
    """Loaders of ``BatchEncoding`` with padded ids, their mask and labels."""

    def row(index: int) -> tuple[list[int], Any]:
        words = integers(VOCABULARY, 5 if one_length else 3 + index % 3, seed=index, low=5).tolist()
        return words, label(words, index)

    def collate(rows: Any) -> Any:
        from transformers import BatchEncoding

        words, labels = zip(*rows, strict=True)
        width = max(map(len, words))
        ids = torch.tensor([one + [padding] * (width - len(one)) for one in words])
        if isinstance(labels[0], list) and isinstance(labels[0][0], int):
            labels = tuple(one + [-100] * (width - len(one)) for one in labels)
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in words])
        return BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(labels)})

    return of_rows(row, collate)


class Finetuned(Stepped):
    """What many start with: the model computes its own loss.

    Args:
        model: A model of Hugging Face.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def step(self, batch: Any) -> Tensor:
        outputs = self(**batch)
        self.log("val_loss", outputs.loss, batch_size=len(batch["labels"]))
        return outputs.loss


def alone(module: Any, batch: Any, row: int) -> Tensor:
    """Logits of one row by itself, without padding, mask and labels."""
    length = int(batch["attention_mask"][row].sum())
    return module.model(input_ids=batch["input_ids"][row : row + 1, :length]).logits[0]


def each_alone(module: Any, batch: Any) -> Tensor:
    return torch.stack([alone(module, batch, row) for row in range(len(batch["labels"]))])


def padded_logits(module: Any, batch: Any) -> Tensor:
    """Logits of tokens of rows by themselves, zeros where they are padded."""
    width = batch["input_ids"].shape[1]
    rows = [alone(module, batch, row) for row in range(len(batch["labels"]))]
    return torch.stack([F.pad(one, (0, 0, 0, width - len(one))) for one in rows])


@situation("sequence classification inside BERT")
def sequence_classification() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**TINY, num_labels=3))

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(each_alone(module, batch), batch["labels"])

    return Case(Finetuned(model), **sentences(0, lambda _words, i: i % 3), oracle=oracle)


@situation("logits of a transformer, the loss in the step, another padding id")
def other_padding() -> Case:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    class Module(Finetuned):
        def __init__(self) -> None:
            config = RobertaConfig(**TINY, num_labels=2, pad_token_id=1)
            super().__init__(RobertaForSequenceClassification(config))
            self.criterion = nn.CrossEntropyLoss()

        def step(self, batch: Any) -> Tensor:
            logits = self(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            return self.criterion(logits.view(-1, 2), batch["labels"].view(-1))

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(each_alone(module, batch), batch["labels"])

    return Case(Module(), **sentences(1, lambda _words, i: i % 2), oracle=oracle)


@situation("several labels inside DistilBERT")
def several_labels_of_text() -> Case:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=VOCABULARY, dim=8, n_layers=1, n_heads=2, hidden_dim=8, num_labels=4, max_position_embeddings=24,
        problem_type="multi_label_classification",
    )  # fmt: skip

    def label(_words: list[int], index: int) -> list[float]:
        return [float(index >> bit & 1) for bit in range(4)]

    def oracle(module: Any, batch: Any) -> Answer:
        return several_labels(each_alone(module, batch), batch["labels"])

    module = Finetuned(DistilBertForSequenceClassification(config))
    return Case(module, **sentences(0, label), oracle=oracle)


@situation("token classification inside BERT, -100 at padding")
def token_classification() -> Case:
    from transformers import BertConfig, BertForTokenClassification

    model = BertForTokenClassification(BertConfig(**TINY, num_labels=3))

    def label(words: list[int], _index: int) -> list[int]:
        return [-100, *(word % 3 for word in words[1:])]

    def oracle(module: Any, batch: Any) -> Answer:
        return tokens(padded_logits(module, batch), batch["labels"])

    def total(module: Any, batch: Any) -> Tensor:
        return mean_over_tokens(padded_logits(module, batch), batch["labels"])

    return Case(Finetuned(model), **sentences(0, label), oracle=oracle, step_loss=total, means_only=True)


@situation("causal language model inside GPT-2, -100 at padding")
def causal() -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=24, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)

    def shifted(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return padded_logits(module, batch)[:, :-1], batch["labels"][:, 1:]

    def oracle(module: Any, batch: Any) -> Answer:
        return tokens(*shifted(module, batch))

    def total(module: Any, batch: Any) -> Tensor:
        return mean_over_tokens(*shifted(module, batch))

    module = Finetuned(GPT2LMHeadModel(config))
    return Case(module, **sentences(0, lambda words, _i: list(words)), oracle=oracle, step_loss=total, means_only=True)


@situation("next tokens by hand, flattened with view(-1, V)")
def next_tokens() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(VOCABULARY, 6, padding_idx=0), nn.GRU(6, 6, batch_first=True)
            self.head = nn.Linear(6, VOCABULARY)

        def step(self, batch: Any) -> Tensor:
            ids = batch["input_ids"]
            logits = self.head(self.rnn(self.embed(ids[:, :-1]))[0])
            return F.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), ignore_index=0)

    def parts(module: Any, batch: Any) -> tuple[Tensor, Tensor, int]:
        ids = batch["input_ids"]
        return module.head(module.rnn(module.embed.weight[ids[:, :-1]])[0]), ids[:, 1:], 0

    return Case(
        Module(),
        **sentences(0, lambda _words, _i: 0),
        oracle=lambda m, b: tokens(*parts(m, b)),
        step_loss=lambda m, b: mean_over_tokens(*parts(m, b)),
        means_only=True,
    )


@situation("tags of words, time first and flattened")
def tags_time_first() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(VOCABULARY, 6), nn.GRU(6, 6), nn.Linear(6, 3)

        def step(self, batch: Any) -> Tensor:
            words, tags = batch
            logits = self.head(self.rnn(self.embed(words))[0])
            return F.cross_entropy(logits.view(-1, 3), tags.view(-1))

    def collate(rows: Any) -> Any:
        return tuple(torch.stack(part, dim=1) for part in zip(*rows, strict=True))

    def by_rows(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        words, tags = batch
        hidden = torch.stack([module.rnn(module.embed.weight[one][:, None])[0][:, 0] for one in words.unbind(1)])
        return module.head(hidden), tags.T

    def row(index: int) -> Any:
        words = integers(VOCABULARY, 5, seed=index)
        return words, words % 3

    return Case(Module(), **of_rows(row, collate), oracle=lambda m, b: tokens(*by_rows(m, b)))


@situation("bags of words with offsets")
def bags() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(VOCABULARY, 6), nn.Linear(6, 2)

        def step(self, batch: Any) -> Tensor:
            labels, words, offsets = batch
            return F.cross_entropy(self.head(self.bag(words, offsets)), labels)

    def collate(rows: Any) -> Any:
        words, labels = zip(*rows, strict=True)
        offsets = torch.tensor([0, *map(len, words[:-1])]).cumsum(0)
        return torch.tensor(labels), torch.cat(words), offsets

    row = lambda i: (integers(VOCABULARY, 3 + i % 3, seed=i), i % 2)  # noqa: E731
    # Words of all rows stand in one long tensor: no axis of it is a row, so nothing can be masked row by row.
    refusal = (ValueError,), "row"
    return Case(Module(), **of_rows(row, collate), oracle=lambda _m, _b: (None, None), step_loss=None, refused=refusal)


@situation("mean of embeddings over a mask, ids and mask apart")
def masked_embeddings() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.net = nn.Embedding(VOCABULARY, 6), nn.Linear(6, 3)

        def step(self, batch: Any) -> Tensor:
            ids, mask, y = batch["input_ids"], batch["attention_mask"].unsqueeze(-1), batch["labels"]
            return F.cross_entropy(self.net((self.embed(ids) * mask).sum(1) / mask.sum(1).clamp(min=1)), y)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.step(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.step(batch), batch_size=len(batch["labels"]))

    def logits(module: Any, batch: Any) -> Tensor:
        lengths = batch["attention_mask"].sum(1).tolist()
        rows = zip(batch["input_ids"], lengths, strict=True)
        return module.net(torch.stack([module.embed.weight[ids[:length]].mean(0) for ids, length in rows]))

    return Case(
        Module(),
        **sentences(0, lambda _words, i: i % 3),
        oracle=lambda m, b: classified(logits(m, b), b["labels"]),
        step_loss=lambda m, b: entropies(logits(m, b), b["labels"]).mean(),
    )
