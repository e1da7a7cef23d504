"""The module and the data of example 04 under a name that YAML can import."""

from importlib import import_module

__all__ = ["TweetData", "TweetNetwork"]

tweets = import_module("04_tweets")


class TweetData(tweets.TweetData):
    """2400 tweets to learn from, a fifth of them with wrong labels, and 1200 for validation.

    Args:
        seed: Seed of split and wrong labels.
        batch_size: Tweets in a training batch.
        vocabulary: Word pieces of the tokenizer, which is trained on the tweets.
    """

    def __init__(self, seed: int = 1, batch_size: int = 32, vocabulary: int = 2000) -> None:
        super().__init__(seed, batch_size, vocabulary)


class TweetNetwork(tweets.TweetNetwork):
    """A BERT of two layers that computes its loss itself, from labels in the batch.

    Args:
        vocabulary: Word pieces that it knows.
        width: Of its hidden states.
        learning_rate: Of AdamW.
    """

    def __init__(self, vocabulary: int = 2000, width: int = 64, learning_rate: float = 5e-4) -> None:
        super().__init__(vocabulary, width, learning_rate)
